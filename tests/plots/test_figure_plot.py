"""Figures without global state, given axes, ticks that do not touch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corehead_hf import plots
from corehead_hf.plots.figure import axes_grid, figure_of, frame, inches, legend, spaced_ticks, ticks, titled

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]

DRAW = """
import sys
import torch
from corehead_hf import plots
assert "matplotlib" not in sys.modules, "matplotlib is imported before something is drawn"
figure, axes = plots.new_figure(size=(2, 2))
figure.savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules, "pyplot brings global state"
"""


def test_headless_without_pyplot(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / "x.png")], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_the_remedy_for_a_missing_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'corehead-hf\[plot\]'"):
        plots.new_figure(size=(1, 1))


def test_axes_grid_takes_any_shape_of_the_right_size():
    figure, axes = plots.new_figure(2, 2, size=(4, 4))
    assert axes_grid(axes, 1, 4, (1, 1)).tolist() == [axes.ravel().tolist()]
    assert axes_grid(axes[0, 0], 1, 1, (1, 1)).shape == (1, 1)
    assert axes_grid(list(axes[1]), 2, 1, (1, 1)).tolist() == [[axes[1, 0]], [axes[1, 1]]]
    with pytest.raises(ValueError, match="4 axes were given for 1 x 3 panels"):
        axes_grid(axes, 1, 3, (1, 1))


def test_the_whole_figure_of_axes_in_a_part_of_it():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    part = figure.subfigures(1, 2)[1].subfigures(1, 2)[0]
    ax = part.subplots()
    assert figure_of(ax) is figure
    whole = plots.new_figure(size=(2, 4))[1][0, 0]
    assert inches(ax) == pytest.approx(inches(whole)), "a quarter of 8 inches is 2"


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (4, [0, 1, 2, 3]), (13, [0, 2, 4, 6, 8, 10, 12]), (64, [*range(0, 64, 8)])]
)
def test_ticks_are_whole_and_few(count, expected):
    assert ticks(count) == expected
    assert len(ticks(count, room=1.2)) <= 4


def test_crowded_ticks_are_thinned_and_the_ends_stay():
    ax = plots.new_figure(size=(4, 2))[1][0, 0]
    ax.set_xlim(0, 1000)
    values = [0, 1, 2, 500, 995, 1000]
    spaced_ticks(ax, values, [str(value) for value in values])
    assert ax.get_xticks().tolist() == [0, 500, 1000]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "500", "1000"]
    spaced_ticks(ax, [7], ["7"])
    assert ax.get_xticks().tolist() == [7]


def test_titles_are_wrapped_to_the_axes_or_to_what_is_given():
    ax = plots.new_figure(size=(3, 2))[1][0, 0]
    titled(ax, "a headline of some words that is long", "model", "", "data set")
    lines = ax.get_title(loc="left").split("\n")
    assert lines[-1] == "model, data set" and len(lines) == 3
    titled(ax, "a headline of some words that is long", room=9)
    assert ax.get_title(loc="left") == "a headline of some words that is long"


def test_legends_stand_below_in_columns_that_fit():
    ax = plots.new_figure(size=(4, 3))[1][0, 0]
    for label in ("aa", "bb", "cc"):
        ax.plot([0, 1], [0, 1], label=label)
    legend(ax)
    assert ax.get_legend()._ncols == 3
    ax.plot([0, 1], [0, 1], label="something that fills a whole line of its own")
    legend(ax)
    assert ax.get_legend()._ncols == 1
    ax.get_figure().draw_without_rendering()
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0


def test_a_frame_is_seen_on_black_and_on_white():
    ax = plots.new_figure(size=(2, 2))[1][0, 0]
    frame(ax, (1, 2, 4, 8), "#FFFFFF")
    (patch,) = ax.patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((1, 2), 3, 6)
    (casing,) = patch.get_path_effects()
    assert casing._gc["foreground"] == "#000000" and casing._gc["linewidth"] > patch.get_linewidth()
    assert not patch.get_clip_on() and np.all(patch.get_edgecolor() == np.ones(4))
