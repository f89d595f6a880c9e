"""Series are told apart without colour, and by colour-blind readers; a luminance is Rec. 601's, as printers take it."""

from itertools import combinations

import numpy as np
import pytest

from corehead_hf.plots.style import BASELINES, GROUP_NAMES, GROUPS, SERIES, series

# Linear RGB as a dichromat sees it: Machado, Oliveira and Fernandes 2009, severity 1.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def luma(color):
    return float(rgb(color) @ [0.299, 0.587, 0.114])


def seen(color, blindness):
    linear = np.where(rgb(color) <= 0.04045, rgb(color) / 12.92, ((rgb(color) + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("styles", [list(GROUPS.values()), [*SERIES, *BASELINES], [series(n) for n in range(14)]])
def test_series_differ_without_colour(styles):
    for a, b in combinations(styles, 2):
        assert (a.marker, str(a.line)) != (b.marker, str(b.line))


def test_groups_differ_as_lines_as_bars_and_in_grey():
    for a, b in combinations(GROUPS.values(), 2):
        assert a.marker != b.marker and a.line != b.line and a.hatch != b.hatch
        assert abs(luma(a.color) - luma(b.color)) > 0.05
    assert set(GROUP_NAMES) == set(GROUPS)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_groups_differ_for_the_colour_blind(blindness):
    for a, b in combinations(GROUPS.values(), 2):
        assert np.linalg.norm(seen(a.color, blindness) - seen(b.color, blindness)) > 0.15


def test_every_series_has_a_style():
    assert series(0) == SERIES[0] and series(6) == SERIES[6]
    assert series(7).color == SERIES[0].color and series(7).marker == SERIES[1].marker
