"""A small set of kernel calls for compute-sanitizer: every backend of the device, odd shapes, each branch once.

    benchmarks/compute_sanitizer.sh

Exits with 1 where a result is far from the float64 reference, so that a run without the tool says something too.
"""

from __future__ import annotations

import argparse

import torch

from corehead_hf import reference
from corehead_hf.kernels import BACKENDS, hybrid_attention

TOLERANCE = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # tf32 products in float32

# T, S, Hq, Hkv, D, dense heads, sink, window, left padding of each sequence
CALLS: tuple[tuple[int, int, int, int, int, tuple[int, ...], int, int, tuple[int, ...]], ...] = (
    (257, 257, 8, 2, 128, (1, 6), 16, 64, ()),
    (300, 300, 4, 4, 64, (), 0, 1, ()),
    (300, 300, 4, 1, 64, (0, 1, 2, 3), 4, 32, ()),
    (111, 400, 8, 1, 128, (3,), 32, 100, ()),
    (200, 333, 6, 2, 80, (0,), 70, 40, (0, 50)),
    (129, 129, 4, 2, 256, (2,), 8, 32, (129, 3)),
    (63, 63, 4, 2, 16, (1,), 200, 500, ()),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=[name for name in BACKENDS if name.startswith("triton_")])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--calls", type=int, nargs="+", default=range(len(CALLS)), help="numbers of the calls to make")
    args = parser.parse_args(argv)
    worst = 0
    for dtype in (getattr(torch, name) for name in args.dtypes):
        for number in args.calls:
            T, S, Hq, Hkv, D, dense, sink, window, padding = CALLS[number]
            generator = torch.Generator().manual_seed(number)
            batch = max(len(padding), 1)
            q, k, v = (
                torch.randn(batch, heads, n, D, generator=generator).to(args.device, dtype)
                for heads, n in ((Hq, T), (Hkv, S), (Hkv, S))
            )
            heads = torch.tensor([head in dense for head in range(Hq)])
            first = torch.tensor(padding, dtype=torch.int64) if padding else None
            options = {"sink_size": sink, "window_size": window, "scaling": D**-0.5, "first_token": first}
            truth = reference.hybrid_attention(q.cpu(), k.cpu(), v.cpu(), heads, **options)
            for backend in args.backends:
                if backend == "triton_two_launches" and (padding or T != S):
                    continue  # it refuses these
                found = hybrid_attention(q, k, v, heads, **options, backend=backend).cpu().double()
                error = float((found - truth).norm() / truth.norm())
                right = error < TOLERANCE[dtype]
                worst |= not right
                print(f"call {number} {backend} {dtype}: error {error:.1e}{'' if right else ', WRONG'}", flush=True)
    return int(worst)


if __name__ == "__main__":
    raise SystemExit(main())
