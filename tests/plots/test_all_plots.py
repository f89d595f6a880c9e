"""What must hold of every figure, with short and with long names: readable, no warning, the caller's axes are taken."""

import pytest
from gallery import FIGURES
from hand_made import LONG, SHORT
from layout_check import problems, shown_texts

from corehead_hf import plots

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_or_covered(name, names):
    assert problems(FIGURES[name][0](names)) == []


def test_every_function_is_in_the_gallery():
    functions = {name for name in plots.__all__ if name not in ("new_figure", "require_matplotlib")}
    assert {name for name in functions if any(drawn.startswith(name) for drawn in FIGURES)} == functions


def test_the_check_finds_what_it_looks_for():
    figure, axes = plots.new_figure(size=(3, 2))
    ax = axes[0, 0]
    assert problems(figure) == []
    ax.text(0.5, 0.5, "one")
    ax.text(0.52, 0.51, "two")
    assert problems(figure) == ["'one' lies over 'two'"]
    ax.texts[1].remove()
    ax.set_title("a title that is far too long for a figure of three inches")
    assert "is cut off" in problems(figure)[0]
    ax.set_title("")
    ax.plot([0, 1], [0, 1], label="line")
    ax.legend(loc="center")
    assert "the legend lies over 'one'" in problems(figure)
    ax.set_xticks([0.1, 7.0], ["in", "out"])
    ax.set_xlim(0, 1)
    assert "out" not in {text.get_text() for text in shown_texts(figure)}
