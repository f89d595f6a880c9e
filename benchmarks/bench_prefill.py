"""Time of a whole text backbone's prefill, dense and hybrid, in one interleaved run; with --decode, of a decoded token.

    python -m benchmarks.bench_prefill --model Qwen3-VL-8B --lengths 8192 131072 --keep 0.05

The protocol of the paper's Fig. 7: random token ids, batch 1, the model called as generate() calls it: the KV cache
written, logits of the last token only. Weights are random, shapes and code are the real ones. Appends rows of kind
prefill or decode to prefill.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import backbone, oracle, peers
from benchmarks.decoding import decode_cases
from benchmarks.harness import Case, leave_out, reason
from benchmarks.roofline import logits_flops, prefill_flops
from benchmarks.session import Run, add_arguments, check_arguments, origin, warnings_once
from benchmarks.shapes import SHAPES, Shape
from corehead_hf import HeadMap
from corehead_hf.head_map import head_count
from corehead_hf.kernels.dense import fastest_dense

TINY_CHECK_LENGTH = 200  # the oracle's masks are [L, Hq, n, n]
COMPILE_LENGTH = 16384  # long enough for the hybrid path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="Qwen3-VL-8B")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--keep", type=float, nargs="+", help="shares or counts of dense heads; default: the paper's")
    parser.add_argument("--windows", type=int, nargs="+", default=[2048, 1024])
    parser.add_argument("--sink", type=int, default=128)
    parser.add_argument(
        "--head-map", type=Path, help="folder of a real head map; default: a made-up spread over layers"
    )
    parser.add_argument("--dense-below", default="auto", help="of enable_hybrid, where it has that; an int or auto")
    parser.add_argument(
        "--decode", type=int, metavar="TOKENS", help="time decoding of this many tokens after the prefill"
    )
    add_arguments(parser)
    args = check_arguments(parser, parser.parse_args(argv))
    args.shape = SHAPES[args.model]
    args.keep = args.keep or list(args.shape.head_counts) or [0.05]
    args.dense_below = args.dense_below if args.dense_below == "auto" else int(args.dense_below)
    return args


def head_sets(args: argparse.Namespace) -> list[torch.Tensor]:
    """bool [L, Hq] for every --keep."""
    shape: Shape = args.shape
    head_map = None if args.head_map is None else HeadMap.from_pretrained(args.head_map)
    found = []
    for keep in args.keep:
        keep = int(keep) if keep > 1 else keep
        if head_map is not None:
            found.append(head_map.top(keep))
        else:
            count = head_count(keep, shape.layers, shape.heads)
            found.append(backbone.spread_heads(shape.layers, shape.heads, count))
    return found


@contextlib.contextmanager
def hybrid_on(model: Any, heads: torch.Tensor, **settings: Any) -> Iterator[None]:
    """Hybrid prefill inside the block; layers it leaves dense run the dense kernel that torch should prefer here.

    By itself torch prefers flash attention, also where cuDNN, the better baseline, is faster.
    """
    model.enable_hybrid(heads=heads, **settings)
    try:
        with fastest_dense(model.device):
            yield
    finally:
        model.disable_hybrid()


def settings_of(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    known = inspect.signature(model.enable_hybrid).parameters
    return {"sink_size": args.sink} | ({"dense_below": args.dense_below} if "dense_below" in known else {})


def make_cases(args: argparse.Namespace, model: Any, n: int, call: Any) -> list[Case]:
    """The most important first: the budget drops from the end."""
    shape, sets = args.shape, head_sets(args)
    all_dense = torch.ones_like(sets[0])
    total, last = all_dense.numel(), logits_flops(shape)
    dense = [
        Case(name, 1.0, None, None, prefill_flops(shape, n, total, args.sink, 1) + last, call, around)
        for name, around in peers.dense_providers(args.device, args.dtype).items()
    ]

    def hybrid(provider: str, heads: torch.Tensor, window: int, **more: Any) -> Case:
        settings = settings_of(args, model) | {"window_size": window} | more
        kept = int(heads.sum())
        flops = prefill_flops(shape, n, kept, args.sink, window) + last
        sizes = (None, None) if kept == total else (args.sink, window)
        return Case(provider, kept / total, *sizes, flops, call, functools.partial(hybrid_on, model, heads, **settings))

    plain = [hybrid("hybrid", heads, window) for window in args.windows for heads in sets]
    if "fuse" not in inspect.signature(model.enable_hybrid).parameters:
        leave_out("hybrid_fuse, dense_fuse", "this version of enable_hybrid has no fuse")
        return dense[:1] + plain + dense[1:]
    fused = [hybrid("hybrid_fuse", heads, window, fuse=True) for window in args.windows for heads in sets]
    return [*dense[:1], *plain, *fused, hybrid("dense_fuse", all_dense, args.windows[0], fuse=True), *dense[1:]]


def check_tiny(args: argparse.Namespace, model: Any) -> bool:
    """Compares last hidden state and logits of every hybrid setting with explicit masks; prints the verdicts."""
    ids = backbone.token_ids(args.shape, TINY_CHECK_LENGTH, args.device)
    all_right = True
    for fuse in [False, True] if "fuse" in inspect.signature(model.enable_hybrid).parameters else [False]:
        for window in args.windows:
            for heads in head_sets(args):
                settings = settings_of(args, model) | {"window_size": window} | ({"fuse": True} if fuse else {})
                with hybrid_on(model, heads, **settings):
                    found = oracle.outputs(model, ids)
                wrong = oracle.refuse(found, model, ids, heads, args.sink, window)
                name = f"hybrid{'_fuse' if fuse else ''}, window {window}, {int(heads.sum())} dense heads"
                print(f"  {name}: {wrong or 'agrees with explicit masks'}")
                all_right &= wrong is None
    return all_right


def compile_kernels(args: argparse.Namespace, model: Any) -> None:
    """One short call of every provider, so that compilation is not taken for its time where a budget is planned."""
    n = min(max(args.lengths), COMPILE_LENGTH)
    call = functools.partial(backbone.prefill, model, backbone.token_ids(args.shape, n, args.device))
    for case in make_cases(args, model, n, call):
        try:
            with case.around():
                case.call()
        except Exception as error:  # it will fail again where it is timed, and be left out there
            print(f"  {case} fails at n={n}: {reason(error)}", flush=True)


def time_length(args: argparse.Namespace, model: Any, run: Run, n: int) -> None:
    ids = backbone.token_ids(args.shape, n + (args.decode or 0), args.device)
    if args.decode:
        cases = make_cases(args, model, n, None)
        run.length(n, decode_cases(model, args.shape, ids, args.decode, cases))
    else:
        run.length(n, make_cases(args, model, n, functools.partial(backbone.prefill, model, ids)))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    kind = "decode" if args.decode else "prefill"
    run = Run(kind, f"{args.model} {args.dtype}", args, origin(args.device, args.commit))
    run.header()
    lengths = []
    for n in args.lengths:
        why = backbone.missing_memory(args.shape, n, args.device, args.dtype)
        if why is None:
            lengths.append(n)
        else:
            leave_out(f"{args.model} at n={n}", why)
    if not lengths:
        return 0
    with torch.no_grad(), warnings_once():
        model = backbone.build(args.shape, args.device, args.dtype)
        if args.model == "tiny" and not check_tiny(args, model):
            return 1
        with hybrid_on(model, head_sets(args)[0], **settings_of(args, model)):
            print(f"  hybrid runs the backend {model.hybrid_backend!r}")
        if args.device.type == "cuda":
            compile_kernels(args, model)
        for n in lengths:
            try:
                time_length(args, model, run, n)
            except torch.OutOfMemoryError as error:
                leave_out(f"{args.model} at n={n}", reason(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
