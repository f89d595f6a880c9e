"""The bars of the shipped models, on held-out examples, through the command a newcomer types."""

import json

import pytest

from corehead_hf import HeadMap, cli
from corehead_hf.demo import find_models

FAMILIES = ["internvl", "llava_onevision", "qwen3_vl"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert cli.main(["demo", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(out):
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_core_heads_carry_the_look_up(report, family):
    entry = report[family]
    assert entry["n"] >= 200
    assert entry["dense"] >= 0.95
    ablate, hybrid = entry["ablate"], entry["hybrid"]
    num_heads = sum(len(layer) for layer in entry["ram"])
    assert ablate["k"] <= 0.1 * num_heads and hybrid["keep"] <= 0.1 * num_heads
    assert ablate["top"] <= entry["dense"] - 0.40
    assert min(ablate["bottom"], *ablate["random_per_seed"]) >= entry["dense"] - 0.05
    assert hybrid["top"] >= entry["dense"] - 0.03
    assert max(hybrid["bottom"], *hybrid["random_per_seed"]) <= entry["dense"] - 0.40


GROUP_KEYS = {"top", "bottom", "random", "random_per_seed"}
KEYS = "dense ablate hybrid ram curve top_heads chance n sink_size window_size model versions"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_keeps_its_keys_and_agrees_with_itself(report, family):
    assert list(report) == FAMILIES
    entry = report[family]
    assert list(entry) == KEYS.split()
    assert set(entry["ablate"]) == GROUP_KEYS | {"k"} and set(entry["hybrid"]) == GROUP_KEYS | {"keep"}
    k, num_heads = entry["ablate"]["k"], sum(len(layer) for layer in entry["ram"])
    assert [point["k"] for point in entry["curve"]] == sorted({1, 2, k, num_heads // 10})
    assert entry["ablate"] in entry["curve"] and entry["hybrid"]["keep"] == k == len(entry["top_heads"])
    for point in (*entry["curve"], entry["hybrid"]):
        assert len(point["random_per_seed"]) == 2
        assert point["random"] == sum(point["random_per_seed"]) / 2
        for accuracy in (point["top"], point["bottom"], *point["random_per_seed"]):
            assert round(accuracy * entry["n"]) / entry["n"] == accuracy


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_head_map_ranks_the_same_top_heads(report, family):
    models = find_models()
    shipped = HeadMap.from_pretrained(models[family].parent / f"{models[family].name}-head-map")
    assert shipped.top(report[family]["ablate"]["k"]).nonzero().tolist() == report[family]["top_heads"]


def test_every_figure_is_written(out):
    image = pytest.importorskip("PIL.Image")
    for folder in (out, *(out / family for family in FAMILIES)):
        for name in ("head_heatmap.png", "ablation_curve.png", "attention_overlay.png"):
            with image.open(folder / name) as picture:
                low, high = picture.convert("L").getextrema()
                assert picture.width > 200 and high - low > 100, f"{folder.name}/{name} looks empty"
