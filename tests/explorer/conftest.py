"""A page of the shipped Qwen3-VL, measured once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.data.glyphs import generate

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"


@pytest.fixture(scope="session")
def shipped():
    """A shipped model with its processor, head map, and an example of six pages."""
    folder = HUB / "glyphs-qwen3-vl"
    return SimpleNamespace(
        model=AutoCoReModel.from_pretrained(folder, dtype=torch.float32),
        processor=load_processor(folder),
        head_map=HeadMap.from_pretrained(f"{folder}-head-map"),
        example=next(generate(1, seed=5, pages=6)),
    )


@pytest.fixture(scope="session")
def scene(shipped):
    from corehead_hf.explorer import scene_of

    return scene_of(shipped.model, shipped.processor, shipped.example, shipped.head_map, dataset="glyphs")


@pytest.fixture(scope="session")
def page(scene):
    from corehead_hf.explorer import page_of

    return page_of(scene)
