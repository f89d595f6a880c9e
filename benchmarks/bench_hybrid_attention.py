"""Time of one layer's prefill attention: torch's dense kernels beside the hybrid one, in one interleaved run.

    python -m benchmarks.bench_hybrid_attention --device cpu --lengths 2048 8192 --dense-heads 0 1

Checks sampled rows against float64 first and refuses to time a wrong result. Appends rows to
results/hybrid_attention.csv; README.md says how to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference
from corehead_hf.kernels import hybrid_attention

RESULTS = Path(__file__).parent / "results" / "hybrid_attention.csv"
COLUMNS = (
    "date commit gpu torch triton transformers kind model n keep sink window provider "
    "p20_ms p50_ms p80_ms tflops peak_mem_gb"
).split()
WARM_UPS = 2
SAMPLED_ROWS = 16
Case = tuple[str, int]  # provider, number of dense heads
Call = Callable[[], torch.Tensor]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 16384])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--dense-heads", type=int, nargs="+", default=[0], help="how many; one case each")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--sink", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per case, at least 5")
    args = parser.parse_args()
    if args.repeats < 5:
        parser.error(f"--repeats {args.repeats} was asked for - p20 and p80 need 5 - pass 5 or more.")
    if max(args.dense_heads) > args.heads:
        parser.error(f"--dense-heads {max(args.dense_heads)} was asked for - there are {args.heads} heads.")
    return args


def random_inputs(args: argparse.Namespace, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator(args.device).manual_seed(n)
    dtype = getattr(torch, args.dtype)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, n, args.head_dim, generator=generator, device=args.device, dtype=dtype)

    return draw(args.heads), draw(args.kv_heads), draw(args.kv_heads)


def dense_set(args: argparse.Namespace, count: int) -> torch.Tensor:
    """bool [Hq] with `count` True, scattered over the kv heads as CoRe heads are."""
    heads = torch.zeros(args.heads, dtype=torch.bool)
    heads[torch.randperm(args.heads, generator=torch.Generator().manual_seed(0))[:count]] = True
    return heads


def make_cases(args: argparse.Namespace, qkv: tuple[torch.Tensor, ...]) -> dict[Case, Call]:
    query, key, value = qkv

    def dense(*backends: SDPBackend) -> torch.Tensor:
        gqa = args.heads != args.kv_heads
        with sdpa_kernel(list(backends)) if backends else contextlib.nullcontext():
            return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=gqa)

    def hybrid(heads: torch.Tensor) -> torch.Tensor:
        settings = {"sink_size": args.sink, "window_size": args.window, "scaling": args.head_dim**-0.5}
        return hybrid_attention(query, key, value, heads, **settings, backend="banded")

    cases: dict[Case, Call] = {}
    if torch.device(args.device).type == "cuda" and args.dtype != "float32":
        cases["dense_flash", args.heads] = functools.partial(dense, SDPBackend.FLASH_ATTENTION)
        cases["dense_cudnn", args.heads] = functools.partial(dense, SDPBackend.CUDNN_ATTENTION)
    else:
        cases["dense", args.heads] = dense
    for count in args.dense_heads:
        cases["banded", count] = functools.partial(hybrid, dense_set(args, count))
    return cases


def check(args: argparse.Namespace, qkv: tuple[torch.Tensor, ...], result: torch.Tensor, count: int) -> None:
    """Refuses a result whose error on sampled rows is over twice that of torch in the same dtype."""
    query, key, value = qkv
    n, group = query.shape[2], args.heads // args.kv_heads
    heads, scaling = dense_set(args, count), args.head_dim**-0.5
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: SAMPLED_ROWS - 1].tolist() + [n - 1]
    ours = theirs = 0.0
    for p in rows:
        # row p of a prefill is the one query of a prefill that ends there
        q, k, v = query[:, :, p : p + 1], key[:, :, : p + 1], value[:, :, : p + 1]
        sizes = {"sink_size": args.sink, "window_size": args.window}
        truth = reference.hybrid_attention(q, k, v, heads, **sizes, scaling=scaling)
        mask = reference.hybrid_mask(heads, 1, p + 1, args.sink, args.window).to(q.device)
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        same_dtype = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(1, 2)
        ours += (result[:, p : p + 1] - truth).square().sum().item()
        theirs += (same_dtype - truth).square().sum().item()
    if not ours <= 4 * theirs:
        raise RuntimeError(
            f"banded with {count} dense heads at n={n}: error {ours**0.5:.2e}, torch's {theirs**0.5:.2e} - "
            "a wrong result is not timed - run the tests."
        )


def timed(call: Call, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        return 1e3 * timeit.timeit(call, number=1)
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def leave_out(cases: dict, case: Case, error: RuntimeError) -> None:
    print(f"  {case} left out: {str(error).splitlines()[0]}", flush=True)
    del cases[case]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(args: argparse.Namespace, cases: dict[Case, Call]) -> dict[Case, dict]:
    """Milliseconds and peak memory per case; the cases take turns, so that noise hits all alike."""
    device = torch.device(args.device)
    found: dict[Case, dict] = {case: {"ms": [], "peak": None} for case in cases}
    for turn in range(WARM_UPS + args.repeats):
        for case in list(found) if turn % 2 else list(found)[::-1]:
            try:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                ms = timed(cases[case], device)
            except RuntimeError as error:  # out of memory, or a kernel that this torch lacks
                leave_out(found, case, error)
                continue
            if turn >= WARM_UPS:
                found[case]["ms"].append(ms)
                if device.type == "cuda":
                    found[case]["peak"] = max(torch.cuda.max_memory_allocated() / 2**30, found[case]["peak"] or 0)
    return found


def needed_flops(args: argparse.Namespace, n: int, dense_heads: int) -> float:
    """Two products of 2 * D per (query, key) pair that the mask lets through, and no other pair."""
    p = torch.arange(1, n + 1, dtype=torch.float64)  # keys a dense query sees
    streaming = p.clamp(max=args.window) + (p - args.window).clamp(min=0, max=args.sink)
    return 4 * args.head_dim * float(dense_heads * p.sum() + (args.heads - dense_heads) * streaming.sum())


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{device.type} ({threads}, {names[0] if names else platform.processor()})"


def origin(device: torch.device) -> dict[str, str]:
    """The columns that say where and when; one value per run."""

    def version(package: str) -> str:
        return importlib.metadata.version(package) if importlib.util.find_spec(package) else ""

    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": git.stdout.strip() or "none",
        "gpu": machine(device),
        "torch": torch.__version__,
        "triton": version("triton"),
        "transformers": version("transformers"),
    }


def report(args: argparse.Namespace, n: int, found: dict[Case, dict], where: dict[str, str]) -> None:
    """Appends the rows of one length to the CSV, prints them with their ratio to the better dense kernel."""
    new = not RESULTS.exists()
    quantiles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    times = {c: torch.tensor(f["ms"], dtype=torch.float64).quantile(quantiles).tolist() for c, f in found.items()}
    best = min((t[1] for (provider, _), t in times.items() if provider.startswith("dense")), default=float("nan"))
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        for (provider, count), (p20, p50, p80) in times.items():
            peak = found[provider, count]["peak"]
            hybrid = provider == "banded"
            row = {
                "kind": "attention",
                "model": f"{args.heads}q{args.kv_heads}kv d{args.head_dim} {args.dtype}",
                "n": n,
                "keep": round(count / args.heads, 4),
                "sink": args.sink if hybrid else "",
                "window": args.window if hybrid else "",
                "provider": provider,
                "p20_ms": f"{p20:.3f}",
                "p50_ms": f"{p50:.3f}",
                "p80_ms": f"{p80:.3f}",
                "tflops": f"{needed_flops(args, n, count) / p50 / 1e9:.3f}",
                "peak_mem_gb": "" if peak is None else f"{peak:.2f}",
            }
            writer.writerow(where | row)
            print(f"{n:8d}  {provider:12s} {count:4d}  {p20:10.2f} {p50:10.2f} {p80:10.2f}  {best / p50:6.2f}x")


def main() -> None:
    args = parse()
    device = torch.device(args.device)
    where = origin(device)
    print(f"{where['gpu']}, torch {where['torch']}, {args.dtype}")
    print("       n  provider     dense      p20 ms     p50 ms     p80 ms  better dense / p50")
    for n in args.lengths:
        qkv = random_inputs(args, n)
        cases = make_cases(args, qkv)
        for case in [case for case in cases if case[0] == "banded"]:
            try:
                check(args, qkv, cases[case](), case[1])
            except torch.OutOfMemoryError as error:
                leave_out(cases, case, error)
        report(args, n, measure(args, cases), where)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
