"""The autotuner on a CPU: real runs at toy size, and its choices and sums under a clock of ours."""

import dataclasses
import json
import logging

import pytest
import torch

from corehead_hf.kernels import autotune, cost, hybrid_prefill, tile_check, tiles, tuning
from corehead_hf.kernels.autotune import TuningResult
from corehead_hf.kernels.cost import Rates
from corehead_hf.kernels.tiles import Tile

CPU = torch.device("cpu")
SMALL, LARGE = Tile(32, 32, 4, 1), Tile(64, 32, 4, 1)
SPECIALIZED = Tile(128, 64, 4, 2, descriptors=True, warp_specialize=True)
NAMES = {
    SMALL: "32x32, 4 warps, 1 stages",
    LARGE: "64x32, 4 warps, 1 stages",
    SPECIALIZED: "128x64, 4 warps, 2 stages, descriptors, warp-specialised",
}
SIZES = {"head_dim": 16, "num_heads": 4, "num_kv_heads": 2, "sink_size": 4, "window_size": 20, "length": 64}


@pytest.fixture(autouse=True)
def file(monkeypatch, tmp_path):
    """Where it saves; toy sizes for the checks; two tiles to choose from."""
    path = tmp_path / "measured.json"
    monkeypatch.setattr(tuning, "file", lambda: path)
    for name, value in (("_TOKENS", 160), ("_CACHED", 32), ("_WINDOW", 50)):
        monkeypatch.setattr(tile_check, name, value)
    monkeypatch.setattr(tiles, "trials", lambda architecture, dtype, head_dim: (SMALL, LARGE))
    tile_check._case.cache_clear()
    tuning.forget()
    yield path
    tile_check._case.cache_clear()
    tuning.forget()


@pytest.fixture
def clock(monkeypatch):
    """clock[name, num_dense] or clock[way]: milliseconds that each call is said to take; 1 where it is not set."""
    times = {}

    def interleave(calls, device, repeats, what):
        return {name: times.get((what, name), times.get(name, 1.0)) for name in calls}, {}

    monkeypatch.setattr(autotune, "interleave", interleave)
    return times


@pytest.fixture
def trusted(monkeypatch):
    """Tiles are right without a look at them, which takes seconds in the interpreter."""
    monkeypatch.setattr(tile_check, "check", lambda *args: None)


def tune(backend="triton", repeats=1, **changed):
    return autotune.autotune("cpu", torch.float32, **{**SIZES, "backend": backend, "repeats": repeats, **changed})


def rows_of(result):
    return {row.name: row for row in result.rows}


def spoil(monkeypatch, tile, change, when=lambda kwargs: True):
    """What the kernel gives with `tile` is changed from now on."""
    right = hybrid_prefill.hybrid_attention

    def wrong(*args, **kwargs):
        output = right(*args, **kwargs)
        if kwargs.get("tile") == tile and when(kwargs):
            change(output)
        return output

    monkeypatch.setattr(hybrid_prefill, "hybrid_attention", wrong)


def fail(output):
    raise RuntimeError("this chip will not")


def test_tiles_from_end_to_end(file):
    result = tune()
    rows = rows_of(result)
    assert list(rows) == [NAMES[SMALL], NAMES[LARGE], "SDPA"]
    for tile in (SMALL, LARGE):
        row = rows[NAMES[tile]]
        assert row.tile == tile and row.note == "" and min(row.streaming_ms, row.one_dense_ms, row.all_dense_ms) > 0
    assert rows["SDPA"].all_dense_ms > 0 and rows["SDPA"].streaming_ms is None
    fastest = min((SMALL, LARGE), key=lambda tile: rows[NAMES[tile]].one_dense_ms)
    assert result.tile == fastest and result.chosen == NAMES[fastest] and result.dense == "SDPA"
    assert (result.rates.block_m, result.rates.block_n) == (fastest.block_m, fastest.block_n)
    assert [check.length for check in result.checks] == [32, 128]
    for check in result.checks:
        assert set(check.measured_ms) == set(check.predicted_ms) == {"dense", "one_launch", "two_launches"}
    assert (result.machine, result.dtype, result.length) == ("cpu", "float32", 64)
    # saved, and used from now on
    assert result.file == str(file)
    assert tiles.candidates(CPU, torch.float32, 16, descriptors=False)[0] == fastest
    assert cost.rates_of(CPU, torch.float32) == result.rates
    assert "measured by corehead autotune on " in result.rates.origin
    assert json.loads(json.dumps(result.to_dict())) == json.loads(file_form(result))


def file_form(result):
    """The JSON form, by another road: fields one by one."""
    form = {field.name: getattr(result, field.name) for field in dataclasses.fields(TuningResult)}
    form["tile"] = None if result.tile is None else vars(result.tile)
    form["rates"] = vars(result.rates)
    form["checks"] = [vars(check) for check in result.checks]
    form["rows"] = [{**vars(row), "tile": None if row.tile is None else vars(row.tile)} for row in result.rows]
    return json.dumps(form)


def test_banded_from_end_to_end(file):
    result = tune("auto", repeats=2, length=600)
    rows = rows_of(result)
    assert list(rows) == ["banded", "SDPA"]
    assert min(rows["banded"].streaming_ms, rows["banded"].one_dense_ms, rows["banded"].all_dense_ms) > 0
    assert result.tile is None and result.chosen == "banded"
    rates = result.rates
    assert (rates.block_m, rates.block_n, rates.side_us) == (256, 1, cost.NO_SIDE)
    # 600 tokens: 180300 pairs, 4 heads, head_dim 16
    assert rates.dense == pytest.approx(4 * 16 * 4 * 180300 / rows["SDPA"].all_dense_ms * 1e-9, rel=1e-3)
    assert [check.length for check in result.checks] == [300, 1200]
    assert all(set(check.measured_ms) == {"dense", "one_launch"} for check in result.checks)
    assert cost.rates_of(CPU, torch.float32) == rates
    assert list(json.loads(file.read_text())["cpu"]) == ["rates"]
    assert json.loads(json.dumps(result.to_dict())) == json.loads(file_form(result))


def test_nothing_is_saved_unless_asked(file):
    result = tune("banded", save=False)
    assert result.file is None and not file.exists()
    assert cost.rates_of(CPU, torch.float32) is cost._CPU[torch.float32]


def test_the_sizes_default_to_the_kind_of_machine(clock, monkeypatch):
    layers = []
    monkeypatch.setattr(autotune, "_check_layer", lambda layer: layers.append(layer) or fail(None))
    for backend in ("triton", "banded"):
        with pytest.raises(RuntimeError):
            autotune.autotune("cpu", backend=backend)
    assert [(la.length, la.num_heads, la.num_kv_heads) for la in layers] == [(32768, 32, 8), (8192, 8, 2)]
    assert {(la.dtype, la.head_dim, la.sink_size, la.window_size) for la in layers} == {
        (torch.bfloat16, 128, 128, 2048)
    }


def test_the_choice_is_by_one_dense_head(clock, trusted):
    clock |= {(NAMES[SMALL], 0): 2.0, (NAMES[SMALL], 1): 5.0, (NAMES[SMALL], 4): 9.0}
    clock |= {(NAMES[LARGE], 0): 3.0, (NAMES[LARGE], 1): 4.0, (NAMES[LARGE], 4): 10.0}
    result = tune()
    assert result.tile == LARGE
    row = rows_of(result)[NAMES[SMALL]]
    assert (row.streaming_ms, row.one_dense_ms, row.all_dense_ms) == (2.0, 5.0, 9.0)


def test_rates_by_hand(clock, trusted):
    # 64 tokens in 32 x 32 tiles, sink 4, window 20: rows 0-31 one tile, rows 32-63 two (keys 13-63) = 3 * 1024 pairs;
    # dense 64 * 65 / 2 = 2080. A pair of 4 heads of 16 is 4 * 4 * 16 = 256 operations.
    clock |= {(NAMES[SMALL], 0): 3.0, (NAMES[SMALL], 1): 0.5, (NAMES[SMALL], 4): 4.0, ("SDPA", 4): 2.0}
    # a call of 64 tokens: 1.0 ms more than dense, and another 0.25 ms in two launches
    clock |= {("64 tokens", "dense"): 0.5, ("64 tokens", "one"): 1.5, ("64 tokens", "two"): 1.75}
    rates = tune().rates
    assert rates.dense == pytest.approx(256 * 2080 / 2e-3 / 1e12, rel=1e-3)
    assert rates.dense_tiles == pytest.approx(256 * 2080 / 4e-3 / 1e12, rel=1e-3)
    assert rates.streaming_tiles == pytest.approx(256 * 3072 / 2e-3 / 1e12, rel=1e-3)  # 3 ms less the call's 1
    assert (rates.block_m, rates.block_n, rates.call_us, rates.side_us) == (32, 32, 1000.0, 250.0)


def test_a_call_that_is_all_overhead_still_gives_a_rate(clock, trusted):
    clock |= {(NAMES[SMALL], 1): 0.5, ("64 tokens", "dense"): 1.0, ("64 tokens", "one"): 100.0, "two": 1.0}
    rates = tune().rates
    assert rates.streaming_tiles == pytest.approx(256 * 3072 / 0.5e-3 / 1e12, rel=1e-3)  # never less than half of 1 ms
    assert (rates.call_us, rates.side_us) == (99000.0, 0.0)  # nor a negative overhead


def test_break_even_and_checks_follow_from_the_rates(clock, trusted):
    clock |= {(NAMES[SMALL], 1): 0.5, ("32 tokens", "dense"): 7.0, ("128 tokens", "two_launches"): 8.0}
    result = tune()
    assert result.break_even == cost.break_even(0.05, 4, 16, 4, 20, result.rates)
    short, long = result.checks
    assert short.measured_ms == {"dense": 7.0, "one_launch": 1.0, "two_launches": 1.0}
    assert long.measured_ms["two_launches"] == 8.0
    # dense goes with the pairs: 32 * 33 / 2 = 528 and 8256 against 2080, which took 1 ms
    assert short.predicted_ms["dense"] == pytest.approx(528 / 2080, rel=1e-3)
    assert long.predicted_ms["dense"] == pytest.approx(8256 / 2080, rel=1e-3)
    assert long.plan == cost.plan(128, 128, 1, 4, 16, 4, 20, result.rates)


@pytest.mark.parametrize("change, why", [(lambda output: output.mul_(1.01), "wrong"), (fail, "this chip will not")])
def test_a_tile_that_is_wrong_or_raises_is_never_chosen(clock, monkeypatch, caplog, change, why):
    clock |= {(NAMES[SMALL], 1): 0.1}  # it would win
    spoil(monkeypatch, SMALL, change)
    with caplog.at_level(logging.WARNING):
        result = tune()
    row = rows_of(result)[NAMES[SMALL]]
    assert result.tile == LARGE and why in row.note and row.one_dense_ms is None
    assert NAMES[SMALL] in caplog.text and why in caplog.text


def test_a_tile_that_is_wrong_with_padding_only_is_never_chosen(clock, monkeypatch, caplog):
    clock |= {(NAMES[SMALL], 1): 0.1}
    spoil(monkeypatch, SMALL, lambda output: output.mul_(1.01), lambda kwargs: kwargs.get("first_token") is not None)
    with caplog.at_level(logging.WARNING):
        result = tune()
    assert result.tile == LARGE and "padded=True" in rows_of(result)[NAMES[SMALL]].note
    assert NAMES[SMALL] in caplog.text


def test_a_tile_that_raises_at_the_full_length_only_is_never_chosen(trusted, monkeypatch, caplog):
    spoil(monkeypatch, SMALL, fail, lambda kwargs: "output" not in kwargs)  # two_launches and the check bring one
    with caplog.at_level(logging.WARNING):
        result = tune()
    row = rows_of(result)[NAMES[SMALL]]
    assert result.tile == LARGE and row.note == "RuntimeError: this chip will not" and row.one_dense_ms is None


def test_without_a_right_tile_it_says_why(clock, monkeypatch, file):
    monkeypatch.setattr(tiles, "trials", lambda architecture, dtype, head_dim: (SMALL,))
    spoil(monkeypatch, SMALL, fail)
    with pytest.raises(RuntimeError, match=f"no tile ran rightly on cpu: {NAMES[SMALL]}: RuntimeError: this chip"):
        tune()
    assert not file.exists()


def test_tiles_that_do_not_fit_are_not_tried(clock, trusted, monkeypatch):
    wide = dataclasses.replace(LARGE, descriptors=True)
    monkeypatch.setattr(tiles, "trials", lambda architecture, dtype, head_dim: (SMALL, LARGE, wide))
    # the larger one's queries alone are 64 * 16 * 4 bytes
    limit = LARGE.shared_memory("interpreted", 4, 16) - 1
    assert SMALL.shared_memory("interpreted", 4, 16) <= limit
    monkeypatch.setattr(tiles, "shared_memory_of", lambda device: limit)
    assert list(rows_of(tune())) == [NAMES[SMALL], "SDPA"]
    monkeypatch.setattr(tiles, "shared_memory_of", lambda device: 1 << 30)
    assert list(rows_of(tune(head_dim=24))) == [NAMES[SMALL], NAMES[LARGE], "SDPA"]  # 24 is no descriptor's width
    assert len(rows_of(tune())) == 4


@pytest.fixture
def specialized(monkeypatch, file, trusted):
    """specialized(verdict): a warp-specialising tile is in the table; its process says `verdict`. Gives what it saw."""
    seen = []

    def install(verdict):
        def check_apart(tile, layer, seconds):
            seen.append((tile, json.loads(file.read_text())["cpu"]))
            return verdict

        monkeypatch.setattr(tiles, "trials", lambda architecture, dtype, head_dim: (SPECIALIZED, SMALL, LARGE))
        monkeypatch.setattr(tile_check, "check_apart", check_apart)
        return seen

    return install


def test_a_specialised_tile_comes_last_and_may_win(clock, specialized, file):
    seen = specialized(None)
    clock |= {(NAMES[SPECIALIZED], 1): 0.1, (NAMES[SMALL], 1): 0.2}
    result = tune()
    ((tile, known),) = seen
    assert tile == SPECIALIZED
    assert known["tiles"] == {"float32 16": dataclasses.asdict(SMALL)}  # saved before it was touched
    assert result.tile == SPECIALIZED and result.rates.block_m == 128
    assert tuning.stored(CPU, "tiles", "float32 16", Tile) == SPECIALIZED
    assert cost.rates_of(CPU, torch.float32) == result.rates


def test_a_specialised_tile_that_hangs_or_loses_changes_nothing(clock, specialized, caplog):
    specialized("not done after 60 s, it may hang")
    clock |= {(NAMES[SPECIALIZED], 1): 0.1, (NAMES[SMALL], 1): 0.2}
    with caplog.at_level(logging.WARNING):
        result = tune()
    assert result.tile == SMALL and "may hang" in rows_of(result)[NAMES[SPECIALIZED]].note and "may hang" in caplog.text
    specialized(None)
    clock |= {(NAMES[SPECIALIZED], 1): 0.3}
    assert tune().tile == SMALL


def test_specialised_tiles_can_be_left_out(clock, specialized):
    seen = specialized(None)
    result = tune(warp_specialize=False)
    assert seen == [] and NAMES[SPECIALIZED] not in rows_of(result)


def test_tiles_whose_names_are_alike_are_the_same():
    every = {tile for architecture in tiles._HALF for tile in tiles.trials(architecture, torch.float16, 128)}
    for architecture in tiles._HALF:
        for head_dim in (64, 128, 256):
            for dtype in (torch.float16, torch.float32):
                every |= set(tiles.table(architecture, dtype, head_dim))
    assert len({autotune._tile_name(tile) for tile in every}) == len(every)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"repeats": 0}, "repeats=0"),
        ({"length": 47}, "length=47.*pass 48 or more"),
        ({"num_heads": 5}, "5 query heads on 2"),
        ({"num_heads": 1, "num_kv_heads": 1}, "1 query heads on 1"),
        ({"backend": "magic"}, "'magic'"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        tune(**changed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="sees no GPU - use 'cpu'"):
        autotune.autotune("cuda")


@pytest.mark.gpu
def test_a_real_run(monkeypatch, file):
    monkeypatch.undo()  # the real tables and checks
    monkeypatch.setattr(tuning, "file", lambda: file)
    result = autotune.autotune("cuda", length=4096, window_size=1024, save=False)
    assert not file.exists() and result.file is None
    assert result.tile in tiles.trials(tiles.architecture_of("cuda"), torch.bfloat16, 128)
    rates = result.rates
    assert isinstance(rates, Rates) and min(rates.dense, rates.dense_tiles, rates.streaming_tiles) > 1
    assert 0 < rates.call_us < 2000
    assert all(check.measured_ms for check in result.checks)
