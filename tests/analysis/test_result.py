"""Saving and reading studies: the exact inverse, strict JSON, whole or not at all, nothing malformed accepted."""

import inspect
import json
import sys
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from corehead_hf import __version__, analysis
from corehead_hf.analysis import Estimate, KeyTokenStudy, Result, Stability, VisionHeads
from corehead_hf.analysis.result import _CLASS_OF

RNG = np.random.default_rng(0)
GROUPS = ("top", "bottom", "random")


def random_stability():
    masks = RNG.random((3, 2, 4)) < 0.5
    pair = RNG.random((3, 3))
    return Stability(
        model="m", names=("a", "b", "ç"), num_examples=(3, 1, 2), share=0.05,
        scores=RNG.random((3, 2, 4)) / 3, spearman=pair, spearman_low=pair / 3,
        spearman_high=pair / 0.7, thresholds=RNG.random(3), masks=masks, counts=masks.sum(axis=0),
        universal=((0, 1), (1, 3)), universal_low=0, universal_high=4, frequency=RNG.random((2, 4)), chance=1 / 3,
    )  # fmt: skip


def random_study():
    def some():
        return Estimate(*RNG.random(3).tolist())

    return KeyTokenStudy(
        model="m", dataset="d", num_examples=3, num_heads=8, k=2, ratio={g: some() for g in GROUPS},
        hit_rate={g: some() for g in GROUPS}, ratio_chance=0.1, hit_chance=1e-300, group_sizes=(1, 5),
        coverage={g: (some(), some()) for g in GROUPS}, coverage_chance=(0.1, 0.2),
    )  # fmt: skip


def random_vision_heads(**changes):
    values = {
        "model": "m", "dataset": "d", "share": 0.25, "core": RNG.random((2, 4)), "vision": RNG.random((2, 4)),
        "shared": (), "count": 2, "overlap": 0, "jaccard": 0.0, "expected": 0.5, "p_value": 1.0, "spearman": -0.25,
    }  # fmt: skip
    return VisionHeads(**{**values, **changes})


def assert_same(first, second):
    assert type(first) is type(second)
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        else:
            assert one == other and type(one) is type(other), field.name


BUILDERS = {"stability": random_stability, "key_tokens": random_study, "vision_heads": random_vision_heads}


@pytest.mark.parametrize("kind", BUILDERS)
def test_loading_is_the_exact_inverse_of_saving(kind, tmp_path):
    result = BUILDERS[kind]()
    result.save(tmp_path / "new" / "study.json")
    assert_same(Result.load(tmp_path / "new" / "study.json"), result)
    assert_same(type(result).load(str(tmp_path / "new" / "study.json")), result)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["study.json"]


def test_none_comes_back_as_none(tmp_path):
    unknown = dict.fromkeys(("spearman_low", "spearman_high", "universal_low", "universal_high", "frequency"))
    result = replace(random_stability(), **unknown)
    result.save(tmp_path / "study.json")
    assert_same(Result.load(tmp_path / "study.json"), result)


def test_the_file_is_strict_json_with_an_envelope(tmp_path):
    random_vision_heads(p_value=np.float64(0.5), count=np.int64(2)).save(tmp_path / "study.json")
    document = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [document[key] for key in ("kind", "format_version", "corehead_version")] == ["vision_heads", 1, __version__]
    assert set(document) == {field.name for field in fields(VisionHeads)} | {
        "kind",
        "format_version",
        "corehead_version",
    }
    assert np.shape(document["core"]) == (2, 4)


@pytest.mark.parametrize("bad", [{"p_value": float("nan")}, {"core": np.full((2, 4), np.inf)}, {"count": 2.5}])
def test_a_study_that_could_not_be_read_again_is_not_written(tmp_path, bad):
    path = tmp_path / "study.json"
    random_vision_heads().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{next(iter(bad))} of VisionHeads that is to be saved"):
        random_vision_heads(**bad).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "study.json"
    random_vision_heads().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="no space"):
        random_vision_heads().save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_every_kind_is_known_to_the_reader():
    for kind, place in _CLASS_OF.items():
        module, _, name = place.rpartition(".")
        found = getattr(import_module(f"corehead_hf.{module}"), name)
        assert issubclass(found, Result) and found.kind == kind


def test_public_names_are_no_modules_and_have_docstrings():
    """stability, say, is both a function and the file it stands in."""
    for path in sorted(Path(analysis.__file__).parent.glob("*.py")):
        import_module(f"corehead_hf.analysis.{path.stem}" if path.stem != "__init__" else "corehead_hf.analysis")
    for name in analysis.__all__:
        assert callable(getattr(analysis, name)) and inspect.getdoc(getattr(analysis, name)), name


def test_a_subclass_reads_only_its_own_kind(tmp_path):
    random_vision_heads().save(tmp_path / "study.json")
    with pytest.raises(ValueError, match="asked for as 'stability' - it holds 'vision_heads' - .* VisionHeads.load"):
        Stability.load(tmp_path / "study.json")
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("kind", "nothing", "holds the kind 'nothing' - known are ablation, "),
        ("kind", 3, "does not name its kind"),
        ("corehead_version", None, "does not name its kind"),
        ("format_version", 2, "format_version 2, written by .* upgrade"),
        ("format_version", True, "format_version True"),
        ("extra", 1, "VisionHeads has model, dataset"),
        ("model", 3, "model of .* is 3 - it must be a finite str"),
        ("count", 2.0, "count of .* must be a finite int"),
        ("count", True, "count of"),
        ("p_value", "0.5", "p_value of .* must be a finite float"),
        ("p_value", None, "p_value of"),
        ("core", [[0.1, 0.2], [0.3]], "core of .* rectangular nested list of finite float64"),
        ("core", [[0.1, 0.2, 0.3, True]] * 2, "core of"),
        ("core", [[0.1, 0.2, 0.3, "0.4"]] * 2, "core of"),
        ("core", [[0.1, 0.2, 0.3, None]] * 2, "core of"),
        ("core", 0.5, "core of"),
        ("core", [[0.5] * 4] * 3, r"vision of shape \(2, 4\) was given - it is \(3, 4\)"),
        ("shared", [[0, 1, 2]], "shared of"),
        ("shared", [[0.0, 1.0]], "shared of"),
        ("shared", {"0": 1}, "shared of"),
    ],
)
def test_a_malformed_field_is_refused(tmp_path, name, value, message):
    path = tmp_path / "study.json"
    random_vision_heads().save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Result.load(path)


def test_a_missing_field_is_refused(tmp_path):
    path = tmp_path / "study.json"
    random_vision_heads().save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["core"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match="VisionHeads has model, dataset"):
        Result.load(path)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("coverage_chance", [0.1], r"group_sizes=\(1, 5\) were given"),
        ("coverage", {group: [] for group in GROUPS}, r"group_sizes=\(1, 5\) were given"),
        ("ratio", {}, r"ratio of \[\] was given - give top, bottom, random"),
        ("ratio", {group: {"value": 1.0, "low": 0.0} for group in GROUPS}, "Estimate has value, low, high"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(tmp_path, name, value, message):
    path = tmp_path / "study.json"
    random_study().save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Result.load(path)


def test_integers_and_masks_stay_what_they_are(tmp_path):
    path = tmp_path / "study.json"
    random_stability().save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    for name, value in (
        ("counts", [[1, 2, 3, 4.0], [0] * 4]),
        ("counts", [[1, 2, 3, 2**64], [0] * 4]),
        ("masks", [[[0, 1, 0, 1]] * 2] * 3),
        ("ratio", 1),
        ("universal_low", 0.5),
        ("names", ["a", "b"]),
    ):
        path.write_text(json.dumps({**document, name: value}), encoding="utf-8")
        with pytest.raises(ValueError):
            Result.load(path)


@pytest.mark.parametrize(
    "text, why",
    [
        (b"", "strict JSON: Expecting value"),
        (b"[1]", "study saved by corehead_hf"),
        (b"{", "strict JSON: Expecting property name"),
        (b"\xff\xfe", "strict JSON: 'utf-8' codec"),
        (b"[" * 100_000 + b"]" * 100_000, "strict JSON: .*recursion"),
        (b'{"kind": "vision_heads", "kind": "vision_heads"}', "strict JSON: a key stands twice"),
        (b'{"kind": "vision_heads", "corehead_version": "1", "format_version": NaN}', "strict JSON: NaN is not JSON"),
    ],
    ids=["empty", "list", "cut", "not UTF-8", "deep", "twice", "NaN"],
)
def test_what_is_no_study_is_refused(tmp_path, text, why):
    (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"study\.json is no {why}"):
        Result.load(tmp_path / "study.json")


def test_infinity_by_a_large_exponent_is_refused(tmp_path):
    path = tmp_path / "study.json"
    random_vision_heads(p_value=0.5).save(path)
    path.write_text(path.read_text(encoding="utf-8").replace('"p_value": 0.5', '"p_value": 1e999'), encoding="utf-8")
    with pytest.raises(ValueError, match="p_value of .* is inf"):
        Result.load(path)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr("corehead_hf.analysis.result.MAX_BYTES", 100)
    random_vision_heads().save(tmp_path / "study.json")
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        Result.load(tmp_path / "study.json")


def test_without_pandas_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'corehead-hf\[analysis\]'"):
        random_study().to_pandas()
