"""HeadMap: picks counted by hand, files byte for byte, every hostile file refused for its reason."""

import copy
import hashlib
import json
import logging
import os
import pickle
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from corehead_hf.head_map import HeadMap, HeadMapFormatError, head_count
from corehead_hf.head_map.errors import HeadMapError, HeadMapNotFoundError
from corehead_hf.head_map.hub import HubOptions, cached_commit
from corehead_hf.head_map.publish import PushTarget
from corehead_hf.head_map.sums import RamSums

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG, TENSORS, CARD, PICTURE = "head_map_config.json", "head_map.safetensors", "README.md", "head_map.png"

# 3 layers x 4 heads with ties: 0.5 twice in layer 0, 0.4 twice in layer 2, 0.0 in layers 0, 1 and 2.
SCORES = [[0.1, 0.5, 0.5, 0.0], [0.2, 0.9, 0.0, 0.3], [0.4, 0.4, 1.0, 0.0]]
RANKED = [(2, 2), (1, 1), (0, 1), (0, 2), (2, 0), (2, 1), (1, 3), (1, 0), (0, 0), (0, 3), (1, 2), (2, 3)]


def fields(**changes):
    """Arguments of a valid 3 x 4 map."""
    return {
        "scores": SCORES,
        "spread": [[0.25] * 4] * 3,
        "count": 7,
        "base_model_name_or_path": "owner/tiny-vl",
        "base_model_revision": COMMIT,
        "model_type": "qwen3_vl",
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "dataset": "owner/boxes",
        "num_examples": 7,
        "question_rule": "tokens of the question's text",
        "view_rule": "every view",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "corehead_hf": "0.1.0"},
        **changes,
    }


def make_map(**changes):
    return HeadMap(**fields(**changes))


def places(heads):
    """Set of (layer, head) that are True."""
    assert heads.dtype == torch.bool
    return {(layer, head) for layer, head in heads.nonzero().tolist()}


# ---- values


def test_tensors_are_cpu_copies_of_the_stated_dtypes():
    given = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    counts = np.array([7, 5, 6], dtype=np.int32)
    head_map = make_map(scores=given, spread=np.zeros((3, 4)), count=counts)
    assert (head_map.scores.dtype, head_map.spread.dtype) == (torch.float32, torch.float32)
    assert head_map.count.dtype == torch.int64 and head_map.count.tolist() == [7, 5, 6]
    assert not head_map.scores.requires_grad and head_map.scores.is_contiguous()
    with torch.no_grad():
        given[0, 0] = 0.7
    counts[0] = 1
    assert head_map.scores[0, 0].item() == pytest.approx(0.1)
    assert head_map.count[0].item() == 7


def test_a_float32_input_is_copied_too():
    given = torch.tensor(SCORES)
    head_map = make_map(scores=given)
    given[0, 0] = 0.7
    assert head_map.scores[0, 0].item() == pytest.approx(0.1)


def test_transposed_scores_are_made_contiguous_so_that_they_can_be_saved(tmp_path):
    head_map = make_map(scores=torch.tensor(SCORES).T.contiguous().T)
    head_map.save_pretrained(tmp_path)
    assert torch.equal(HeadMap.from_pretrained(tmp_path).scores, torch.tensor(SCORES))


def test_count_is_one_number_when_layers_agree():
    assert make_map(count=7).count.tolist() == [7, 7, 7]
    assert make_map(count=7).uniform_count == 7
    assert make_map(count=[7, 7, 6]).uniform_count is None


def test_fields_cannot_be_reassigned_and_versions_are_a_copy():
    versions = fields()["versions"]
    head_map = make_map(versions=versions)
    versions["torch"] = "other"
    assert head_map.versions["torch"] == "2.13.0"
    with pytest.raises(AttributeError):
        head_map.num_layers = 4


def test_torch_version_becomes_a_plain_string():
    versions = make_map(versions={**fields()["versions"], "torch": torch.__version__}).versions
    assert type(versions["torch"]) is str and versions["torch"] == str(torch.__version__)


def test_repr_names_model_data_size_and_top_head():
    text = repr(make_map())
    for part in ("'owner/tiny-vl'", "'owner/boxes'", "7 examples", "3 layers x 4 heads", "layer 2 head 2"):
        assert part in text
    assert "1.0000" in text and len(text) < 200


def test_a_map_survives_pickle_and_deepcopy():
    for twin in (pickle.loads(pickle.dumps(make_map())), copy.deepcopy(make_map())):
        assert torch.equal(twin.scores, torch.tensor(SCORES)) and twin.base_model_revision == COMMIT


@pytest.mark.parametrize("name", sorted(fields()))
def test_no_field_has_a_default(name):
    given = fields()
    del given[name]
    with pytest.raises(TypeError, match=name):
        HeadMap(**given)


def with_score(value):
    return [[value, 0.5, 0.5, 0.0], *SCORES[1:]]


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"scores": with_score(float("nan"))}, ValueError, r"scores with nan at \[0, 0\].* 1 of its"),
        ({"scores": with_score(float("inf"))}, ValueError, r"scores with inf"),
        ({"scores": with_score(1.01)}, ValueError, r"scores with 1\.00999.*not in \[0, 1\]"),
        ({"scores": with_score(-0.1)}, ValueError, r"scores with -0\.1"),
        ({"scores": SCORES[:2]}, ValueError, r"scores of shape \[2, 4\].*\[3, 4\]"),
        ({"scores": torch.zeros(12)}, ValueError, r"scores of shape \[12\]"),
        ({"scores": torch.zeros(3, 4, dtype=torch.bool)}, TypeError, "scores was given as torch.bool"),
        ({"scores": torch.zeros(3, 4, dtype=torch.complex64)}, TypeError, "complex64"),
        ({"spread": [[-0.5] * 4] * 3}, ValueError, r"spread with -0\.5"),
        ({"spread": torch.zeros(4, 3)}, ValueError, r"spread of shape \[4, 3\]"),
        ({"count": 0}, ValueError, r"count with 0 at \[0\].*\[1, 7\]"),
        ({"count": [7, 8, 7]}, ValueError, r"count with 8 at \[1\]"),
        ({"count": [7, 7]}, ValueError, r"count of shape \[2\]"),
        ({"count": [7.0, 7.0, 7.0]}, TypeError, "count was given as torch.float64"),
        ({"count": True}, TypeError, "count was given as torch.bool"),
        ({"num_layers": 0}, ValueError, "num_layers=0"),
        ({"num_layers": 1025}, ValueError, r"num_layers=1025.*1\.\.1024"),
        ({"num_layers": 1024, "num_heads": 129}, ValueError, "132096 heads are more than a map may have"),
        ({"num_heads": True}, TypeError, "num_heads=True"),
        ({"head_dim": 8.0}, TypeError, r"head_dim=8\.0"),
        ({"num_kv_heads": 3}, ValueError, "num_kv_heads=3.*does not divide num_heads=4"),
        ({"num_kv_heads": 8}, ValueError, "num_kv_heads=8.*does not divide"),
        ({"num_examples": "7"}, TypeError, "num_examples='7'"),
        ({"base_model_revision": "main"}, ValueError, "base_model_revision='main'.*40"),
        ({"base_model_revision": COMMIT.upper()}, ValueError, "lower-case"),
        ({"base_model_revision": COMMIT + "\n"}, ValueError, "base_model_revision"),
        ({"base_model_name_or_path": Path("x")}, TypeError, "base_model_name_or_path"),
        ({"model_type": ""}, ValueError, "model_type='' was given - it is blank"),
        ({"dataset": " \n"}, ValueError, "dataset="),
        ({"question_rule": "x" * 1001}, ValueError, "question_rule=.*over 1000 characters"),
        ({"view_rule": "\ud800"}, ValueError, "view_rule=.*surrogate"),
        ({"versions": ["torch"]}, TypeError, "versions="),
        ({"versions": {"torch": "2"}}, ValueError, r"'corehead_hf', 'torch', 'transformers'"),
        ({"versions": {**fields()["versions"], "torch": 2}}, TypeError, r"versions\['torch'\]=2"),
        ({"versions": {**fields()["versions"], 5: "2"}}, TypeError, "a key of versions=5"),
        ({"versions": {**fields()["versions"], "cuda": "1" * 101}}, ValueError, "over 100 characters"),
        (
            {"versions": {**fields()["versions"], **{f"p{i}": "1" for i in range(30)}}},
            ValueError,
            "at most 32",
        ),
    ],
)
def test_wrong_fields_are_refused(changes, error, reason):
    with pytest.raises(error, match=reason):
        make_map(**changes)


# ---- ranking and picks


def test_ranking_is_best_first_and_ties_go_by_layer_then_head():
    ranking = make_map().ranking()
    assert ranking.dtype == torch.int64 and ranking.shape == (12, 2)
    assert [tuple(pair) for pair in ranking.tolist()] == RANKED


def test_negative_zero_ties_with_zero():
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.5]] + [[0.0] * 4] * 2)
    assert make_map(scores=scores).ranking()[:4].tolist() == [[0, 3], [0, 0], [0, 1], [0, 2]]


def test_a_map_of_one_value_is_ranked_in_reading_order():
    scores = torch.full((40, 64), 0.25)
    head_map = make_map(scores=scores, spread=scores, num_layers=40, num_heads=64)
    assert head_map.ranking().tolist() == [[layer, head] for layer in range(40) for head in range(64)]


def test_top_and_bottom_are_the_two_ends_of_the_ranking():
    head_map = make_map()
    assert places(head_map.top(3)) == {(2, 2), (1, 1), (0, 1)}
    assert places(head_map.bottom(2)) == {(1, 2), (2, 3)}
    # 0.25 of 12 heads is 3.
    assert places(head_map.top(0.25)) == {(2, 2), (1, 1), (0, 1)}
    assert places(head_map.bottom(0.25)) == {(0, 3), (1, 2), (2, 3)}
    assert places(head_map.top(1.0)) == places(head_map.bottom(12)) == set(RANKED)
    assert head_map.top(1).shape == (3, 4)


@pytest.mark.parametrize(
    ("keep", "layers", "heads", "count"),
    [
        (0.05, 6, 8, 2),  # 2.4
        (0.05, 36, 32, 58),  # 57.6
        (50, 36, 32, 50),
        (np.int64(50), 36, 32, 50),
        (0.125, 2, 2, 1),  # 0.5: halves go up
        (0.625, 2, 2, 3),  # 2.5
        (0.375, 2, 2, 2),  # 1.5
        (0.145, 10, 10, 15),  # 14.5 as printed; in binary 0.145 * 100 is 14.499999999999998
        (0.1249, 2, 4, 1),  # 0.9992
        (1.0, 36, 32, 1152),
        (1, 36, 32, 1),
        (1152, 36, 32, 1152),
        (np.float64(0.05), 36, 32, 58),
        (np.float32(0.5), 3, 4, 6),
    ],
)
def test_head_count(keep, layers, heads, count):
    result = head_count(keep, layers, heads)
    assert result == count and type(result) is int


@pytest.mark.parametrize(
    ("keep", "error", "reason"),
    [
        (True, TypeError, "keep=True.*bool"),
        (False, TypeError, "keep=False.*bool"),
        (np.bool_(True), TypeError, "bool"),
        ("0.05", TypeError, "keep='0.05'.*str"),
        (None, TypeError, "NoneType"),
        (torch.tensor(0.5), TypeError, "Tensor"),
        (1j, TypeError, "complex"),
        (0, ValueError, r"keep=0 of 36 layers x 32 heads.*count out of range.*1\.\.1152"),
        (-3, ValueError, "keep=-3"),
        (1153, ValueError, r"keep=1153.*1\.\.1152"),
        (0.0, ValueError, r"keep=0\.0.*share out of range"),
        (-0.05, ValueError, r"keep=-0\.05"),
        (1.5, ValueError, r"keep=1\.5.*\(0, 1\]"),
        (50.0, ValueError, r"keep=50\.0.*int"),
        (float("nan"), ValueError, "keep=nan"),
        (float("inf"), ValueError, "keep=inf"),
        (0.0004, ValueError, r"keep=0\.0004.*rounds to 0 of 1152"),  # 0.4608
    ],
)
def test_a_keep_that_stands_for_no_count_is_refused(keep, error, reason):
    with pytest.raises(error, match=reason):
        head_count(keep, 36, 32)


def test_picks_refuse_a_wrong_keep_too():
    for pick in (make_map().top, make_map().bottom, lambda keep: make_map().random(keep, 0)):
        with pytest.raises(ValueError, match="keep=13 of 3 layers x 4 heads"):
            pick(13)
        with pytest.raises(TypeError, match="keep=True"):
            pick(True)


# PCG64(0) as NumPy's raw stream gives it, one number per head in reading order, in units of 1e18:
#   11.74  4.97  0.75  0.30
#   15.00 16.83 11.19 13.45
#   10.02 17.24 15.04  0.05
# The expected heads below are the smallest of these, looked up by eye.
def test_random_is_frozen():
    assert places(make_map().random(4, 0)) == {(2, 3), (0, 3), (0, 2), (0, 1)}
    assert places(make_map().random(0.5, 0)) == {(2, 3), (0, 3), (0, 2), (0, 1), (2, 0), (1, 2)}


def test_random_never_draws_excluded_heads():
    head_map = make_map()
    top = head_map.top(4)  # (2, 2), (1, 1), (0, 1), (0, 2)
    assert places(head_map.random(4, 0, exclude=top)) == {(2, 3), (0, 3), (2, 0), (1, 2)}
    for seed in range(50):
        drawn = head_map.random(8, seed, exclude=top)
        assert drawn.sum() == 8 and not (drawn & top).any()


def test_layer_matched_random_draws_as_many_per_layer_as_exclude_has():
    head_map = make_map()
    top = head_map.top(4)  # 2 in layer 0, 1 in layer 1, 1 in layer 2
    drawn = head_map.random(4, 0, exclude=top, layer_matched=True)
    assert places(drawn) == {(0, 0), (0, 3), (1, 2), (2, 3)}
    for seed in range(20):
        drawn = head_map.random(4, seed, exclude=top, layer_matched=True)
        assert drawn.sum(dim=1).tolist() == [2, 1, 1] and not (drawn & top).any()


def test_random_depends_on_the_seed_alone():
    head_map = make_map()
    np.random.seed(5)
    torch.manual_seed(5)
    random.seed(5)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    first = head_map.random(4, 11)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()) == before
    assert torch.equal(first, head_map.random(4, 11))
    assert torch.equal(first, head_map.random(4, np.int64(11)))
    assert len({frozenset(places(head_map.random(4, seed))) for seed in range(10)}) > 5


def test_random_is_uniform_over_the_allowed_heads():
    head_map = make_map()
    drawn = sum(head_map.random(3, seed, exclude=head_map.top(3)).int() for seed in range(3000))
    free = drawn[~head_map.top(3)]
    # Each of the 9 free heads is drawn in a third of the 3000 runs; one sigma is 26.
    assert len(free) == 9 and free.sum() == 9000
    assert free.min() > 1000 - 5 * 26 and free.max() < 1000 + 5 * 26


def test_exclude_may_be_numpy_or_lists():
    head_map = make_map()
    top = head_map.top(4)
    for exclude in (top.numpy(), top.tolist()):
        assert torch.equal(head_map.random(4, 0, exclude=exclude), head_map.random(4, 0, exclude=top))


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"keep": 9, "exclude": 4}, ValueError, "9 random heads of the map.*only 8 are outside exclude"),
        ({"keep": 4, "layer_matched": True}, ValueError, "4 layer-matched heads.*exclude has 0"),
        ({"keep": 3, "exclude": 4, "layer_matched": True}, ValueError, "3 layer-matched.*exclude has 4"),
        # The top 5 have 2 + 1 + 2 heads; the top 7 have 2 + 2 + 3, and layer 2 has one other head.
        ({"keep": 7, "exclude": 7, "layer_matched": True}, ValueError, "3 random heads of layer 2.*only 1"),
        ({"keep": 4, "seed": -1}, ValueError, "non-negative"),
        ({"keep": 4, "seed": None}, TypeError, "NoneType"),
        ({"keep": 4, "seed": 0.5}, TypeError, "float"),
        (
            {"keep": 4, "exclude": torch.zeros(4, 3, dtype=torch.bool)},
            ValueError,
            r"exclude of shape \[4, 3\]",
        ),
        ({"keep": 4, "exclude": torch.zeros(3, 4)}, TypeError, "exclude was given as torch.float32"),
    ],
)
def test_random_refuses(arguments, error, reason):
    head_map = make_map()
    arguments = {"seed": 0, **arguments}
    if isinstance(arguments.get("exclude"), int):
        arguments["exclude"] = head_map.top(arguments["exclude"])
    with pytest.raises(error, match=reason):
        head_map.random(**arguments)


# ---- files


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_round_trip(tmp_path, caplog):
    saved = make_map(count=[7, 6, 5], base_model_revision=None, question_rule="été\n`x`")
    saved.save_pretrained(tmp_path / "new" / "folder")
    with caplog.at_level(logging.INFO, logger="corehead_hf.head_map"):
        loaded = HeadMap.from_pretrained(str(tmp_path / "new" / "folder"))
    assert "7 examples" in caplog.text and "owner/tiny-vl" in caplog.text
    for name in fields():
        before, after = getattr(saved, name), getattr(loaded, name)
        if isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype and torch.equal(before, after), name
        else:
            assert before == after and type(before) is type(after), name
    loaded.scores[0, 0] = 0.5  # not a view of read-only bytes


def test_the_largest_map_can_be_read_back(tmp_path):
    scores = torch.rand(1024, 128)
    texts = ("base_model_name_or_path", "model_type", "dataset", "question_rule", "view_rule")
    versions = {**fields()["versions"], **{"\x01" * 98 + f"{i:02}": "\x01" * 100 for i in range(29)}}
    changes = {name: "\x01" * 999 + "x" for name in texts}
    changes |= {"num_layers": 1024, "num_heads": 128, "num_kv_heads": 1, "versions": versions}
    make_map(scores=scores, spread=scores, **changes).save_pretrained(tmp_path)
    assert torch.equal(HeadMap.from_pretrained(tmp_path).scores, scores)


def test_exactly_these_files_with_the_stated_layout(tmp_path):
    make_map().save_pretrained(tmp_path)
    assert set(contents(tmp_path)) == {CONFIG, TENSORS, CARD, PICTURE}
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    expected = {name: value for name, value in fields().items() if name not in ("scores", "spread", "count")}
    expected |= {"format_version": 1, "corehead_version": "0.1.0"}
    expected["sha256"] = hashlib.sha256((tmp_path / TENSORS).read_bytes()).hexdigest()
    assert config == expected
    assert list(config) == sorted(config)
    with safe_open(tmp_path / TENSORS, "pt") as file:
        assert len(file.metadata() or {}) <= 1
        assert sorted(file.keys()) == ["count", "ram", "ram_std"]
        assert torch.equal(file.get_tensor("ram"), torch.tensor(SCORES))
        assert torch.equal(file.get_tensor("ram_std"), torch.full((3, 4), 0.25))
        assert torch.equal(file.get_tensor("count"), torch.tensor([7, 7, 7]))


def test_the_bytes_are_the_same_in_every_save_and_process(tmp_path):
    make_map().save_pretrained(tmp_path / "a")
    make_map().save_pretrained(tmp_path / "b")
    make_map().save_pretrained(tmp_path / "b")
    HeadMap.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "c")
    code = f"from corehead_hf.head_map import HeadMap; HeadMap(**{fields()!r}).save_pretrained('d')"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for other in "bcd":
        assert contents(tmp_path / "a") == contents(tmp_path / other), other


def test_the_order_of_versions_does_not_change_the_bytes(tmp_path):
    versions = fields()["versions"]
    make_map().save_pretrained(tmp_path / "a")
    make_map(versions=dict(reversed(versions.items()))).save_pretrained(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("death", [1, 2, 3, 4])
def test_a_save_that_dies_between_files_leaves_no_config_with_a_wrong_sha256(tmp_path, monkeypatch, death):
    make_map().save_pretrained(tmp_path)
    replaced = []

    def dying(source, target, replace=os.replace):
        replaced.append(target)
        if len(replaced) == death:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        make_map(spread=torch.zeros(3, 4)).save_pretrained(tmp_path)
    with pytest.raises(HeadMapFormatError, match="head_map_config.json was asked for - there is no such file"):
        HeadMap.from_pretrained(tmp_path)
    assert set(contents(tmp_path)) == {TENSORS, CARD, PICTURE}


def test_a_save_that_finds_the_disk_full_leaves_the_old_map(tmp_path, monkeypatch):
    make_map().save_pretrained(tmp_path)
    before = contents(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        make_map(spread=torch.zeros(3, 4)).save_pretrained(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["tiny-head-map", "a/b/c", "owner/a b", "owner/..", Path("owner/tiny-head-map")])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_without_asking(name, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(HeadMapNotFoundError, match="is not an existing folder, nor a Hub id") as refusal:
        HeadMap.from_pretrained(name)
    assert isinstance(refusal.value, FileNotFoundError) and isinstance(refusal.value, HeadMapError)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="not an existing folder"):
        HeadMap.from_pretrained(tmp_path / "file")


def test_the_source_is_known_and_not_saved(tmp_path):
    head_map = make_map()
    head_map.save_pretrained(tmp_path / "a")
    loaded = HeadMap.from_pretrained(tmp_path / "a")
    assert head_map.source is None and loaded.source == str(tmp_path / "a")
    assert copy.deepcopy(loaded).source == loaded.source
    loaded.save_pretrained(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_with_a_subfolder(tmp_path):
    make_map().save_pretrained(tmp_path / "boxes" / "small")
    loaded = HeadMap.from_pretrained(tmp_path, subfolder="boxes/small")
    assert torch.equal(loaded.scores, torch.tensor(SCORES)) and loaded.source == str(tmp_path / "boxes" / "small")
    with pytest.raises(HeadMapNotFoundError, match="no such folder"):
        HeadMap.from_pretrained(tmp_path, subfolder="pages")


@pytest.mark.parametrize("subfolder", ["..", "boxes/..", "/boxes", "boxes//small", "", ".", "a\\b", "a\nb", "`a`"])
def test_a_subfolder_leads_nowhere_else(tmp_path, subfolder):
    make_map().save_pretrained(tmp_path)
    (tmp_path / "boxes").mkdir()
    with pytest.raises(HeadMapNotFoundError, match="names no folder in a repository"):
        HeadMap.from_pretrained(tmp_path / "boxes", subfolder=subfolder)


def test_arguments_that_would_be_ignored_are_refused(tmp_path):
    make_map().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="revision='v1' of .* folders go before Hub ids"):
        HeadMap.from_pretrained(tmp_path, revision="v1")
    with pytest.raises(ValueError, match="force_download and local_files_only"):
        HeadMap.from_pretrained("owner/map", force_download=True, local_files_only=True)
    for changes, word in (({"revision": "dev"}, "revision='dev'"), ({"tags": ["v1"]}, "tags=")):
        with pytest.raises(ValueError, match=f"create_pr with {word}"):
            make_map().push_to_hub("owner/map", create_pr=True, **changes)
    with pytest.raises(TypeError, match="tags='v1'"):
        make_map().push_to_hub("owner/map", tags="v1")


# ---- imported scores


def test_a_score_rule_is_kept_and_shown(tmp_path):
    head_map = make_map(score_rule="DuoAttention gate")
    head_map.save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text("utf-8"))["score_rule"] == "DuoAttention gate"
    assert HeadMap.from_pretrained(tmp_path).score_rule == "DuoAttention gate"
    assert "imported score 1.0000" in repr(head_map) and "RAM" not in repr(head_map)
    assert make_map().score_rule is None


@pytest.mark.parametrize("rule", ["", " ", "x" * 1001, "\ud800"])
def test_a_score_rule_is_plain_text(rule):
    with pytest.raises(ValueError, match="score_rule="):
        make_map(score_rule=rule)
    with pytest.raises(TypeError, match="score_rule=5"):
        make_map(score_rule=5)


def test_sums_are_of_ram_alone():
    sums = RamSums.of(torch.tensor(SCORES), 0.25)
    given = {"spread": torch.zeros(3, 4), "count": 1, "num_examples": 1, "sums": sums}
    assert make_map(**given).chance == 0.25
    with pytest.raises(ValueError, match="score_rule='other' was given with sums"):
        make_map(**given, score_rule="other")


def test_a_hub_cache_snapshot_is_read_through_its_links(tmp_path):
    for sub in ("", "refcocog"):
        blobs, snapshot = (
            tmp_path / "models--o--m" / "blobs",
            tmp_path / "models--o--m" / "snapshots" / COMMIT,
        )
        (snapshot / sub).mkdir(parents=True, exist_ok=True)
        make_map().save_pretrained(blobs)
        for name in (CONFIG, TENSORS):
            target = os.path.relpath(blobs / name, snapshot / sub)
            (snapshot / sub / name).symlink_to(target)
        assert torch.equal(HeadMap.from_pretrained(snapshot / sub).scores, torch.tensor(SCORES))


def test_the_commit_of_a_model_is_that_of_its_cached_config(tmp_path, monkeypatch):
    repo = tmp_path / "models--owner--tiny-vl"
    for commit in (COMMIT, "f" * 40):
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "config.json").write_text("{}")
    for ref, commit in (("main", COMMIT), ("v1", "f" * 40)):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    assert cached_commit("owner/tiny-vl", cache_dir=tmp_path) == COMMIT
    assert (
        cached_commit("owner/tiny-vl", "v1", tmp_path) == cached_commit("owner/tiny-vl", "f" * 40, tmp_path) == "f" * 40
    )
    assert cached_commit("owner/tiny-vl", "v2", tmp_path) is cached_commit("owner/other", None, tmp_path) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny-vl").mkdir(parents=True)
    assert cached_commit("owner/tiny-vl", cache_dir=tmp_path) is None, "a folder goes before the Hub"


def test_a_token_is_never_shown():
    assert "hf_secret" not in repr(HubOptions(token="hf_secret")) + repr(PushTarget("owner/map", token="hf_secret"))


# ---- hostile files: each starts from a good map and changes one thing


def set_config(directory, **changes):
    config = json.loads((directory / CONFIG).read_text("utf-8")) | changes
    (directory / CONFIG).write_text(json.dumps(config), "utf-8")


def drop_key(directory, key):
    config = json.loads((directory / CONFIG).read_text("utf-8"))
    del config[key]
    (directory / CONFIG).write_text(json.dumps(config), "utf-8")


def edit_config(directory, old, new):
    text = (directory / CONFIG).read_text("utf-8")
    assert old in text
    (directory / CONFIG).write_text(text.replace(old, new), "utf-8")


def set_tensors(directory, raw):
    """Puts raw in place of the tensors, with its right sha256 in the config."""
    (directory / TENSORS).write_bytes(raw)
    set_config(directory, sha256=hashlib.sha256(raw).hexdigest())


def safetensors_file(padding=b"", **changes):
    """A safetensors file written by hand: name -> NumPy array; None leaves a tensor out."""
    arrays = {
        "ram": np.array(SCORES, dtype="<f4"),
        "ram_std": np.full((3, 4), 0.25, dtype="<f4"),
        "count": np.full(3, 7, dtype="<i8"),
        **changes,
    }
    codes = {"<f4": "F32", "<i8": "I64", "<f8": "F64", "<i4": "I32", "|u1": "U8"}
    header, data = {}, b""
    for name, array in arrays.items():
        if array is not None:
            end = len(data) + array.nbytes
            offsets = [len(data), end]
            header[name] = {
                "dtype": codes[array.dtype.str],
                "shape": list(array.shape),
                "data_offsets": offsets,
            }
            data += array.tobytes()
    return pack(json.dumps(header).encode() + padding, data)


def pack(header, data):
    return struct.pack("<Q", len(header)) + header + data


def scores_with(value):
    array = np.array(SCORES, dtype="<f4")
    array[1, 2] = value
    return array


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def put_pickle(directory):
    set_tensors(directory, pickle.dumps(Payload(str(directory / "executed"))))


def put_torch_file(directory):
    torch.save(Payload(str(directory / "executed")), directory / "x.pt")
    set_tensors(directory, (directory / "x.pt").read_bytes())


def put_pickle_config(directory):
    (directory / CONFIG).write_bytes(pickle.dumps(Payload(str(directory / "executed"))))


def pickle_beside_missing_tensors(directory):
    (directory / TENSORS).unlink()
    (directory / "head_map.bin").write_bytes(pickle.dumps(Payload(str(directory / "executed"))))


def truncate(directory):
    raw = (directory / TENSORS).read_bytes()
    (directory / TENSORS).write_bytes(raw[:-8])


def truncate_and_rehash(directory):
    set_tensors(directory, (directory / TENSORS).read_bytes()[:-8])


def flip_one_bit(directory):
    raw = bytearray((directory / TENSORS).read_bytes())
    raw[-1] ^= 1
    (directory / TENSORS).write_bytes(bytes(raw))


def make_sparse(name, size):
    def change(directory):
        with open(directory / name, "r+b") as file:
            file.truncate(size)

    return change


def elsewhere(name):
    def change(directory):
        target = directory.parent / f"{directory.name}-{name}"
        (directory / name).rename(target)
        (directory / name).symlink_to(target)

    return change


def as_folder(name):
    def change(directory):
        (directory / name).unlink()
        (directory / name).mkdir()

    return change


def as_fifo(directory):
    (directory / TENSORS).unlink()
    os.mkfifo(directory / TENSORS)


def dangling_cache_link(directory):
    (directory / CONFIG).unlink()
    (directory / CONFIG).symlink_to("../../blobs/missing")


def tensors(**changes):
    return lambda directory: set_tensors(directory, safetensors_file(**changes))


def raw(data):
    return lambda directory: set_tensors(directory, data)


def config(**changes):
    return lambda directory: set_config(directory, **changes)


def config_bytes(data):
    return lambda directory: (directory / CONFIG).write_bytes(data)


def config_text(old, new):
    return lambda directory: edit_config(directory, old, new)


def without(name):
    return lambda directory: (directory / name).unlink()


OVERLAP = {
    "ram": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
    "ram_std": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
    "count": {"dtype": "I64", "shape": [3], "data_offsets": [48, 72]},
}

OVERFLOW = {name: {**entry, "shape": [2**62, 2**62]} for name, entry in OVERLAP.items()}

HOSTILE = {
    # the files themselves
    "no config": (without(CONFIG), "head_map_config.json was asked for - there is no such file"),
    "no tensors": (without(TENSORS), "head_map.safetensors was asked for - there is no such file"),
    "config is a folder": (as_folder(CONFIG), "head_map_config.json .* not a regular file"),
    "tensors are a folder": (as_folder(TENSORS), "head_map.safetensors .* not a regular file"),
    "tensors are a FIFO": (as_fifo, "not a regular file"),
    "config is a symlink": (elsewhere(CONFIG), "head_map_config.json .* symlink"),
    "tensors are a symlink": (elsewhere(TENSORS), "head_map.safetensors .* symlink"),
    "config is a dangling link": (dangling_cache_link, "symlink"),
    "config too large": (make_sparse(CONFIG, 2**20 + 1), "head_map_config.json .* larger than the 1048576"),
    "tensors too large": (
        make_sparse(TENSORS, 2**23 + 1),
        "head_map.safetensors .* larger than the 8388608",
    ),
    # sha256
    "truncated": (truncate, "truncated, altered"),
    "one bit": (flip_one_bit, "truncated, altered"),
    "wrong sha256": (config(sha256="0" * 64), "sha256 '0000.* it has sha256 "),
    "sha256 in capitals": (config(sha256="A" * 64), "it has sha256"),
    "sha256 is a number": (config(sha256=5), "sha256 in head_map_config.json .* not a string"),
    # tensors, sha256 right
    "truncated, rehashed": (truncate_and_rehash, "not a safetensors file"),
    "empty": (raw(b""), "a header of 0 bytes in a file of 0"),
    "header longer than file": (raw(struct.pack("<Q", 2**63) + b"{}"), "a header of 9223372036854775808"),
    "oversized header": (tensors(padding=b" " * 70000), "at most 65536"),
    "header is not JSON": (raw(pack(b"\x80\x04", b"")), "not a safetensors file"),
    "overlapping tensors": (raw(pack(json.dumps(OVERLAP).encode(), bytes(72))), "not a safetensors file"),
    "overflowing shape": (raw(pack(json.dumps(OVERFLOW).encode(), bytes(72))), "not a safetensors file"),
    "trailing bytes": (raw(safetensors_file() + b"\0"), "not a safetensors file"),
    "swapped dtype": (tensors(count=np.full(3, 7.0, dtype="<f8")), r"count as I64 \[3\] .* it is F64"),
    "doubles": (tensors(ram=np.array(SCORES, dtype="<f8")), "ram as F32 .* it is F64"),
    "extra tensor": (tensors(more=np.zeros(1, "<f4")), "its tensors are 'count', 'more', 'ram', 'ram_std'"),
    "path as name": (tensors(**{"../../x": np.zeros(1, "<f4")}), "its tensors are '../../x'"),
    "missing tensor": (tensors(ram_std=None), "its tensors are 'count', 'ram'"),
    "transposed": (tensors(ram=np.zeros((4, 3), "<f4")), r"ram as F32 \[3, 4\] .* it is F32 \[4, 3\]"),
    "count too long": (tensors(count=np.full(4, 7, "<i8")), r"count as I64 \[3\] .* it is I64 \[4\]"),
    "NaN": (tensors(ram=scores_with(np.nan)), r"scores with nan at \[1, 2\]"),
    "infinite": (tensors(ram=scores_with(np.inf)), "scores with inf"),
    "above one": (tensors(ram=scores_with(1.5)), "scores with 1.5"),
    "below zero": (tensors(ram=scores_with(-0.5)), "scores with -0.5"),
    "spread NaN": (tensors(ram_std=scores_with(np.nan)), "spread with nan"),
    "spread below zero": (tensors(ram_std=scores_with(-0.5)), "spread with -0.5"),
    "count zero": (tensors(count=np.zeros(3, "<i8")), "count with 0"),
    "count above the examples": (tensors(count=np.full(3, 8, "<i8")), "count with 8"),
    # pickles
    "pickled tensors": (put_pickle, "a header of "),
    "torch.save": (put_torch_file, "a header of "),
    "pickled config": (put_pickle_config, "not strict JSON"),
    "pickle beside": (pickle_beside_missing_tensors, "head_map.safetensors was asked for - there is no such"),
    # JSON
    "not UTF-8": (config_bytes(b'{"\xff": 1}'), "not strict JSON"),
    "BOM": (config_bytes(b"\xef\xbb\xbf{}"), "not strict JSON"),
    "empty config": (config_bytes(b""), "not strict JSON"),
    "cut config": (config_bytes(b'{"format_version": 1'), "not strict JSON"),
    "a list": (config_bytes(b"[]"), "JSON list, not an object"),
    "duplicate key": (
        config_text('"head_dim": 8', '"head_dim": 9, "head_dim": 8'),
        "duplicate key 'head_dim'",
    ),
    "duplicate nested key": (config_text('"torch"', '"torch": "1", "torch"'), "duplicate key 'torch'"),
    "NaN in JSON": (config_text('"head_dim": 8', '"head_dim": NaN'), "NaN is not JSON"),
    "Infinity in JSON": (config_text('"head_dim": 8', '"head_dim": -Infinity'), "Infinity is not JSON"),
    "1e999": (config_text('"head_dim": 8', '"head_dim": 1e999'), "head_dim=inf was given - it is not an int"),
    "5000 digits": (config_text('"head_dim": 8', '"head_dim": 8' + "0" * 5000), "integer of 5001 characters"),
    "deep list": (config_bytes(b"[" * 200000), "nested too deeply"),
    "deep object": (config_bytes(b'{"a":' * 50000), "nested too deeply"),
    # config values
    "newer format": (
        config(format_version=2, new=1.5),
        "format_version 2, .* reads format_version 1 - upgrade",
    ),
    "format zero": (config(format_version=0), "format_version .* 0 is not a positive integer"),
    "format true": (config(format_version=True), "True is not a positive integer"),
    "format as text": (config(format_version="1"), "'1' is not a positive integer"),
    "no format": (lambda directory: drop_key(directory, "format_version"), "None is not a positive integer"),
    "extra key": (config(auto_map={"a": "evil.py"}), "unknown keys: 'auto_map'"),
    "missing key": (lambda directory: drop_key(directory, "view_rule"), "missing keys .*: 'view_rule'"),
    "version is a number": (config(corehead_version=1), "corehead_version .* not a string"),
    "layers disagree": (config(num_layers=2), r"ram as F32 \[2, 4\] .* it is F32 \[3, 4\]"),
    "layers as text": (config(num_layers="3"), r"\['3', 4\]"),
    "layers as float": (config(num_layers=3.0), "num_layers=3.0 was given - it is not an int"),
    "true as a number": (config(num_examples=True), "num_examples=True"),
    "huge head_dim": (config(head_dim=10**17), "head_dim=100000000000000000"),
    "kv heads do not divide": (config(num_kv_heads=3), "does not divide"),
    "branch as revision": (config(base_model_revision="main"), "base_model_revision='main'"),
    "model name is a list": (config(base_model_name_or_path=["a"]), "base_model_name_or_path"),
    "surrogate": (config(dataset="\ud800"), "surrogate"),
    "endless text": (config(dataset="x" * 5000), "over 1000 characters"),
    "versions is a list": (config(versions=["torch"]), "no mapping"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_for_their_reason(tmp_path, case):
    directory = tmp_path / "map"
    make_map().save_pretrained(directory)
    HeadMap.from_pretrained(directory)
    change, reason = HOSTILE[case]
    change(directory)
    with pytest.raises(HeadMapFormatError, match=reason) as refusal:
        HeadMap.from_pretrained(directory)
    assert isinstance(refusal.value, ValueError) and len(str(refusal.value)) < 1000
    assert not (directory / "executed").exists()


def test_the_payload_of_the_pickle_cases_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "executed")))).close()
    assert (tmp_path / "executed").exists()


def test_a_hand_written_file_is_read(tmp_path):
    make_map().save_pretrained(tmp_path)
    set_tensors(tmp_path, safetensors_file())
    assert torch.equal(HeadMap.from_pretrained(tmp_path).scores, torch.tensor(SCORES))


# ---- check_fits

QWEN_TEXT = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "vocab_size": 128,
}


def model(kind, name="owner/tiny-vl", **changes):
    import transformers

    text = {**QWEN_TEXT, **changes}
    if kind == "qwen3_vl":
        config = transformers.Qwen3VLConfig(text_config={"head_dim": 8, **text})
    elif kind == "llava_onevision":
        config = transformers.LlavaOnevisionConfig(text_config=transformers.Qwen2Config(**text))
    else:
        config = transformers.InternVLConfig(text_config=transformers.Qwen3Config(**{"head_dim": 8, **text}))
    config._name_or_path = name
    return SimpleNamespace(config=config)


@pytest.mark.parametrize(
    ("kind", "head_dim"),
    [("qwen3_vl", 8), ("llava_onevision", 16), ("internvl", 8)],  # Qwen2 has no head_dim: 64 / 4
)
def test_a_model_of_the_measured_shape_fits_without_a_word(kind, head_dim, caplog):
    assert make_map(model_type=kind, head_dim=head_dim).check_fits(model(kind)) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"num_hidden_layers": 2}, "num_layers: map has 3 / model has 2"),
        ({"num_attention_heads": 8}, "num_heads: map has 4 / model has 8"),
        ({"num_key_value_heads": 4}, "num_kv_heads: map has 2 / model has 4"),
        ({"head_dim": 16}, "head_dim: map has 8 / model has 16"),
    ],
)
def test_one_difference_is_refused_and_named_alone(changes, difference):
    with pytest.raises(ValueError, match=re.escape(difference)) as refusal:
        make_map().check_fits(model("qwen3_vl", **changes))
    assert str(refusal.value).count("map has") == 1
    assert "'owner/tiny-vl'" in str(refusal.value)


def test_all_differences_are_listed():
    with pytest.raises(ValueError) as refusal:
        make_map(num_kv_heads=1).check_fits(model("llava_onevision", num_hidden_layers=5, num_attention_heads=2))
    expected = [
        "model_type: map has 'qwen3_vl' / model has 'llava_onevision'",
        "num_layers: map has 3 / model has 5",
        "num_heads: map has 4 / model has 2",
        "num_kv_heads: map has 1 / model has 2",
        "head_dim: map has 8 / model has 32",
    ]
    assert "; ".join(expected) in str(refusal.value)


def test_absent_kv_heads_and_head_dim_fall_back():
    text = SimpleNamespace(num_hidden_layers=3, num_attention_heads=4, hidden_size=32, head_dim=None)
    config = SimpleNamespace(model_type="x", get_text_config=lambda: text, _name_or_path="owner/tiny-vl")
    make_map(model_type="x", num_kv_heads=4, head_dim=8).check_fits(SimpleNamespace(config=config))


def test_a_config_without_heads_is_refused_not_crashed_on():
    config = SimpleNamespace(model_type="qwen3_vl", get_text_config=lambda: SimpleNamespace())
    with pytest.raises(ValueError, match="num_heads: map has 4 / model has None"):
        make_map().check_fits(SimpleNamespace(config=config))


def test_another_name_is_warned_about_once(caplog):
    head_map = make_map()
    for _ in range(3):
        head_map.check_fits(model("qwen3_vl", name="me/my-fine-tune"))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "me/my-fine-tune" in warnings[0].getMessage() and "owner/tiny-vl" in warnings[0].getMessage()
