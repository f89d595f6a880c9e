"""Time of one layer's prefill attention: dense kernels, the hybrid ones and their peers, in one interleaved run.

    python -m benchmarks.bench_hybrid_attention --device cpu --lengths 2048 8192 --dense-heads 0 1

Checks sampled rows against float64 first and does not time a wrong result. Appends rows to hybrid_attention.csv;
README.md says how to read them.
"""

from __future__ import annotations

import argparse
import functools
import time

import torch

from benchmarks import peers
from benchmarks.harness import Case, leave_out, reason
from benchmarks.peers import PEERS, Problem
from benchmarks.roofline import attention_flops
from benchmarks.row_check import RowCheck
from benchmarks.session import Run, add_arguments, check_arguments, origin, wanted
from corehead_hf.kernels import BACKENDS, cost, hybrid_attention, resolve_backend


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 16384])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--dense-heads", type=int, nargs="+", default=[0], help="how many; one case each")
    parser.add_argument("--peer-heads", type=int, nargs="*", help="of these, what peers run too; default: all")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--sink", type=int, default=128)
    parser.add_argument("--backends", nargs="*", help="of kernels.hybrid_attention, each as a provider of its own")
    add_arguments(parser)
    args = check_arguments(parser, parser.parse_args(argv))
    if max(args.dense_heads) > args.heads:
        parser.error(f"--dense-heads {max(args.dense_heads)} was asked for - there are {args.heads} heads.")
    args.peer_heads = args.dense_heads if args.peer_heads is None else args.peer_heads
    return args


def random_inputs(args: argparse.Namespace, n: int) -> tuple[torch.Tensor, ...]:
    """Query as the projection gives it, a view of [1, n, Hq, D]; key and value as the cache gives them."""
    generator = torch.Generator(args.device).manual_seed(n)
    options = {"generator": generator, "device": args.device, "dtype": getattr(torch, args.dtype)}
    query = torch.randn(1, n, args.heads, args.head_dim, **options).transpose(1, 2)
    key, value = (torch.randn(1, args.kv_heads, n, args.head_dim, **options) for _ in range(2))
    return query, key, value


def dense_set(heads: int, count: int) -> torch.Tensor:
    """bool [Hq] with `count` True, scattered over the kv heads as CoRe heads are."""
    chosen = torch.zeros(heads, dtype=torch.bool)
    chosen[torch.randperm(heads, generator=torch.Generator().manual_seed(0))[:count]] = True
    return chosen


def dense_cases(args: argparse.Namespace, problem: Problem) -> list[Case]:
    found = dict(peers.dense_providers(args.device, args.dtype))
    if args.device.type == "cuda" and args.dtype != "float32":
        for version in ("FA4", "FA3"):
            try:
                found[f"dense_{version.lower()}"] = peers.flash_attention_provider(version)
            except ImportError as error:
                leave_out(f"dense_{version.lower()}", reason(error))
    flops = attention_flops(args.heads, args.heads, args.head_dim, problem.n, args.sink, args.window)
    call = functools.partial(peers.dense, problem)
    return [Case(name, 1.0, None, None, flops, call, around) for name, around in found.items()]


def hybrid_backends(args: argparse.Namespace) -> dict[str, str]:
    """Provider -> backend: "hybrid" is what "auto" picks on CUDA; on a CPU the provider carries the backend's name."""
    picked = resolve_backend("auto", args.device)
    own = args.backends
    if own is None:
        own = [name for name in BACKENDS if name.startswith("triton_")] if args.device.type == "cuda" else []
    return {"hybrid" if args.device.type == "cuda" else picked: "auto"} | {name: name for name in own}


def auto_runs(args: argparse.Namespace, n: int, count: int) -> str:
    """The backend that "auto" stands for, and for triton how it launches."""
    backend = resolve_backend("auto", args.device)
    if backend != "triton":
        return backend
    rates = cost.rates_of(args.device, getattr(torch, args.dtype))
    plan = cost.plan(n, n, count, args.heads, args.head_dim, args.sink, args.window, rates)
    way = "two launches" if plan == "two_launches" else "one launch"
    return f"{backend} in {way}" + (", a model would run dense" if plan == "dense" else "")


def hybrid(problem: Problem, backend: str) -> torch.Tensor:
    sizes = {"sink_size": problem.sink, "window_size": problem.window, "scaling": problem.scaling}
    return hybrid_attention(*problem.qkv, problem.heads, **sizes, backend=backend)


def sparse_cases(args: argparse.Namespace, problem: Problem, count: int) -> list[Case]:
    """The hybrid kernels and, for the head counts of --peer-heads, their peers."""
    flops = attention_flops(args.heads, count, args.head_dim, problem.n, args.sink, args.window)
    setting = (count / args.heads, args.sink, args.window, flops)
    cases = [
        Case(provider, *setting, functools.partial(hybrid, problem, backend))
        for provider, backend in hybrid_backends(args).items()
    ]
    for name, (build, needs_cuda) in PEERS.items():
        here = count in args.peer_heads and (args.device.type == "cuda" or not needs_cuda)
        if not here or not wanted(args, name):
            continue
        try:
            cases.append(Case(name, *setting, build(problem)))
        except Exception as error:  # not installed, or its import fails in this environment
            leave_out(f"{name} with {count} dense heads", reason(error))
    return cases


def checked(cases: list[Case], problem: Problem) -> tuple[list[Case], bool]:
    """The cases whose sampled rows are right, and whether all that ran were."""
    right, all_right = [], True
    truth = RowCheck(problem)
    for case in cases:
        why, start = None, time.monotonic()
        try:
            with case.around():
                wrong = truth.refuse(case.call())
            why, all_right = wrong, all_right and wrong is None
        except Exception as error:
            why = reason(error)
        if why is None:
            right.append(case)
            if time.monotonic() - start > 5:
                print(f"  {case}: first call {time.monotonic() - start:.0f} s, compilation included", flush=True)
        else:
            leave_out(case, why)
    return right, all_right


def time_length(args: argparse.Namespace, run: Run, n: int) -> bool:
    """Times one length; returns whether every result was right."""
    inputs = random_inputs(args, n)
    everything = Problem(*inputs, torch.ones(args.heads, dtype=torch.bool), args.sink, args.window)
    cases, all_right = checked(dense_cases(args, everything), everything)
    for count in args.dense_heads:
        problem = Problem(*inputs, dense_set(args.heads, count), args.sink, args.window)
        print(f"  auto with {count} dense heads: {auto_runs(args, n, count)}", flush=True)
        found, right = checked(sparse_cases(args, problem, count), problem)
        cases, all_right = cases + found, all_right and right
    run.length(n, cases)
    return all_right


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    model = f"{args.heads}q{args.kv_heads}kv d{args.head_dim} {args.dtype}"
    run = Run("attention", model, args, origin(args.device, args.commit))
    run.header()
    results = []
    with torch.no_grad():
        for n in args.lengths:
            try:
                results.append(time_length(args, run, n))
            except torch.OutOfMemoryError as error:
                leave_out(f"n={n}", reason(error))
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
