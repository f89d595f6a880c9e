"""What a prefill attention costs: exact pair counts, rates of machines, and the rule that picks the cheapest way.

    time = pairs that are computed * 4 * head_dim / rate

Pairs are exact; rates are a measurement, or where none was made a published figure that says so in `origin`.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from typing import Literal

import torch

from corehead_hf.kernels import tiles, tuning

Plan = Literal["dense", "one_launch", "two_launches"]

NO_SIDE = 1e12

# A way must be estimated this much faster before it is left for another: the estimate is that good, not better.
_MARGIN = 0.97


@dataclass(frozen=True)
class Rates:
    """TFLOP/s of one machine and dtype, on the pairs that a way really computes.

    Args:
        dense: the best dense causal kernel there is.
        dense_tiles: the dense heads of our kernel.
        streaming_tiles: its streaming heads.
        block_m, block_n: query rows and keys of a tile in which streaming heads compute.
        call_us: microseconds a hybrid call takes beyond its tiles, and a dense call does not.
        side_us: microseconds that a second launch on a side stream costs; NO_SIDE where there is none.
        origin: where the figures come from.
    """

    dense: float
    dense_tiles: float
    streaming_tiles: float
    block_m: int
    block_n: int
    call_us: float
    side_us: float
    origin: str


_PUBLISHED = "published for other kernels of the kind, not measured: "
# float16 and bfloat16
_GPU: dict[str, Rates] = {
    "sm_80": Rates(190, 170, 150, 128, 32, 60, 60, _PUBLISHED + "FA2 and Triton on A100"),
    "sm_89": Rates(150, 135, 120, 128, 32, 60, 60, _PUBLISHED + "scaled from A100"),
    "sm_90": Rates(600, 460, 430, 128, 128, 60, 60, _PUBLISHED + "cuDNN 580-640, Triton 430-490 on H100"),
    "sm_100": Rates(1100, 700, 650, 128, 64, 60, 60, _PUBLISHED + "scaled from H100"),
    "gfx942": Rates(500, 350, 330, 128, 64, 60, 60, _PUBLISHED + "vendor's flash attention and Triton on MI300X"),
}
_GPU_FULL = Rates(15, 10, 9, 32, 16, 60, 60, "not measured, a guess: full precision without tensor cores on any GPU")
# banded.py: dense heads run in torch's own kernel, a chunk of 256 rows is the tile.
_XEON = "measured on 2 cores of a Xeon with AVX-512, 2026-11-21: one dense head alone fills them less than all together"
_CPU: dict[torch.dtype, Rates] = {
    torch.float32: Rates(0.28, 0.16, 0.23, 256, 1, 250, NO_SIDE, _XEON),
    torch.bfloat16: Rates(0.27, 0.16, 0.23, 256, 1, 250, NO_SIDE, _XEON),
    torch.float16: Rates(0.27, 0.16, 0.23, 256, 1, 250, NO_SIDE, _XEON),
}


@functools.lru_cache(maxsize=64)
def rates_of(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a device: measured there by `corehead autotune`, else those of the table."""
    measured = tuning.stored(device, "rates", tuning.dtype_name(dtype), Rates)
    if measured is not None:
        return measured
    if device.type != "cuda":
        return _CPU.get(dtype, _CPU[torch.float32])
    return _GPU[tiles.architecture_of(device)] if dtype in (torch.float16, torch.bfloat16) else _GPU_FULL


def dense_pairs(T: int, S: int) -> int:
    """(query, key) pairs of a causal head whose T queries are the last of S positions."""
    return T * S - T * (T - 1) // 2


def streaming_pairs(T: int, S: int, sink_size: int, window_size: int) -> int:
    """Pairs that a streaming head's mask lets through: at most sink + window keys per query."""
    hidden = [max(0, n - sink_size - window_size) for n in (S - T, S)]
    return dense_pairs(T, S) - (hidden[1] * (hidden[1] + 1) - hidden[0] * (hidden[0] + 1)) // 2


@functools.lru_cache(maxsize=1024)
def tile_pairs(T: int, S: int, sink_size: int, window_size: int, block_m: int, block_n: int) -> int:
    """Pairs a streaming head computes in tiles: block_m rows times every key block that one of them sees."""
    pairs = 0
    for row in range(0, T, block_m):
        first, last = row + S - T, min(row + block_m, T) + S - T - 1
        low, end = max(0, first - window_size + 1) // block_n, last // block_n + 1
        pairs += block_m * block_n * (end - low + min(-(-sink_size // block_n), low))
    return pairs


def estimate(
    T: int,
    S: int,
    num_dense: float,
    num_heads: int,
    head_dim: int,
    sink_size: int,
    window_size: int,
    rates: Rates,
    batch: int = 1,
) -> dict[Plan, float]:
    """Seconds that each way is estimated to take for one layer; arguments as in plan."""
    teraflop = 4e-12 * head_dim * batch
    dense = teraflop * dense_pairs(T, S)
    streaming = teraflop * tile_pairs(T, S, sink_size, window_size, rates.block_m, rates.block_n)
    rest = (num_heads - num_dense) * streaming / rates.streaming_tiles + 1e-6 * rates.call_us
    return {
        "dense": num_heads * dense / rates.dense,
        "one_launch": rest + num_dense * dense / rates.dense_tiles,
        "two_launches": rest + num_dense * dense / rates.dense + 1e-6 * rates.side_us,
    }


def plan(
    T: int,
    S: int,
    num_dense: float,
    num_heads: int,
    head_dim: int,
    sink_size: int,
    window_size: int,
    rates: Rates,
    batch: int = 1,
    separable: bool = True,
) -> Plan:
    """The cheapest way to run one layer.

    Args:
        T: queries, the last of S positions.
        S: keys.
        num_dense: dense heads of the layer, or their mean over layers.
        num_heads: Hq.
        head_dim: D.
        sink_size, window_size: of the streaming heads, tokens.
        rates: of the machine, see rates_of.
        batch: sequences.
        separable: whether the dense heads can run in a kernel of their own: no padding, T == S.

    Returns:
        "dense": all heads dense, which gives another result, so only a caller that may change it can follow it;
        "one_launch" or "two_launches": the same result, dense heads inside the launch or in a kernel of their own.
    """
    if num_dense == num_heads or S <= sink_size + window_size:  # every head sees everything
        return "dense"
    seconds = estimate(T, S, num_dense, num_heads, head_dim, sink_size, window_size, rates, batch)
    split = separable and num_dense > 0 and seconds["two_launches"] < _MARGIN * seconds["one_launch"]
    best: Plan = "two_launches" if split else "one_launch"
    return best if seconds[best] <= _MARGIN * seconds["dense"] else "dense"


def break_even(
    keep: float, num_heads: int, head_dim: int, sink_size: int, window_size: int, rates: Rates, longest: int = 1 << 20
) -> int | None:
    """The prompt length from which plan leaves dense attention, in steps of 256 tokens; None if none up to `longest`.

    Args:
        keep: share of the heads that are dense, 0 to 1.
        num_heads, head_dim, sink_size, window_size, rates: as in plan.
        longest: tokens.
    """
    lengths = range(256, longest + 1, 256)

    def pays(T: int) -> bool:
        return plan(T, T, keep * num_heads, num_heads, head_dim, sink_size, window_size, rates) != "dense"

    # dense time grows with the square of the length, streaming time with the length: once it pays, it goes on to
    first = bisect.bisect_left(lengths, True, key=pays)
    return lengths[first] if first < len(lengths) else None
