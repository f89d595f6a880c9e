"""hub_artifacts/: each folder is a sound repository, on every supported transformers version."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging import version
from PIL import Image

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.data import glyphs
from corehead_hf.families import family_of

FOLDER = Path(__file__).resolve().parent.parent / "hub_artifacts"
MODELS = [FOLDER / name for name in ("glyphs-internvl", "glyphs-llava-onevision", "glyphs-qwen3-vl")]


@pytest.fixture(params=MODELS, ids=lambda path: path.name)
def folder(request):
    return request.param


def test_every_weight_finds_its_place(folder):
    model, info = AutoCoReModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.dtype == torch.bfloat16


def test_it_is_small_and_has_a_card(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert folder.name in card and "license: apache-2.0" in card
    assert json.loads((folder / "training.json").read_text(encoding="utf-8"))["curve"]


def test_its_head_map_fits(folder):
    model = AutoCoReModel.from_pretrained(folder, head_map=f"{folder}-head-map")
    assert model.head_map.base_model_name_or_path == folder.name
    assert model.head_map.num_examples >= 100


def test_its_weights_are_saved_again_to_the_same_bytes(folder, tmp_path):
    model = AutoCoReModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    again = AutoCoReModel.from_pretrained(tmp_path).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    if version.parse(transformers.__version__) >= version.parse("5.23"):  # up to 5.0 upstream writes other names
        assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_its_head_map_is_what_a_push_uploads(folder, tmp_path):
    shipped = folder.parent / f"{folder.name}-head-map"
    HeadMap.from_pretrained(shipped).save_pretrained(tmp_path, license="apache-2.0")
    files = {path.name: path.read_bytes() for path in shipped.iterdir()}
    assert files.keys() == {"README.md", "head_map.png", "head_map.safetensors", "head_map_config.json"}
    for name, data in files.items():
        if name != "head_map.png":  # whose letters depend on the version of matplotlib
            assert (tmp_path / name).read_bytes() == data, name
    old, new = (np.asarray(Image.open(path / "head_map.png").convert("RGB"), float) for path in (shipped, tmp_path))
    assert old.shape == new.shape and np.abs(old - new).mean() < 1  # of 255


def test_the_processor_makes_the_inputs_it_was_trained_on(folder, monkeypatch):
    """The training script packs pixels itself; the real processor must agree, and the prompt be the trained one."""
    monkeypatch.syspath_prepend(str(FOLDER.parent / "examples"))
    from glyphs_checkpoint import RECIPES, qwen_pixels

    model, processor = AutoCoReModel.from_pretrained(folder, dtype=torch.float32), load_processor(folder)
    recipe = RECIPES[model.config.model_type]
    example = next(glyphs.generate(1, seed=11, pages=3))
    prepared = family_of(model).prepare(processor, example)
    text = recipe.media_text(3, 4, 4) + example.question + recipe.end_of_user
    assert processor.tokenizer(text).input_ids == prepared.inputs["input_ids"][0].tolist()
    pixels = torch.stack([torch.from_numpy(image) for image in example.images])[None]
    pixels = pixels.float().permute(0, 1, 4, 2, 3) / 127.5 - 1
    if model.config.model_type == "qwen3_vl":
        packed = qwen_pixels(pixels)
    else:
        packed = recipe.pack(model, prepared.inputs["input_ids"], pixels)["pixel_values"]
    torch.testing.assert_close(prepared.inputs["pixel_values"], packed, atol=1e-5, rtol=0)
