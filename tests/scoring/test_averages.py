"""Averages by hand, and from the counts of questions that the benchmarks publish."""

import pytest

from corehead_hf.scoring import AVERAGES, Average, Group, summarise

MLVU = {
    "plotQA": 539,
    "needle": 355,
    "ego": 352,
    "count": 206,
    "order": 259,
    "anomaly_reco": 200,
    "topic_reasoning": 263,
}
VIDEO_MME = (55, 54, 222, 313, 354, 139, 268, 177, 56, 285, 454, 323)


def test_micro_and_macro_by_hand():
    scores, groups = [1, 0, 0, 0, 1], ["a", "a", "a", "a", "b"]
    assert summarise(scores, groups, Average("task")).average == pytest.approx(2 / 5)
    macro = summarise(scores, groups, Average("task", "macro"))
    assert macro.average == pytest.approx((1 / 4 + 1) / 2)
    assert macro.groups == {"a": Group(4, 0.25), "b": Group(1, 1.0)} and macro.missing == ()


@pytest.mark.parametrize("kind, expected", [("micro", 1 / 3), ("macro", 1 / 4)])
def test_groups_beside_the_average_are_reported(kind, expected):
    found = summarise([1, 0, 0, 1], ["a", "a", "b", "c"], Average("task", kind, over=("b", "a", "z")))
    assert found.average == pytest.approx(expected) and found.missing == ("z",)
    assert found.groups["c"] == Group(1, 1.0)


def test_nothing_to_average_is_said():
    found = summarise([1.0], ["anomaly_reco"], AVERAGES["mlvu"])
    assert found.average is None and len(found.missing) == 6
    assert summarise([], [], Average()).average is None


def test_mlvu_takes_the_papers_six_tasks():
    """Each task all right but one: the macro average does not see how many questions a task has, nor anomaly_reco."""
    scores, groups = [], []
    for task, count in MLVU.items():
        scores += [float(task not in ("count", "anomaly_reco"))] * count
        groups += [task] * count
    found = summarise(scores, groups, AVERAGES["mlvu"])
    assert found.average == pytest.approx(5 / 6) and found.groups["anomaly_reco"] == Group(200, 0.0)
    assert sum(MLVU.values()) == 2174  # rows of sy1998/MLVU_dev


def test_video_mme_counts_every_question_once():
    assert sum(VIDEO_MME) == 2700
    groups = [str(task) for task, count in enumerate(VIDEO_MME) for _ in range(count)]
    found = summarise([float(group == "10") for group in groups], groups, AVERAGES["video-mme"])
    assert found.average == pytest.approx(454 / 2700)


def test_groups_come_from_details():
    assert AVERAGES["video-mme"].group_of({"task": "OCR Problems"}) == "OCR Problems"
    assert Average().group_of({}) == "all"
    with pytest.raises(ValueError, match="details are {'x': 1}; its group is asked by 'task'"):
        AVERAGES["mlvu"].group_of({"x": 1})


def test_wrong_averages_are_refused():
    with pytest.raises(ValueError, match="kind='mean' was given; it is one of micro, macro"):
        Average("task", "mean")
    with pytest.raises(ValueError, match="macro average was asked without groups"):
        Average(None, "macro")
    with pytest.raises(ValueError, match="2 scores and 1 groups"):
        summarise([1, 0], ["a"], Average())
