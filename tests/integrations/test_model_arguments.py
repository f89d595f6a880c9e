"""Model arguments of a harness: typed as lmms-eval parses them, all checked, none ignored."""

from dataclasses import fields

import pytest

from corehead_hf.integrations.arguments import ModelArguments

MAP = {"pretrained": "m", "head_map": "h"}


def read(**given):
    return ModelArguments.read({"pretrained": "m", **given})


def test_what_lmms_eval_parses_arrives_with_its_type():
    # --model_args pretrained=a/b,head_map=c/d,keep=0.05,chunked=true,sink_size=4 --batch_size 8 --device cpu
    parsed = {"pretrained": "a/b", "head_map": "c/d", "keep": 0.05, "chunked": True, "sink_size": 4}
    found = ModelArguments.read({**parsed, "batch_size": "8", "device": "cpu", "revision": None})
    assert {name: getattr(found, name) for name in parsed} == parsed
    assert (found.batch_size, found.device, found.revision, found.dense_below) == (8, "cpu", None, 0)
    assert found.is_hybrid and found.of_sizes() == {"sink_size": 4}
    assert not read().is_hybrid and read().of_sizes() == {}


def test_one_head_and_all_heads_differ():
    one, every = read(head_map="h", keep=1), read(head_map="h", keep=1.0)
    assert (type(one.keep), type(every.keep)) == (int, float)


def test_heads_are_pairs():
    assert read(heads="[[3,1],[5,0]]").heads == ((3, 1), (5, 0))
    assert read(heads=[(3, 1)]).heads == ((3, 1),)
    for wrong in ("[[3]]", "3.1", "[[3,-1]]", "[[3,1.5]]", 5, "[[3,true]]"):
        with pytest.raises(ValueError, match=r"heads=.*list of \[layer, head\]"):
            read(heads=wrong)


def test_quotes_keep_a_text_that_looks_like_a_number():
    assert read(revision="'1.10'").revision == "1.10"
    with pytest.raises(ValueError, match=r"revision=1\.1 .* in quotes"):
        read(revision=1.1)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="max_batch_size, headmap|headmap, max_batch_size") as refusal:
        read(headmap="h", max_batch_size=4)
    for field in fields(ModelArguments):
        assert field.name in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {"keep": 0},
        {"keep": float("nan")},
        {"keep": "all"},
        {"keep": True},
        {"batch_size": "auto"},
        {"batch_size": 0},
        {"dtype": "fp16"},
        {"dense_below": -1},
        {"dense_below": "never"},
        {"chunked": "yes"},
        {"chunked": 1},
        {"ablate": "best"},
        {"ablate_variant": "mean"},
        {"window_size": 0},
        {"sink_size": 1.5},
        {"max_frames": 0},
        {"fps": 0.0},
        {"fps": float("inf")},
        {"seed": -1},
        {"on_error": "skip"},
        {"pretrained": ""},
        {"head_map": 7},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"^{name}=") as refusal:
        ModelArguments.read({**MAP, "heads": "[[0,0]]", **given})
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"keep": 0.05}, "without head_map"),
        ({"head_map": "h"}, "without keep or ablate"),
        ({"head_map": "h", "heads": "[[0,0]]"}, "without keep or ablate"),
        ({"head_map_revision": "main"}, "without head_map"),
        ({"chunked": True}, "without keep or heads"),
        ({"fuse": False}, "without keep or heads"),
        ({"backend": "banded"}, "without keep or heads"),
        ({"dense_below": 0}, "without keep or heads"),
        ({"sink_size": 4}, "without keep or heads or ablate"),
        ({"head_map": "h", "ablate": "top", "ablate_count": 2, "window_size": 8}, "no head streams"),
        ({"ablate_count": 2}, "without ablate"),
        ({"ablate_variant": "zero"}, "without ablate"),
        ({"head_map": "h", "ablate": "top"}, "without ablate_count"),
        ({"ablate": "top", "ablate_count": 2}, "without head_map"),
        ({"head_map": "h", "ablate": "top", "ablate_count": 2, "seed": 0}, "only random heads"),
        ({"head_map": "h", "keep": 2, "heads": "[[0,0]]"}, "keep and heads were both"),
        ({"device": "cpu", "device_map": "auto"}, "device and device_map were both"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels=9"),
        ({"min_tiles": 3, "max_tiles": 2}, "min_tiles=3"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "+".join(value),
)
def test_arguments_that_change_nothing_or_contradict_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        read(**given)


def test_what_belongs_together_is_taken():
    read(head_map="h", ablate="random", ablate_count=0.1, seed=3)
    read(head_map="h", ablate="top", ablate_count=2, ablate_variant="stream", sink_size=4, window_size=8)
    read(head_map="h", keep=0.05, ablate="bottom", ablate_count=2, dense_below="auto", fuse=True)
    with pytest.raises(ValueError, match="no pretrained"):
        ModelArguments.read({"dtype": "auto"})
