import numpy as np
import pytest
from hand_made import key_tokens

from corehead_hf import plots

pytest.importorskip("matplotlib")


def test_key_token_bars_stand_beside_chance():
    study = key_tokens()
    ax = plots.key_token_bars(study).axes[0]
    bars = {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers if not hasattr(c, "lines")}
    assert bars == {"top by RAM": [0.256, 0.19], "random": [0.06, 0.01], "bottom by RAM": [0.02, 0.0]}
    chance = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else line.get_ydata() for line in chance
    ] == [
        [0.05, 0.05],
        [0.001, 0.001],
    ]
    for measure, line in enumerate(chance):
        left, right = line.get_xdata()
        centers = [c[measure].get_x() + c[measure].get_width() / 2 for c in ax.containers if not hasattr(c, "lines")]
        assert left < min(centers) and max(centers) < right < measure + 0.5, "not over its own bars"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["key token ratio", "hit rate (ratio ≥ 0.5)"]
    assert sorted(text.get_text() for text in ax.texts) == ["0.000", "0.010", "0.020", "0.060", "0.190", "0.256"]
    assert ax.get_title(loc="left").startswith("Evidence found by 15 heads of each group\ntiny, hand, 300 examples")


def test_whiskers_are_the_intervals():
    study = key_tokens()
    ax = plots.key_token_bars(study).axes[0]
    drawn = sorted(
        tuple(np.round(segment[:, 1], 9))
        for container in ax.containers
        if hasattr(container, "lines")
        for segment in container.lines[2][0].get_segments()
    )
    values = [*study.ratio.values(), *study.hit_rate.values()]
    assert drawn == sorted((round(e.low, 9), round(e.high, 9)) for e in values)


def test_bars_differ_in_hatch():
    ax = plots.key_token_bars(key_tokens()).axes[0]
    hatches = [container[0].get_hatch() or "" for container in ax.containers if not hasattr(container, "lines")]
    assert len(set(hatches)) == 3


def test_coverage_curve_stands_beside_chance():
    study = key_tokens(sizes=(1, 2, 5))
    ax = plots.coverage_curve(study).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    for group, label in (("top", "top by RAM"), ("random", "random"), ("bottom", "bottom by RAM")):
        assert lines[label] == [[size, e.value] for size, e in zip((1, 2, 5), study.coverage[group], strict=True)]
    assert lines["chance"] == [[1, pytest.approx(0.05)], [2, pytest.approx(0.0975)], [5, pytest.approx(0.2262190625)]]
    assert {line.get_linestyle() for line in ax.lines if line.get_label() == "chance"} == {"--"}
    assert not ax.patches, "a region is drawn"
    assert ax.get_xscale() == "log" and ax.get_xticks().tolist() == [1, 2, 5]
    assert ax.get_xlabel() == "heads in the group, of 1152"
    with pytest.raises(ValueError, match="no group sizes"):
        plots.coverage_curve(key_tokens(sizes=()))
