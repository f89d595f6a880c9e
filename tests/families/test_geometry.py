"""Coverage, views and concatenation of token geometry, by hand."""

import numpy as np

from corehead_hf import Evidence
from corehead_hf.families.geometry import GLOBAL, HIRES, Geometry, concatenate, grid, no_place, single_cells

TWO_BY_TWO = grid((20, 40), 2, 2)  # cells of 20 x 10 pixels


def test_coverage_is_the_share_of_a_token():
    assert TWO_BY_TWO.coverage([Evidence(0, (0, 0, 10, 5))]).tolist() == [0.25, 0, 0, 0]
    assert TWO_BY_TWO.coverage([Evidence(0, (10, 5, 30, 15))]).tolist() == [0.25] * 4
    assert TWO_BY_TWO.coverage([Evidence(0, (20, 0, 40, 10))]).tolist() == [0, 1, 0, 0], "touching is not showing"
    assert TWO_BY_TWO.coverage([Evidence(0)]).tolist() == [1] * 4
    assert TWO_BY_TWO.coverage([]).tolist() == [0] * 4


def test_parts_add_up_over_tokens_and_not_within_one():
    first, second = Evidence(0, (0, 0, 20, 10)), Evidence(0, (20, 10, 40, 20))
    for parts in ([first, second], [second, first]):
        assert TWO_BY_TWO.coverage(parts).tolist() == [1, 0, 0, 1]
    half, quarter = Evidence(0, (0, 0, 10, 10)), Evidence(0, (0, 0, 10, 5))
    assert (
        TWO_BY_TWO.coverage([half, quarter]).tolist() == TWO_BY_TWO.coverage([quarter, half]).tolist() == [0.5, 0, 0, 0]
    )


def test_a_token_of_two_frames_is_filled_by_both():
    cells = np.tile(np.array([0.0, 0.0, 8.0, 8.0]), (1, 2, 1))
    token = Geometry(cells, np.full((1, 2), 0.5), np.array([[0, 1]]), np.array([3], dtype=np.int8))
    early, late = (Evidence(0, (0, 0, 8, 8), frames=(frame,)) for frame in (0, 1))
    assert token.coverage([early]).tolist() == token.coverage([late]).tolist() == [0.5]
    assert token.coverage([early, late]).tolist() == token.coverage([Evidence(0)]).tolist() == [1]
    assert token.coverage([Evidence(0, frames=(5,))]).tolist() == [0]


def test_views_and_newlines():
    whole, tile = grid((8, 8), 1, 1, view=GLOBAL), grid((8, 8), 1, 2, view=HIRES)
    tokens = concatenate([whole, tile, no_place()])
    assert tokens.of_view("all").tolist() == [True, True, True, False]
    assert tokens.of_view("hires").tolist() == [False, True, True, False]
    assert tokens.of_view("global").tolist() == [True, False, False, False]
    assert tokens.coverage([Evidence(0)]).tolist() == [1, 1, 1, 0], "a newline shows nothing"
    assert grid((8, 8), 1, 1).of_view("hires").tolist() == grid((8, 8), 1, 1).of_view("global").tolist() == [True]


def test_concatenating_keeps_what_each_token_shows():
    mixed = Geometry(
        np.array([[[0.0, 0, 4, 4], [4, 0, 8, 4]]]), np.array([[0.25, 0.75]]), np.zeros((1, 2), int), np.ones(1, np.int8)
    )
    tokens = concatenate([single_cells(np.array([[0, 0, 4, 4]])), mixed])
    assert tokens.coverage([Evidence(0, (0, 0, 4, 4))]).tolist() == [1, 0.25]
