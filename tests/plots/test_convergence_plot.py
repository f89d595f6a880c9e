import pytest
from hand_made import head_map, large_map

from corehead_hf import plots

pytest.importorskip("matplotlib")
CURVE = ((16, 0.8), (32, 0.9), (64, 0.97))


def measured(curve=CURVE):
    return large_map(layers=2, heads=3, convergence=curve)


def test_one_map_has_one_line_and_its_provenance_in_the_title():
    ax = plots.convergence_curve(measured(), until_stable=0.95).axes[0]
    rho, threshold = ax.lines
    assert [tuple(point) for point in rho.get_xydata()] == list(CURVE)
    assert set(threshold.get_ydata()) == {0.95} and threshold.get_linestyle() == "--"
    assert ax.get_title(loc="left").endswith("tiny, hand, 500 examples")
    assert ax.get_xlabel() == "examples" and "ρ" in ax.get_ylabel()
    assert ax.get_xticks().tolist() == [16, 32, 64] and ax.get_ylim()[0] < 0.8 and ax.get_ylim()[1] > 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["stable from 0.95 on, three times in a row"]
    assert plots.convergence_curve(measured()).axes[0].get_legend() is None


def test_several_maps_have_a_line_each():
    ax = plots.convergence_curve({"a": measured(), "b": measured(((16, -0.5),))}).axes[0]
    assert [line.get_label() for line in ax.lines] == ["a, 500 examples", "b, 500 examples"]
    assert ax.lines[1].get_xydata().tolist() == [[16, -0.5]] and ax.get_ylim()[0] < -0.5


def test_maps_without_a_check_are_refused():
    unknown = head_map([[0.5]])
    for maps, name in (
        (unknown, "HeadMap"),
        ({"a": measured(), "late": unknown}, "of late was"),
        ({}, "of no head map"),
    ):
        with pytest.raises(ValueError, match=name):
            plots.convergence_curve(maps)
