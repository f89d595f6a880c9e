"""Maps with sums: merging is exact, files keep them, and sums that contradict a map are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_head_map import CONFIG, TENSORS, fields, set_config, set_tensors
from test_head_map_sums import drawn, summed

from corehead_hf import HeadMap, HeadMapFormatError
from corehead_hf.head_map.sums import RamSums

RAM, CHANCE = drawn(30, seed=3)


def map_of(first, last, **changes):
    """The map of some of thirty drawn examples, 2 x 3 heads."""
    number = last - first
    sums = summed(RAM[first:last], CHANCE[first:last])
    scores, spread = sums.moments(torch.tensor([number] * 2))
    given = fields(scores=scores, spread=spread, count=number, num_examples=number, num_layers=2, num_heads=3)
    return HeadMap(**{**given, "num_kv_heads": 3, "sums": sums, "num_skipped": 1, **changes})


def same_numbers(a, b):
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("scores", "spread", "count"))
    return tensors and a.sums.equal(b.sums) and a.chance == b.chance and a.num_examples == b.num_examples


def test_the_merge_of_parts_is_the_map_of_the_whole_to_the_bit():
    whole, (a, b, c) = map_of(0, 30), (map_of(0, 7), map_of(7, 8), map_of(8, 30))
    for parts in ([a, b, c], [c, a, b], [HeadMap.merge([a, b]), c], [a, HeadMap.merge([c, b])]):
        assert same_numbers(HeadMap.merge(parts), whole)
    assert same_numbers(HeadMap.merge([whole]), whole)
    assert not same_numbers(HeadMap.merge([a, c]), whole)


def test_a_merged_map_says_what_it_is_made_of(tmp_path):
    a, b = map_of(0, 10, dataset="owner/boxes"), map_of(10, 20, dataset="videos", num_skipped=4)
    c = map_of(20, 30, dataset="owner/boxes", versions={**fields()["versions"], "torch": "2.14.0"})
    merged = HeadMap.merge([HeadMap.merge([a, b]), c])
    assert merged.dataset == "owner/boxes + videos" and merged.num_skipped == 6 and merged.convergence is None
    assert merged.versions["torch"] == "2.13.0 | 2.14.0" and merged.versions["transformers"] == "5.23.0"
    part = {"dataset": "owner/boxes", "num_examples": 10, "num_skipped": 1}
    assert merged.parts == (part, {"dataset": "videos", "num_examples": 10, "num_skipped": 4}, part)
    merged.save_pretrained(tmp_path)
    again = HeadMap.from_pretrained(tmp_path)
    assert same_numbers(again, merged) and again.parts == merged.parts
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert '\ndatasets:\n- "owner/boxes"\ntags:' in card
    assert "- parts: `10 of owner/boxes; 10 of videos; 10 of owner/boxes`" in card
    assert HeadMap.merge([a, map_of(10, 20, num_skipped=None)]).num_skipped is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("base_model_name_or_path", "owner/other"),
        ("base_model_revision", None),
        ("model_type", "internvl"),
        ("num_kv_heads", 1),
        ("head_dim", 16),
        ("question_rule", "the last ten tokens"),
        ("view_rule", "hires"),
    ],
)
def test_maps_of_other_models_or_rules_do_not_merge(name, value):
    with pytest.raises(ValueError, match=f"maps 0 and 1 were asked to merge - {name}: .* one model and one rule"):
        HeadMap.merge([map_of(0, 10), map_of(10, 20, **{name: value})])


def test_what_else_does_not_merge():
    with pytest.raises(ValueError, match="no head maps"):
        HeadMap.merge([])
    with pytest.raises(ValueError, match="map 1, of 'owner/boxes', .* keeps no sums"):
        HeadMap.merge([map_of(0, 10), map_of(10, 20, sums=None)])
    with pytest.raises(ValueError, match="maps 0 and 2 .* count twice"):
        HeadMap.merge([map_of(0, 10), map_of(10, 20), map_of(0, 10)])


def test_chance_and_lift():
    head_map = map_of(0, 16)
    assert head_map.chance == pytest.approx(sum(CHANCE[:16]) / 16, abs=1e-15)
    torch.testing.assert_close(head_map.lift, head_map.scores / head_map.chance)
    without = map_of(0, 16, sums=None)
    assert without.chance is None
    with pytest.raises(ValueError, match="its chance level is unknown"):
        without.lift  # noqa: B018


def test_the_optional_fields_come_back_and_are_left_out_where_unknown(tmp_path):
    curve = ((16, 0.5), (30, 1.0))
    head_map = map_of(0, 30, convergence=curve, num_skipped=0)
    head_map.save_pretrained(tmp_path / "with")
    again = HeadMap.from_pretrained(tmp_path / "with")
    assert same_numbers(again, head_map) and again.convergence == curve and again.num_skipped == 0
    assert again.parts is None
    config = json.loads((tmp_path / "with" / CONFIG).read_text("utf-8"))
    assert config["convergence"] == [[16, 0.5], [30, 1.0]] and config["num_skipped"] == 0 and "parts" not in config
    tensors = load_file(tmp_path / "with" / TENSORS)
    assert {name: list(tensor.shape) for name, tensor in tensors.items() if name.endswith("sum")} == {
        "ram_sum": [2, 2, 3],
        "ram_square_sum": [2, 2, 3],
        "chance_sum": [2],
    }
    card = (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    top = head_map.ranking()[0].tolist()
    assert "| rank | layer | head | RAM | std over examples | lift |" in card
    assert f"| 1 | {top[0]} | {top[1]} |" in card and f" {float(head_map.lift[tuple(top)]):.1f} |" in card
    assert f"- chance: `{head_map.chance:.6f}, " in card
    assert "- convergence: `Spearman 1.0000 between the rankings of 30 and 15 examples`" in card
    map_of(0, 30, sums=None, num_skipped=None).save_pretrained(tmp_path / "without")
    assert sorted(load_file(tmp_path / "without" / TENSORS)) == ["count", "ram", "ram_std"]
    again = HeadMap.from_pretrained(tmp_path / "without")
    assert again.sums is again.num_skipped is again.convergence is again.parts is None


def shifted(name, place):
    sums = summed(RAM, CHANCE)
    tensor = {"ram_sum": sums.ram, "ram_square_sum": sums.squares}[name]
    tensor[place] += 1 << 30
    return sums


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"sums": shifted("ram_sum", (0, 1, 2))}, "not the map's scores and spread"),
        ({"sums": shifted("ram_square_sum", (0, 0, 0))}, "not the map's scores and spread"),
        ({"sums": replace(summed(RAM, CHANCE), chance=torch.zeros(2, dtype=torch.int64))}, "mean chance level is not"),
        ({"sums": replace(summed(RAM, CHANCE), chance=torch.tensor([31 << 40, 0]))}, "mean chance level is not"),
        ({"sums": replace(summed(RAM, CHANCE), ram=torch.full((2, 2, 3), -1))}, "ram_sum with -1"),
        ({"sums": replace(summed(RAM, CHANCE), ram=torch.full((2, 2, 3), 2**62))}, "ram_sum with 4611686018427387904"),
        ({"sums": replace(summed(RAM, CHANCE), squares=torch.zeros(2, 3, 2, dtype=torch.int64))}, "of shape"),
        ({"num_skipped": -1}, "num_skipped=-1"),
        ({"num_skipped": True}, "num_skipped=True"),
        ({"convergence": [[16, 0.5], [16, 0.6]]}, r"convergence with \[16, 0.6\]"),
        ({"convergence": [[31, 0.5]]}, "convergence with"),
        ({"convergence": [[16, 1.5]]}, "convergence with"),
        ({"convergence": [[16, float("nan")]]}, "convergence with"),
        ({"convergence": [16]}, "convergence with 16"),
        ({"convergence": {"16": 0.5}}, "no list of at most 1000"),
        ({"convergence": [[i, 0.5] for i in range(1, 1002)]}, "no list of at most 1000"),
        ({"parts": [{"dataset": "a", "num_examples": 29, "num_skipped": 0}]}, "parts of 29 examples"),
        ({"parts": [{"dataset": "a", "num_examples": 30}]}, "a part has dataset, num_examples, num_skipped"),
        ({"parts": [{"dataset": "", "num_examples": 30, "num_skipped": 0}]}, "dataset of a part"),
        ({"parts": [{"dataset": "a", "num_examples": 30, "num_skipped": "0"}]}, "no sound ints"),
    ],
)
def test_wrong_optional_fields_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        map_of(0, 30, **changes)


def test_more_examples_than_the_sums_hold_are_refused():
    with pytest.raises(ValueError, match="exact up to 2097152"):
        map_of(0, 30, num_examples=(1 << 21) + 1)


def rewritten(directory, **changes):
    from safetensors.numpy import save
    from safetensors.torch import load_file

    arrays = {name: tensor.numpy() for name, tensor in load_file(directory / TENSORS).items()} | changes
    set_tensors(directory, save({name: array for name, array in arrays.items() if array is not None}))


HOSTILE = {
    "half of the sums": (lambda d: rewritten(d, chance_sum=None), "its tensors are .*'chance_sum'"),
    "sums as doubles": (lambda d: rewritten(d, ram_sum=np.zeros((2, 2, 3))), "ram_sum as I64 .* it is F64"),
    "sums of another shape": (lambda d: rewritten(d, ram_sum=np.zeros((2, 3, 2), "<i8")), r"I64 \[2, 2, 3\]"),
    "other sums": (lambda d: rewritten(d, ram_sum=np.zeros((2, 2, 3), "<i8")), "not the map's scores and spread"),
    "huge sums": (lambda d: rewritten(d, ram_sum=np.full((2, 2, 3), 2**63 - 1, "<i8")), "ram_sum with 9223372"),
    "curve of text": (lambda d: set_config(d, convergence="up"), "no list of at most 1000"),
    "skipped as text": (lambda d: set_config(d, num_skipped="0"), "num_skipped='0'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_for_their_reason(tmp_path, case):
    map_of(0, 30).save_pretrained(tmp_path)
    HeadMap.from_pretrained(tmp_path)
    change, reason = HOSTILE[case]
    change(tmp_path)
    with pytest.raises(HeadMapFormatError, match=reason):
        HeadMap.from_pretrained(tmp_path)


def test_the_largest_map_with_sums_can_be_read_back(tmp_path):
    ram = torch.rand(1024, 128, generator=torch.Generator().manual_seed(0))
    sums = RamSums.of(ram, 0.5)
    given = fields(scores=ram, spread=torch.zeros_like(ram), count=1, num_examples=1, num_layers=1024, num_heads=128)
    HeadMap(**{**given, "num_kv_heads": 1, "sums": sums}).save_pretrained(tmp_path)
    assert HeadMap.from_pretrained(tmp_path).sums.equal(sums)
