"""A task's generation_kwargs as options of generate(), and what they may not ask for."""

import pytest

from corehead_hf.integrations.generation import MAX_NEW_TOKENS, Generation


def test_generation_follows_the_temperature():
    greedy = Generation.read({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": True})
    assert greedy.options == {
        "max_new_tokens": 16, "do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1,
    }  # fmt: skip
    sampled = Generation.read({"temperature": 0.7, "top_p": 0.8, "top_k": None})
    assert sampled.options == {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": True, "temperature": 0.7, "top_p": 0.8}


def test_stops_end_an_answer_and_the_harness_default_does_not():
    made = Generation.read({"until": ["\n\n", "END", "."]})
    assert made.stops == ("END", ".")
    assert made.cut("one\n\ntwo. three END") == "one\n\ntwo"
    assert Generation.read({"until": "END"}).cut("a END b") == "a "
    assert Generation.read({}).cut("a.\n\nb") == "a.\n\nb"
    with pytest.raises(ValueError, match="until="):
        Generation.read({"until": [3]})


@pytest.mark.parametrize(
    "asked",
    [
        {"num_return_sequences": 2},
        {"num_return_sequences": 2, "num_beams": 2},
        {"return_dict_in_generate": True},
        {"temperature": "0"},
        {"temperature": True},
        {"temperature": [0.5]},
        {"temperature": float("nan")},
        {"temperature": -0.5},
        {"until": 5},
        {"until": [3]},
        {"until": {"a": "b"}},
        {"until": ["a", None]},
    ],
    ids=str,
)
def test_it_is_refused_by_name(asked):
    name, value = next(iter(asked.items()))
    with pytest.raises(ValueError) as refusal:
        Generation.read({"max_new_tokens": 4, **asked})
    assert str(refusal.value).startswith(f"{name}={value!r} was asked for - ")


def test_what_says_the_same_as_nothing_is_taken():
    plain = Generation.read({"max_new_tokens": 4})
    for asked in ({"num_return_sequences": 1}, {"return_dict_in_generate": False}, {"until": ()}, {"until": None}):
        found = Generation.read({"max_new_tokens": 4, **asked})
        assert {**found.options, **asked} == {**plain.options, **asked} and not found.unused
    assert Generation.read({"until": ("a", "b")}).stops == Generation.read({"until": ["a", "b"]}).stops == ("a", "b")
    assert Generation.read({"temperature": 1}).options["do_sample"] is True
