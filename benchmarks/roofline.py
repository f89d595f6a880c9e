"""What a prefill has to compute and to move, and the time that takes at given rates: the bound of every speed-up.

    python -m benchmarks.roofline --model Qwen3-VL-8B --keep 0.05 --window 2048

Counts are exact; rates are arguments. The defaults are assumptions for an H200: 700 TFLOP/s in linear layers, 600 in
dense attention (published cuDNN figures), 450 in streaming tiles (published Triton figures), and 3.6 TB/s in
elementwise kernels. None of them was measured by this project.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from benchmarks.shapes import SHAPES, Shape
from corehead_hf.kernels.cost import dense_pairs, streaming_pairs, tile_pairs

LENGTHS = [8192, 16384, 32768, 65536, 131072, 262144]


@dataclass(frozen=True)
class Ceilings:
    """Rates: TFLOP/s of linear layers, of dense attention and of streaming tiles; TB/s of elementwise kernels."""

    linear: float = 700.0
    dense: float = 600.0
    streaming: float = 450.0
    memory: float = 3.6

    def __str__(self) -> str:
        return (
            f"linear {self.linear:g}, dense attention {self.dense:g}, streaming tiles {self.streaming:g} TFLOP/s, "
            f"elementwise {self.memory:g} TB/s"
        )


def attention_flops(heads: int, dense_heads: int, head_dim: int, n: int, sink: int, window: int) -> int:
    """Two products of 2 * D operations per (query, key) pair that the masks of these heads let through."""
    streaming = (heads - dense_heads) * streaming_pairs(n, n, sink, window)
    return 4 * head_dim * (dense_heads * dense_pairs(n, n) + streaming)


def linear_flops(shape: Shape, n: int) -> int:
    """Of all layers' matrices for n tokens; no vocabulary logits."""
    return 2 * shape.layer_parameters * shape.layers * n


def logits_flops(shape: Shape) -> int:
    """Of one token's vocabulary logits."""
    return 2 * shape.hidden * shape.vocabulary


def prefill_flops(shape: Shape, n: int, dense_heads: int, sink: int, window: int) -> int:
    """Of a whole prefill without logits; dense_heads of all layers together."""
    heads = shape.layers * shape.heads
    return linear_flops(shape, n) + attention_flops(heads, dense_heads, shape.head_dim, n, sink, window)


def decode_flops(shape: Shape, n: int) -> int:
    """Of one decoded token after n others: every head sees all of them and itself; its logits."""
    attention = 4 * shape.head_dim * shape.layers * shape.heads * (n + 1)
    return linear_flops(shape, 1) + attention + logits_flops(shape)


def elementwise_bytes(shape: Shape, n: int, fused: bool) -> int:
    """Bytes moved outside matrices and attention, two-byte activations.

    Eager: each RMSNorm is a chain of kernels over float32 and two-byte tensors (36 bytes an element), RoPE 16,
    residual sum 6, SiLU * up 10, the cache's copy of K and V 4, the output's copy 4. Fused: residual + norm 8, q/k
    norm + RoPE 4, SiLU * up 6.
    """
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if fused:
        per_token = 2 * 8 * shape.hidden + 4 * (q + k) + 6 * shape.intermediate
    else:
        norms = 36 * (2 * shape.hidden + (q + k if shape.qk_norm else 0))
        per_token = norms + 2 * 6 * shape.hidden + 16 * (q + k) + 4 * 2 * k + 4 * q + 10 * shape.intermediate
    return per_token * n * shape.layers


def prefill_seconds(
    shape: Shape,
    n: int,
    dense_heads: int,
    sink: int,
    window: int,
    rates: Ceilings,
    fused: bool = False,
    block: tuple[int, int] = (64, 64),
) -> float:
    """Least time of a prefill at these rates; streaming heads pay for whole tiles."""
    streaming_heads = shape.layers * shape.heads - dense_heads
    dense = 4 * shape.head_dim * dense_heads * dense_pairs(n, n)
    streaming = (
        4 * shape.head_dim * streaming_heads * (tile_pairs(n, n, sink, window, *block) if streaming_heads else 0)
    )
    compute = linear_flops(shape, n) / rates.linear + dense / rates.dense + streaming / rates.streaming
    return (compute + elementwise_bytes(shape, n, fused) / rates.memory) / 1e12


def speed_up_bound(
    shape: Shape, n: int, dense_heads: int, sink: int, window: int, rates: Ceilings, fused: bool = False
) -> float:
    """The highest ratio of a dense prefill's time to a hybrid one's; only the latter may fuse elementwise kernels."""
    dense = prefill_seconds(shape, n, shape.layers * shape.heads, sink, window, rates)
    return dense / prefill_seconds(shape, n, dense_heads, sink, window, rates, fused)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="Qwen3-VL-8B")
    parser.add_argument("--keep", type=float, default=0.05)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--sink", type=int, default=128)
    add_rates(parser)
    args = parser.parse_args(argv)
    shape, rates = SHAPES[args.model], rates_of(args)
    heads = shape.layers * shape.heads
    kept = round(args.keep * heads)
    print(f"{shape.name}, {kept} of {heads} heads dense, sink {args.sink}, window {args.window}; assumed: {rates}")
    print("       n   attention FLOP ratio   prefill bound   with fused elementwise kernels")
    for n in LENGTHS:
        dense = attention_flops(heads, heads, shape.head_dim, n, args.sink, args.window)
        ratio = dense / attention_flops(heads, kept, shape.head_dim, n, args.sink, args.window)
        bounds = [speed_up_bound(shape, n, kept, args.sink, args.window, rates, fused) for fused in (False, True)]
        print(f"{n:8d}   {ratio:20.2f}   {bounds[0]:13.2f}   {bounds[1]:30.2f}")
    return 0


def add_rates(parser: argparse.ArgumentParser) -> None:
    for name, value in vars(Ceilings()).items():
        unit = "TB/s" if name == "memory" else "TFLOP/s"
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{unit}, default {value:g} (assumed, H200)")


def rates_of(args: argparse.Namespace) -> Ceilings:
    return Ceilings(args.linear, args.dense, args.streaming, args.memory)


if __name__ == "__main__":
    raise SystemExit(main())
