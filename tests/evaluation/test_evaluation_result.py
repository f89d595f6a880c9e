"""Groups, averages and their intervals, by hand and against scipy; saving; drops paired by example."""

import math
from dataclasses import fields

import numpy as np
import pytest
from answers_by_hand import answer, evaluation, skipped
from scipy import stats

from corehead_hf.analysis import Estimate, Result
from corehead_hf.evaluation import AblationSetting, Evaluation, HybridSetting, Setting
from corehead_hf.evaluation.evaluation import macro_estimate
from corehead_hf.scoring import Average, score_rules, summarise

# 4 of "a" (3 right), 2 of "b" (1 right), 1 of "c" (wrong)
HAND = [answer(i, float(s), t) for i, (s, t) in enumerate(zip([1, 1, 0, 1, 0, 1, 0], "aabaabc", strict=True))]


def wilson(right, count):
    found = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    return pytest.approx((right / count, found.low, found.high), abs=1e-12)


def ends(estimate):
    return (estimate.value, estimate.low, estimate.high)


def test_groups_and_their_mean_over_examples():
    found = evaluation(HAND)
    assert [(g.key, g.name, g.count, g.averaged) for g in found.groups] == [
        ("task", "a", 4, True), ("task", "b", 2, True), ("task", "c", 1, True),
    ]  # fmt: skip
    assert ends(found.group("a").accuracy) == wilson(3, 4) and ends(found.group("b").accuracy) == wilson(1, 2)
    assert ends(found.average) == wilson(4, 7) and found.average_kind == "micro"
    assert found.averaged == ("a", "b", "c") and found.missing == () and found.f1 is None
    with pytest.raises(KeyError, match="group 'z' was asked for - there are a, b, c"):
        found.group("z")


def test_a_macro_average_weighs_groups_alike():
    found = evaluation(HAND, Average("task", "macro"))
    assert found.average.value == pytest.approx((3 / 4 + 1 / 2 + 0) / 3, abs=1e-12)
    groups = [group.accuracy for group in found.groups]
    below = math.sqrt(sum((g.value - g.low) ** 2 for g in groups)) / 3
    above = math.sqrt(sum((g.high - g.value) ** 2 for g in groups)) / 3
    assert found.average.low == pytest.approx(found.average.value - below, abs=1e-12)
    assert found.average.high == pytest.approx(found.average.value + above, abs=1e-12)
    assert 0 <= found.average.low and found.average.high <= 1


@pytest.mark.parametrize("kind", ["micro", "macro"])
def test_averages_are_those_of_scoring(kind):
    rng = np.random.default_rng(0)
    answers = [answer(i, float(rng.random()), "abcd"[rng.integers(4)]) for i in range(60)]
    for over in (None, ("a", "c"), ("d", "nothing")):
        average = Average("task", kind, over=over)
        found = evaluation(answers, average)
        told = summarise([a.score for a in answers], [a.details["task"] for a in answers], average)
        assert found.average.value == pytest.approx(told.average, abs=1e-12) and found.missing == told.missing
        assert {g.name: (g.count, pytest.approx(g.accuracy.value)) for g in found.groups} == {
            name: (group.count, group.mean) for name, group in told.groups.items()
        }


def test_a_group_beside_the_average_is_reported_and_not_averaged():
    found = evaluation(HAND, Average("task", "macro", over=("a", "b", "z")))
    assert [group.averaged for group in found.groups] == [True, True, False]
    assert found.average.value == pytest.approx((3 / 4 + 1 / 2) / 2) and found.missing == ("z",)
    none = evaluation(HAND, Average("task", over=("z",)))
    assert none.average is None and none.averaged == () and len(none.to_pandas()) == 3
    micro = evaluation(HAND, Average("task", over=("b", "c")))
    assert ends(micro.average) == wilson(1, 3)


def test_the_interval_of_one_group_is_its_own_and_that_of_many_covers():
    one = Estimate(0.5, 0.3, 0.6)
    assert ends(macro_estimate([one])) == pytest.approx(ends(one))
    assert ends(macro_estimate([one, Estimate(1.0, 0.6, 1.0)])) == pytest.approx(
        (0.75, 0.75 - math.hypot(0.2, 0.4) / 2, 0.75 + 0.1 / 2)
    )
    rng, truth, sizes = np.random.default_rng(1), np.array([0.9, 0.5, 0.2]), (40, 15, 25)
    hits = 0
    for _ in range(300):
        right = [rng.binomial(n, p) for n, p in zip(sizes, truth, strict=True)]
        groups = []
        for count, n in zip(right, sizes, strict=True):
            ci = stats.binomtest(int(count), n).proportion_ci(0.95, method="wilson")
            groups.append(Estimate(count / n, float(ci.low), float(ci.high)))
        found = macro_estimate(groups)
        hits += found.low <= truth.mean() <= found.high
    assert 0.92 <= hits / 300 <= 0.985


def test_other_keys_are_grouped_beside():
    answers = [
        answer(i, float(i < 3), details={"task": "a", "duration": d}) for i, d in enumerate(("s", "l", "s", "l"))
    ]
    found = evaluation(answers, Average("task", also=("duration",)))
    assert [(g.key, g.name, g.count, g.averaged) for g in found.groups] == [
        ("task", "a", 4, True), ("duration", "l", 2, False), ("duration", "s", 2, False),
    ]  # fmt: skip
    assert ends(found.group("l").accuracy) == wilson(1, 2) and ends(found.average) == wilson(3, 4)


def test_what_was_skipped_or_could_not_be_read_is_counted():
    answers = [
        answer(0), skipped(1), answer(2, 0.0, parsed=None, text=""), skipped(3, "not_scored"), skipped(4),
        answer(5, row_error="missing_media", score=None, text=None),
    ]  # fmt: skip
    found = evaluation(answers, Average())
    assert (found.num_examples, found.num_unparsed, found.num_skipped) == (2, 1, 4)
    assert found.skipped == {"missing_media": 1, "not_scored": 1, "out_of_memory": 2}
    assert ends(found.average) == wilson(1, 2) and found.groups == () and found.members == ("all", "all")
    assert found.ids == ("e0", "e2") and found.scores.tolist() == [1.0, 0.0]
    assert found.longest_prompt == 12 and found.seconds == 1.0


def test_f1_of_the_benchmark_that_has_one():
    cases = [("7", "7", 1.0), ("Not answerable", "3", 0.0), ("x", "Not answerable", 0.0), ("y", "y", 1.0)]
    answers = [answer(i, score, expected=e, text=t) for i, (e, t, score) in enumerate(cases)]
    # recall: 7, x, y could be answered, 2 of 3 right; precision: 7, 3, y were answered, 2 of 3 right
    assert evaluation(answers, scorer=score_rules).f1 == pytest.approx(2 / 3)


def test_a_drop_is_paired_by_example_over_those_both_scored():
    first = evaluation([answer(i, float(s)) for i, s in enumerate([1, 1, 1, 0, 1])])
    second = evaluation([answer(i, float(s)) for i, s in [(4, 0), (0, 1), (1, 0), (3, 1), (9, 0)]])
    drop = second.drop_from(first)  # over e4, e0, e1, e3: 1, 0, 1, -1
    assert drop.value == pytest.approx(1 / 4) and drop.low < 0 < drop.high
    assert ends(first.drop_from(first)) == (0, 0, 0)


def test_a_drop_of_a_macro_average_weighs_groups_alike():
    average = Average("task", "macro", over=("a", "b"))
    dense = evaluation([answer(i, 1.0, t) for i, t in enumerate("aaab" + "c")], average)
    ablated = evaluation([answer(i, float(i == 0), t) for i, t in enumerate("aaab" + "c")], average)
    assert ablated.drop_from(dense).value == pytest.approx((2 / 3 + 1) / 2)
    assert ablated.drop_from(dense).value == pytest.approx(dense.average.value - ablated.average.value)


def test_a_drop_between_what_cannot_be_paired_is_refused():
    one = evaluation(HAND)
    with pytest.raises(ValueError, match="to micro 'other' was asked for"):
        evaluation(HAND, dataset="other").drop_from(one)
    with pytest.raises(ValueError, match="from macro 'd' to micro 'd'"):
        one.drop_from(evaluation(HAND, Average("task", "macro")))
    with pytest.raises(ValueError, match="no averaged example was scored in both"):
        one.drop_from(evaluation([answer(99)]))


SETTING = Setting(
    48,
    HybridSetting(((0, 1), (3, 2)), 4, 16, False, "banded", None, False),
    (AblationSetting(((1, 1),), "stream", 4, 16),),
)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    found = evaluation([*HAND, skipped(9)], Average("task", "macro", over=("a", "z")), setting=SETTING)
    found.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert type(loaded) is Evaluation
    for field in fields(Evaluation):
        one, other = getattr(found, field.name), getattr(loaded, field.name)
        assert np.array_equal(one, other) if field.name == "scores" else one == other, field.name
    assert loaded.scores.dtype == np.float64 and loaded.drop_from(found).value == 0


def test_a_setting_tells_what_it_is():
    assert str(Setting(48, None, ())) == "dense" and Setting(48, None, ()).windows == ()
    assert str(SETTING) == (
        "2 of 48 heads dense, the others see sink 4 + window 16; 1 of 48 heads ablated (stream)"
    ) and SETTING.windows == (16, 16)


def test_the_table_has_a_row_a_group_and_the_average():
    table = evaluation(HAND, Average("task", "macro", over=("a", "b")), setting=SETTING).to_pandas()
    assert table["name"].tolist() == ["a", "b", "c", "average"] and table["count"].tolist() == [4, 2, 1, 6]
    assert table["averaged"].tolist() == [True, True, False, False] and table["key"].tolist() == ["task"] * 3 + [""]
    assert table["accuracy"].tolist() == pytest.approx([0.75, 0.5, 0, 0.625])
    assert (
        set(table["dense_heads"]) == {2}
        and set(table["ablated_heads"]) == {1}
        and set(table["setting"]) == {str(SETTING)}
    )
    assert (table["accuracy_low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["accuracy_high"]).all()
