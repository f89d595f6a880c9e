"""Loopback Hubs and three small maps that differ in every number."""

import pytest
import torch
from hub_client import contents
from hub_server import LoopbackHub

from corehead_hf import HeadMap

BASE, COMMIT = "owner/tiny-vl", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


def save_map(folder, number, layers=3, heads=4):
    """Writes a map of that many heads, as save_pretrained does; each number gives others."""
    random = torch.Generator().manual_seed(number)
    head_map = HeadMap(
        scores=torch.rand(layers, heads, generator=random),
        spread=torch.rand(layers, heads, generator=random) / 2,
        count=10 * number,
        base_model_name_or_path=BASE,
        base_model_revision=COMMIT,
        model_type="qwen3_vl",
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=2,
        head_dim=8,
        dataset=f"owner/boxes-v{number}",
        num_examples=10 * number,
        question_rule="tokens of the question's text",
        view_rule="every view",
        versions={"torch": "2.13.0", "transformers": "5.23.0", "corehead_hf": "0.1.0"},
    )
    head_map.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def maps(tmp_path_factory):
    """Name -> folder of a map of one base model: v1, v2, v3 of 3 layers x 4 heads, large of 128 x 128."""
    folder = tmp_path_factory.mktemp("maps")
    small = {f"v{number}": save_map(folder / f"v{number}", number) for number in (1, 2, 3)}
    return {**small, "large": save_map(folder / "large", 4, 128, 128)}


@pytest.fixture(scope="session")
def same(maps):
    """same(answer, name): fails unless a pulled map has the very numbers of maps[name]."""

    def check(answer, name):
        assert "error" not in answer, answer
        expected = contents(HeadMap.from_pretrained(maps[name]))
        told = ("source", "logged", "waited")
        assert {key: answer[key] for key in answer if key not in told} == {
            key: expected[key] for key in expected if key not in told
        }

    return check
