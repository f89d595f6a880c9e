"""Pair counts against a loop over the reference mask, the rule against sums done by hand."""

import dataclasses
import functools
import math
import random
import re

import pytest
import torch

from corehead_hf.kernels import cost, tiles, tuning
from corehead_hf.kernels.cost import Rates, break_even, dense_pairs, estimate, plan, streaming_pairs, tile_pairs
from corehead_hf.reference import hybrid_mask

CPU = torch.device("cpu")
SIZES = [(1, 1), (7, 7), (40, 40), (63, 63), (1, 40), (9, 40), (33, 70)]
SINKS_AND_WINDOWS = [(0, 1), (0, 8), (3, 5), (8, 8), (5, 16), (20, 3), (30, 100)]


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "file", lambda: tmp_path / "measured.json")
    tuning.forget()
    yield
    tuning.forget()


@functools.cache
def mask_of(T, S, sink, window, dense=False):
    return hybrid_mask(torch.tensor([dense]), T, S, sink, window)[0, 0]


def tiles_with_work(mask, block_m, block_n):
    """Tiles from the first query row and the first key on; one with any True counts whole."""
    count = 0
    for row in range(0, mask.shape[0], block_m):
        for column in range(0, mask.shape[1], block_n):
            count += bool(mask[row : row + block_m, column : column + block_n].any())
    return count * block_m * block_n


def test_pairs_of_the_drawing_in_reference_py():
    # 5 tokens, sink 1, window 2: rows of 1, 2, 3, 3, 3 keys; dense 1 + 2 + 3 + 4 + 5
    assert dense_pairs(5, 5) == 15
    assert streaming_pairs(5, 5, 1, 2) == 12
    assert dense_pairs(2, 5) == 9 and streaming_pairs(2, 5, 1, 2) == 6  # the last two rows
    # in 2 x 2 tiles: rows 0-1 keys 0-1; rows 2-3 keys 0-1, 2-3; row 4 keys 0-1, 2-3, 4
    assert tile_pairs(5, 5, 1, 2, 2, 2) == 6 * 4


@pytest.mark.parametrize("T, S", SIZES)
def test_dense_pairs_are_those_of_the_mask(T, S):
    assert dense_pairs(T, S) == int(mask_of(T, S, 0, 1, dense=True).sum())


@pytest.mark.parametrize("sink, window", SINKS_AND_WINDOWS)
@pytest.mark.parametrize("T, S", SIZES)
def test_streaming_pairs_are_those_of_the_mask(T, S, sink, window):
    assert streaming_pairs(T, S, sink, window) == int(mask_of(T, S, sink, window).sum())


@pytest.mark.parametrize("block_m, block_n", [(1, 1), (4, 4), (16, 8), (8, 16), (5, 3), (16, 1), (64, 64)])
@pytest.mark.parametrize("sink, window", SINKS_AND_WINDOWS)
@pytest.mark.parametrize("T, S", SIZES)
def test_tile_pairs_are_the_tiles_with_work(T, S, sink, window, block_m, block_n):
    expected = tiles_with_work(mask_of(T, S, sink, window), block_m, block_n)
    assert tile_pairs(T, S, sink, window, block_m, block_n) == expected


def test_one_by_one_tiles_are_the_needed_pairs():
    assert tile_pairs(300, 300, 10, 70, 1, 1) == streaming_pairs(300, 300, 10, 70)


# 1 TFLOP is 10^12 / (4 * 125) = 2e9 pairs at head_dim 125
ROUND = Rates(100, 50, 25, 10, 10, call_us=1000, side_us=2000, origin="made up")


def test_estimate_by_hand():
    # 1000 tokens, sink 0, window 10: 500500 dense pairs, 0.25025e-3 TFLOP of a head. Streaming in 10 x 10 tiles: the
    # first ten rows 1 tile, the other 99 tens 2 tiles = 199 tiles, 19900 pairs, 9.95e-6 TFLOP.
    seconds = estimate(1000, 1000, 2, 8, 125, 0, 10, ROUND)
    assert seconds["dense"] == pytest.approx(8 * 0.25025e-3 / 100)
    streaming = 6 * 9.95e-6 / 25
    assert seconds["one_launch"] == pytest.approx(streaming + 2 * 0.25025e-3 / 50 + 1e-3)
    assert seconds["two_launches"] == pytest.approx(streaming + 2 * 0.25025e-3 / 100 + 1e-3 + 2e-3)


def test_a_batch_multiplies_the_work_not_the_overhead():
    one, three = (estimate(1000, 1000, 2, 8, 125, 0, 10, ROUND, batch=batch) for batch in (1, 3))
    assert three["dense"] == pytest.approx(3 * one["dense"])
    assert three["one_launch"] - 1e-3 == pytest.approx(3 * (one["one_launch"] - 1e-3))
    assert three["two_launches"] - 3e-3 == pytest.approx(3 * (one["two_launches"] - 3e-3))


def free(**changed):
    """Rates without overheads, in single rows and keys: tile pairs are needed pairs."""
    return dataclasses.replace(Rates(100, 100, 100, 1, 1, 0, 0, "made up"), **changed)


def test_rule_by_hand():
    # 100 tokens, sink 0, window 1: 5050 dense pairs, 100 streaming ones. Of 10 heads one is dense.
    # dense 10 * 5050 / 100 = 505; one launch 9 * 100 / s + 5050 / t
    def chosen(**rates):
        return plan(100, 100, 1, 10, 64, 0, 1, free(**rates))

    assert chosen() == "one_launch"  # 9 + 50.5
    assert chosen(dense_tiles=50) == "two_launches"  # 9 + 101 against 9 + 50.5
    assert chosen(dense_tiles=98) == "one_launch"  # 9 + 51.5 against 9 + 50.5: less than 3 % apart
    assert chosen(dense_tiles=10, streaming_tiles=1) == "dense"  # two launches: 900 + 50.5
    assert chosen(streaming_tiles=2) == "dense"  # 450 + 50.5 = 500.5 of 505: less than 3 % apart
    assert chosen(streaming_tiles=2.1) == "one_launch"  # 428.6 + 50.5 = 479.1 of 505


def test_overheads_count():
    # as above, in microseconds: a pair is 4 * 64e-12 TFLOP, 505 pairs at 1 TFLOP/s 0.129 us
    unit = 4e-6 * 64
    assert plan(100, 100, 1, 10, 64, 0, 1, free(call_us=400 * unit)) == "one_launch"  # 459.5 of 505
    assert plan(100, 100, 1, 10, 64, 0, 1, free(call_us=450 * unit)) == "dense"
    assert plan(100, 100, 1, 10, 64, 0, 1, free(dense_tiles=50, side_us=45 * unit)) == "two_launches"  # 104.5 of 110
    assert plan(100, 100, 1, 10, 64, 0, 1, free(dense_tiles=50, side_us=48 * unit)) == "one_launch"  # 107.5


def draws(count=300):
    generator = random.Random(0)
    for _ in range(count):
        dense = generator.uniform(1, 1000)
        yield Rates(
            dense,
            dense * generator.uniform(0.3, 1.1),
            dense * generator.uniform(0.2, 1.1),
            *generator.choice([(16, 16), (64, 64), (128, 32), (128, 128), (256, 1)]),
            call_us=generator.uniform(0, 500),
            side_us=generator.uniform(0, 200),
            origin="drawn",
        )


def test_all_dense_runs_dense():
    assert {plan(4096, 4096, 8, 8, 128, 16, 64, rates) for rates in draws(50)} == {"dense"}


def test_a_streaming_head_that_sees_everything_runs_dense():
    assert plan(100, 100, 1, 8, 64, 30, 70, free(streaming_tiles=1e6)) == "dense"
    assert plan(101, 101, 1, 8, 64, 30, 70, free(streaming_tiles=1e6)) == "one_launch"


def test_without_dense_heads_or_apart_there_are_no_two_launches():
    for rates in draws():
        rates = dataclasses.replace(rates, side_us=0.0, dense_tiles=rates.dense / 10)
        assert plan(20000, 20000, 0, 8, 128, 16, 64, rates) != "two_launches"
        assert plan(20000, 20000, 2, 8, 128, 16, 64, rates, separable=False) != "two_launches"
    assert plan(20000, 20000, 2, 8, 128, 16, 64, rates) == "two_launches"  # of the last draw, or nothing was shown


def test_short_prompts_run_dense_and_long_ones_do_not():
    for rates in draws():
        assert plan(300, 300, 1, 32, 128, 128, 256, rates) == "dense"
        assert plan(1 << 19, 1 << 19, 1, 32, 128, 128, 2048, rates) != "dense"


def test_what_pays_goes_on_to_pay():
    for rates in draws(60):
        for num_dense in (0, 1, 4):
            lengths = [*range(256, 8192, 256), *range(8192, 1 << 17, 4096)]
            pays = [plan(T, T, num_dense, 32, 128, 128, 2048, rates) != "dense" for T in lengths]
            assert pays == sorted(pays)


def test_fewer_dense_heads_never_lose_what_more_of_them_won():
    for rates in draws(100):
        if rates.dense_tiles <= rates.dense <= 2 * rates.streaming_tiles:  # a streaming head is the cheaper one
            counts = range(32, -1, -1)
            pays = [plan(16384, 16384, count, 32, 128, 128, 2048, rates) != "dense" for count in counts]
            assert pays == sorted(pays) and pays[-1]


@pytest.mark.parametrize("keep", [0.0, 0.05, 0.3])
def test_break_even_is_the_first_length_that_pays(keep):
    for rates in draws(40):
        lengths = range(256, 65537, 256)
        paying = [T for T in lengths if plan(T, T, keep * 32, 32, 128, 128, 1024, rates) != "dense"]
        expected = paying[0] if paying else None
        assert break_even(keep, 32, 128, 128, 1024, rates, longest=65536) == expected


def test_break_even_of_a_layer_that_is_dense():
    assert break_even(1.0, 32, 128, 128, 1024, free()) is None


def test_every_built_in_rate_says_where_it_comes_from():
    rows = [*cost._GPU.values(), *cost._CPU.values(), cost._GPU_FULL]
    for rates in rows:
        assert re.search(r"not measured|measured .*\d{4}-\d{2}-\d{2}", rates.origin), rates
        numbers = [rates.dense, rates.dense_tiles, rates.streaming_tiles, rates.block_m, rates.block_n]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert rates.call_us >= 0 and rates.side_us >= 0
    assert set(cost._GPU) == set(tiles.SHARED_MEMORY)  # every architecture that has tiles


def test_rates_of_a_cpu_fall_back_to_float32():
    assert cost.rates_of(CPU, torch.float32) is cost._CPU[torch.float32]
    assert cost.rates_of(CPU, torch.float64) is cost._CPU[torch.float32]


@pytest.mark.parametrize("architecture", sorted(tiles.SHARED_MEMORY))
def test_rates_of_a_gpu_are_by_architecture_and_precision(monkeypatch, architecture):
    monkeypatch.setattr(tiles, "architecture_of", lambda device: architecture)
    monkeypatch.setattr(tuning, "machine", lambda device: "a GPU")
    for dtype in (torch.float16, torch.bfloat16):
        assert cost.rates_of(torch.device("cuda"), dtype) is cost._GPU[architecture]
    for dtype in (torch.float32, torch.float64):
        assert cost.rates_of(torch.device("cuda"), dtype) is cost._GPU_FULL


def test_what_was_measured_comes_first():
    tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(ROUND)}})
    assert cost.rates_of(CPU, torch.float32) == ROUND
    assert cost.rates_of(CPU, torch.float64) is cost._CPU[torch.float32]  # another dtype, not measured
