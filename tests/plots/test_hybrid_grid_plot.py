"""Lines and bars of a grid at the values they stand for."""

from dataclasses import replace

import pytest
from hand_made import hybrid_grid

from corehead_hf import plots

pytest.importorskip("matplotlib")
NBSP = "\u00a0"


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_panel_a_sink_and_a_line_a_window():
    grid = hybrid_grid(sinks=(0, 4), windows=(16, 64), counts=(1, 3))
    first, second = plots.hybrid_grid_curves(grid).axes
    for ax, sink in ((first, 0), (second, 4)):
        assert len(ax.containers) == 2 and ax.get_xscale() == "log"
        for drawn, window in zip(ax.containers, (16, 64), strict=True):
            points = grid.series(sink, window)
            assert [p.count for p in points] == [1, 3]
            at = [[100 * p.cost.kv_read, p.accuracy.value] for p in points]
            assert drawn.lines[0].get_xydata().tolist() == [pytest.approx(pair) for pair in at]
            bars = [segment[:, 1].tolist() for segment in drawn.lines[2][0].get_segments()]
            assert bars == [pytest.approx([p.accuracy.low, p.accuracy.high]) for p in points]
            assert drawn.get_label() == f"window {window}"
    assert labels(second) == ["all heads dense", "chance (0.25)", "window 16", "window 64"]
    assert first.get_legend() is None
    heights = sorted({line.get_ydata()[0] for line in first.lines if len(set(line.get_ydata())) == 1})
    assert grid.chance in heights and grid.dense.value in heights


def test_titles_and_labels_stand_alone():
    grid = hybrid_grid(sinks=(0, 4), counts=(1, 3), num_heads=48)
    first, second = plots.hybrid_grid_curves(grid).axes
    title = first.get_title(loc="left").replace("\n", " ")
    assert title == (
        f"Hybrid prefill, sink{NBSP}0 tiny, hand, 1000 examples, 16384 to 65536 tokens, "
        "along a line 1, 3 of 48 heads dense"
    )
    assert second.get_title(loc="left") == f"Hybrid prefill, sink{NBSP}4"
    assert first.get_xlabel().replace("\n", " ") == "KV entries read in prefill, % of dense attention"
    assert first.get_ylabel().replace("\n", " ") == f"accuracy (95{NBSP}% intervals)"


def test_models_side_by_side_on_one_scale():
    cheap, dear = hybrid_grid(windows=(64,)), hybrid_grid(windows=(4096,))
    axes = plots.hybrid_grid_curves({"a": cheap, "b": dear}).axes
    headlines = [ax.get_title(loc="left").split("\n")[0].replace(NBSP, " ") for ax in axes]
    assert headlines == ["a, sink 0", "b, sink 0", "a, sink 128", "b, sink 128"]
    assert len({ax.get_xlim() for ax in axes}) == 1
    low, high = axes[0].get_xlim()
    assert low < 100 * cheap.points[0].cost.kv_read and high > 100


def test_no_chance_no_line():
    grid = replace(hybrid_grid(), chance=None)
    assert not any("chance" in label for label in labels(plots.hybrid_grid_curves(grid).axes[-1]))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"grids with the sinks \{\}"):
        plots.hybrid_grid_curves({})
    with pytest.raises(ValueError, match="a row of panels is one sink"):
        plots.hybrid_grid_curves(replace(hybrid_grid(), points=()))
    with pytest.raises(ValueError, match=r"'a': \(0,\), 'b': \(0, 4\)"):
        plots.hybrid_grid_curves({"a": hybrid_grid(sinks=(0,)), "b": hybrid_grid(sinks=(0, 4))})
    _, axes = plots.new_figure(1, 3, size=(9, 3))
    with pytest.raises(ValueError, match="3 axes were given for 2 x 1 panels"):
        plots.hybrid_grid_curves(hybrid_grid(), axes=axes)
