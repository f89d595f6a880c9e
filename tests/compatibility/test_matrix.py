"""COMPATIBILITY.md says what the marked tests found, on every version, and nothing else."""

import json
import re
from pathlib import Path

import pytest
import render
from compatibility_matrix import CELLS, OLDER, is_a_test

ROOT = Path(__file__).resolve().parents[2]
FOUND = render.versions()


def test_the_document_is_made_of_the_cells():
    assert (ROOT / "COMPATIBILITY.md").read_text(encoding="utf-8") == render.document(FOUND), "run render.py"


def test_the_readmes_section_is_made_of_the_cells():
    assert render.summary(FOUND) in (ROOT / "README.md").read_text(encoding="utf-8"), "run render.py"


def test_there_are_three_versions_and_every_cell_has_its_test():
    assert len(FOUND) == 3 and set(OLDER) < set(FOUND)
    gone = [name for cells in FOUND.values() for name in cells if not is_a_test(name)]
    assert not gone, "tests that are gone; run pytest --write-compatibility"


@pytest.mark.parametrize("version", FOUND)
def test_every_marked_test_was_run_on_every_version(version):
    newest = json.loads((CELLS / "newest.json").read_text(encoding="utf-8"))["cells"]
    assert set(FOUND[version]) == set(newest)


def test_a_feature_is_as_good_as_its_weakest_test():
    works = {"section": "Caches", "feature": "offloaded cache", "family": "InternVL", "status": "works"}
    refused = {**works, "status": "refused", "why": "ValueError: no."}
    cells = {"1.0": {"a": works, "b": refused, "c": {**works, "family": "Qwen3-VL"}}}
    text = render.document(cells)
    assert "| offloaded cache | yes | – | no [1] |" in text and "1. `ValueError: no.`" in text
    assert "offloaded cache (refused)" in render.summary(cells)
    assert "**Caches**: offloaded cache." in render.summary({"1.0": {"a": works}})


def test_what_people_ask_for_has_a_row():
    """The list of issue F."""
    features = " ".join(entry["feature"].lower() for cells in FOUND.values() for entry in cells.values())
    for asked in (
        "greedy sampling beam assisted lookup dynamiccache staticcache quantizedcache offloaded turns chunked "
        "left-padded right inputs_embeds video sdpa eager flex flash_attention_2 flash_attention_3 float32 bfloat16 "
        "float16 cpu disk torchrun tensor compile checkpointing lora merged bitsandbytes torchao pipeline trainer "
        "deepcopy save_pretrained shard two threads eval resize moe"
    ).split():
        assert re.search(asked, features), f"no row for {asked}"
