"""Measures a machine: which tile of the Triton kernel is fastest, and the rates that cost.plan reckons with.

A tile is compared with float64 before it is timed; one that raises or is wrong is logged and never chosen. Tiles that
specialise warps may hang: they come last, in a process of their own, when everything else is measured and saved.
Where banded.py runs (a CPU, no Triton) there are no tiles to choose, only its rates to measure.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from corehead_hf.kernels import banded, cost, resolve_backend, tile_check, tiles, tuning
from corehead_hf.kernels.cost import Rates
from corehead_hf.kernels.tiles import Tile
from corehead_hf.kernels.trial import Call, Layer, dense_kernels, interleave, one_launch, rounded, two_launches

logger = logging.getLogger(__name__)

# length, query heads, kv heads: what takes minutes on the kind of machine
_DEFAULTS = {"triton": (32768, 32, 8), "banded": (8192, 8, 2)}
_HANG_SECONDS = 60
_TINY = 64  # tokens of a call whose time is all overhead
_KEEP = 0.05  # share of dense heads that the break-even is told for


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one way to compute the layer; None where it was not timed, `note` says why.

    Args:
        name: of the tile or kernel.
        tile: None for a kernel without one.
        streaming_ms, one_dense_ms, all_dense_ms: with no, one and every head dense.
        note: empty, or why it is not to be used.
    """

    name: str
    tile: Tile | None = None
    streaming_ms: float | None = None
    one_dense_ms: float | None = None
    all_dense_ms: float | None = None
    note: str = ""


@dataclass(frozen=True)
class PlanCheck:
    """What cost.plan and cost.estimate say with one dense head, and what the clock says; milliseconds by way."""

    length: int
    plan: cost.Plan
    predicted_ms: dict[cost.Plan, float]
    measured_ms: dict[cost.Plan, float]


@dataclass(frozen=True)
class TuningResult:
    """What autotune found.

    Args:
        machine: the name it is filed under.
        dtype, head_dim, num_heads, num_kv_heads, sink_size, window_size, length: what was measured.
        rows: every kernel and tile that was tried, in milliseconds.
        chosen: name of the row whose rates these are.
        tile: the chosen one; None where banded.py runs.
        dense: name of the fastest dense kernel.
        rates: for cost.plan.
        break_even: prompt length in tokens from which cost.plan leaves dense attention at 5 % dense heads, or None.
        checks: of the rule at other lengths.
        file: where the tile and the rates were saved; None if they were not.
    """

    machine: str
    dtype: str
    head_dim: int
    num_heads: int
    num_kv_heads: int
    sink_size: int
    window_size: int
    length: int
    rows: tuple[Row, ...]
    chosen: str
    tile: Tile | None
    dense: str
    rates: Rates
    break_even: int | None
    checks: tuple[PlanCheck, ...]
    file: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, for JSON."""
        return dataclasses.asdict(self)


def autotune(
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    *,
    head_dim: int = 128,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    sink_size: int = 128,
    window_size: int = 2048,
    length: int | None = None,
    repeats: int = 5,
    backend: str = "auto",
    warp_specialize: bool = True,
    save: bool = True,
) -> TuningResult:
    """Find the fastest tile for a machine and measure its rates; hybrid prefill uses both from then on.

    Args:
        device: where to measure; leave it to this alone meanwhile.
        dtype: of the tensors.
        head_dim: D; a tile is chosen for this one.
        num_heads, num_kv_heads: of the layer; None means 32 and 8 for tiles, 8 and 2 for "banded".
        sink_size, window_size: of its streaming heads, tokens.
        length: tokens of the prefill, more than sink and window; None means 32768 for tiles, 8192 for "banded". The
            rates are checked at half and twice the length.
        repeats: timed runs of each candidate, which take turns, after two that warm up.
        backend: "auto", "triton" or "banded", as in kernels.hybrid_attention.
        warp_specialize: also try the tiles that specialise warps; False where one of them hangs.
        save: keep the tile and the rates on this machine, see tuning.py.

    Returns:
        TuningResult. Of the tiles that are right, the fastest with one dense head is chosen.

    Raises:
        ValueError: a size or the device does not fit.
        RuntimeError: no tile and no dense kernel ran.
    """
    device = torch.device(device)
    _check_request(device, repeats)
    kind = "triton" if resolve_backend(backend, device).startswith("triton") else "banded"
    tokens, Hq, Hkv = _DEFAULTS[kind]
    layer = Layer(
        device, dtype, head_dim, num_heads or Hq, num_kv_heads or Hkv, sink_size, window_size, length or tokens
    )
    _check_layer(layer)
    rows = _measure(layer, _candidates(layer, warp_specialize=False) if kind == "triton" else [None], repeats)
    best = _best(layer, rows)
    rates = _rates(layer, rows, best, repeats)
    file = _save(layer, rows[best].tile, rates) if save else None
    specialized = _candidates(layer, warp_specialize=True) if kind == "triton" and warp_specialize else []
    if specialized:  # they may take this process with them: what was found so far is saved
        again = _measure(layer, [rows[best].tile, *specialized], repeats)
        rows |= {name: row for name, row in again.items() if name not in rows}
        faster = _best(layer, again)
        if faster != best:
            best, rates = faster, _rates(layer, again, faster, repeats)
            file = _save(layer, rows[best].tile, rates) if save else None
    dense = _fastest_dense(rows)
    return TuningResult(
        machine=tuning.machine(device),
        dtype=tuning.dtype_name(dtype),
        head_dim=head_dim,
        num_heads=layer.num_heads,
        num_kv_heads=layer.num_kv_heads,
        sink_size=sink_size,
        window_size=window_size,
        length=layer.length,
        rows=tuple(rows.values()),
        chosen=best,
        tile=rows[best].tile,
        dense=dense,
        rates=rates,
        break_even=cost.break_even(_KEEP, layer.num_heads, head_dim, sink_size, window_size, rates),
        checks=_check_plan(layer, rows[best], dense, rates, repeats),
        file=None if file is None else str(file),
    )


def _check_request(device: torch.device, repeats: int) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"tuning on {device} was asked for - torch {torch.__version__} sees no GPU - use 'cpu'.")
    if repeats < 1:
        raise ValueError(f"repeats={repeats} was asked for - a median needs runs - pass at least 1.")


def _check_layer(layer: Layer) -> None:
    if layer.num_heads % layer.num_kv_heads or layer.num_heads < 2:
        raise ValueError(
            f"{layer.num_heads} query heads on {layer.num_kv_heads} kv heads were asked for - they are shared out "
            "evenly, and one is dense while others stream - pass a multiple, at least 2."
        )
    if layer.length < 2 * (layer.sink_size + layer.window_size):  # it is halved for the check of the rule
        raise ValueError(
            f"length={layer.length} was asked for with sink {layer.sink_size} and window {layer.window_size} - half of "
            f"it must be longer than what a streaming head sees - pass {2 * (layer.sink_size + layer.window_size)} "
            "or more."
        )


def _candidates(layer: Layer, warp_specialize: bool) -> list[Tile | None]:
    """The tiles that the device's shared memory allows, of one of the two kinds."""
    architecture, limit = tiles.architecture_of(layer.device), tiles.shared_memory_of(layer.device)
    return [
        tile
        for tile in tiles.trials(architecture, layer.dtype, layer.head_dim)
        if tile.warp_specialize == warp_specialize
        and tile.shared_memory(architecture, layer.dtype.itemsize, layer.head_dim) <= limit
        and not (tile.descriptors and layer.head_dim & (layer.head_dim - 1))  # no descriptor has such a width
    ]


def _measure(layer: Layer, candidates: Sequence[Tile | None], repeats: int) -> dict[str, Row]:
    """Checks the tiles, then times the right ones and torch's dense kernels, all in turns; rows by name."""
    rows, qkv = {}, layer.tensors(layer.length)
    calls: dict[tuple[str, int], Call] = {}
    for tile in transformers_logging.tqdm(candidates, desc="checking", unit="tile"):
        name = _tile_name(tile)
        rows[name] = Row(name, tile, note=_problem(tile, layer))
        if not rows[name].note:
            calls |= {(name, count): one_launch(tile, layer, qkv, count) for count in (0, 1, layer.num_heads)}
    for name, call in dense_kernels(layer, qkv).items():
        rows[name] = Row(name)
        calls[name, layer.num_heads] = call
    times, problems = interleave(calls, layer.device, repeats, f"{layer.length} tokens")
    for name, row in rows.items():
        none, one, every = (times.get((name, count)) for count in (0, 1, layer.num_heads))
        note = row.note or "; ".join(dict.fromkeys(why for (of, _), why in problems.items() if of == name))
        rows[name] = Row(name, row.tile, none, one, every, note)
        if note:
            logger.warning("%s is not used on %s: %s", name, layer.device, note)
    return rows


def _problem(tile: Tile | None, layer: Layer) -> str:
    """Why a tile is not to be timed, or nothing."""
    if tile is None:
        return ""
    if tile.warp_specialize:
        return tile_check.check_apart(tile, layer, _HANG_SECONDS) or ""
    return tile_check.check(tile, layer) or ""


def _best(layer: Layer, rows: dict[str, Row]) -> str:
    """The fastest candidate that is right in every variant too; one that is not gets a note in `rows`."""
    timed = [row for row in rows.values() if row.one_dense_ms is not None and not row.note]
    for row in sorted(timed, key=lambda row: row.one_dense_ms or 0.0):
        if row.tile is None or row.tile.warp_specialize:  # every variant of the latter was checked before
            return row.name
        found = (tile_check.check(row.tile, layer, *variant) for variant in tile_check.VARIANTS)
        problem = next(filter(None, found), None)
        if problem is None:
            return row.name
        logger.warning("%s is not used on %s: %s", row.name, layer.device, problem)
        rows[row.name] = dataclasses.replace(row, note=problem)
    raise RuntimeError(
        f"no tile ran rightly on {layer.device}: " + "; ".join(f"{r.name}: {r.note}" for r in rows.values())
    )


def _fastest_dense(rows: dict[str, Row]) -> str:
    timed = {row.name: row.all_dense_ms for row in rows.values() if row.name.startswith("SDPA") and row.all_dense_ms}
    if not timed:
        raise RuntimeError("no dense kernel of torch ran: " + "; ".join(f"{r.name}: {r.note}" for r in rows.values()))
    return min(timed, key=lambda name: timed[name])


def _rates(layer: Layer, rows: dict[str, Row], name: str, repeats: int) -> Rates:
    """What cost.plan needs, from the times of one candidate and of the fastest dense kernel."""
    row, fastest = rows[name], _fastest_dense(rows)
    if row.streaming_ms is None or row.all_dense_ms is None:
        raise RuntimeError(f"{name} was not timed with no head and with every head dense: {row.note}.")
    call_us, side_us = _overheads(layer, row.tile, fastest, repeats)
    chunk = banded._CPU_CHUNK if layer.device.type == "cpu" else banded._DEVICE_CHUNK
    block_m, block_n = (chunk, 1) if row.tile is None else (row.tile.block_m, row.tile.block_n)
    T, sizes = layer.length, (layer.sink_size, layer.window_size)

    def rate(pairs: int, ms: float) -> float:
        return rounded(4e-9 * layer.head_dim * layer.num_heads * pairs / ms)

    all_dense_ms = row.all_dense_ms
    if row.tile is None and row.one_dense_ms is not None:  # in PyTorch one dense head alone fills fewer cores than all
        rest_ms = row.streaming_ms * (layer.num_heads - 1) / layer.num_heads
        all_dense_ms = max(all_dense_ms, layer.num_heads * (row.one_dense_ms - rest_ms))
    streaming_ms = row.streaming_ms - min(1e-3 * call_us, row.streaming_ms / 2)
    return Rates(
        dense=rate(cost.dense_pairs(T, T), rows[fastest].all_dense_ms or 0.0),
        dense_tiles=rate(cost.dense_pairs(T, T), all_dense_ms),
        streaming_tiles=rate(cost.tile_pairs(T, T, *sizes, block_m, block_n), streaming_ms),
        block_m=block_m,
        block_n=block_n,
        call_us=rounded(call_us),
        side_us=rounded(side_us),
        origin=_origin(layer.device),
    )


def _overheads(layer: Layer, tile: Tile | None, dense: str, repeats: int) -> tuple[float, float]:
    """Microseconds that a tiny hybrid call takes beyond a dense one, and a second launch beyond that."""
    qkv, tiny = layer.tensors(_TINY), {"sink_size": 0, "window_size": _TINY // 4}
    calls = {"dense": dense_kernels(layer, qkv)[dense], "one": one_launch(tile, layer, qkv, 1, **tiny)}
    if tile is not None:
        calls["two"] = two_launches(tile, layer, qkv, **tiny)
    ms, problems = interleave(calls, layer.device, 4 * repeats, f"{_TINY} tokens")
    if problems:
        raise RuntimeError(f"calls of {_TINY} tokens did not run on {layer.device}: {problems}.")
    side_us = 1e3 * (ms["two"] - ms["one"]) if tile is not None else cost.NO_SIDE
    return max(0.0, 1e3 * (ms["one"] - ms["dense"])), max(0.0, side_us)


def _check_plan(layer: Layer, row: Row, dense: str, rates: Rates, repeats: int) -> tuple[PlanCheck, ...]:
    """Predicted and measured times with one dense head, at half and at twice the length that the rates come from."""
    checks = []
    for length in (layer.length // 2, 2 * layer.length):
        qkv = layer.tensors(length)
        calls: dict[cost.Plan, Call] = {
            "dense": dense_kernels(layer, qkv)[dense],
            "one_launch": one_launch(row.tile, layer, qkv, 1),
        }
        if row.tile is not None:
            calls["two_launches"] = two_launches(row.tile, layer, qkv)
        measured, problems = interleave(calls, layer.device, repeats, f"{length} tokens")
        for way, problem in problems.items():
            logger.warning("%s of %d tokens was not timed: %s", way, length, problem)
        sizes = (layer.num_heads, layer.head_dim, layer.sink_size, layer.window_size)
        seconds = cost.estimate(length, length, 1, *sizes, rates)
        plan = cost.plan(length, length, 1, *sizes, rates, separable=row.tile is not None)
        checks.append(PlanCheck(length, plan, {way: rounded(1e3 * seconds[way]) for way in measured}, measured))
    return tuple(checks)


def _save(layer: Layer, tile: Tile | None, rates: Rates) -> Path:
    measured: dict[str, Any] = {"rates": {tuning.dtype_name(layer.dtype): dataclasses.asdict(rates)}}
    if tile is not None:
        measured["tiles"] = {tiles.tile_key(layer.dtype, layer.head_dim): dataclasses.asdict(tile)}
    return tuning.save(layer.device, measured)


def _origin(device: torch.device) -> str:
    where = tuning.machine(device)
    if device.type == "cpu":
        where = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return f"measured by corehead autotune on {datetime.date.today()}, {where}, torch {torch.__version__}"


def _tile_name(tile: Tile | None) -> str:
    if tile is None:
        return "banded"
    name = f"{tile.block_m}x{tile.block_n}, {tile.num_warps} warps, {tile.num_stages} stages"
    return name + ", descriptors" * tile.descriptors + ", warp-specialised" * tile.warp_specialize
