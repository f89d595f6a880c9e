"""corehead autotune: measure this machine's fastest kernel tile and its rates."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from corehead_hf.commands.output import Output

if TYPE_CHECKING:
    from corehead_hf.kernels.autotune import TuningResult

HELP = "measure this machine's fastest kernel tile and its rates; leave it idle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("--device", help="cuda or cpu; default: cuda where there is one")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--head-dim", type=int, default=128, help="width of a head; a tile is chosen for this one")
    add("--window", type=int, default=2048, help="window_size of the streaming heads, tokens")
    add("--sink", type=int, default=128, help="sink_size of the streaming heads, tokens")
    add("--length", type=int, help="tokens of the prefill; default: 32768, on a CPU 8192")
    add("--no-warp-specialize", action="store_true", help="leave such tiles out, where one of them hangs")
    add("--no-save", action="store_true", help="only print; hybrid prefill then does not use the result")
    add("--json", type=Path, help="a file for everything that was measured")


def run(arguments: argparse.Namespace) -> Output:
    """Measure, keep and describe."""
    import torch

    from corehead_hf.kernels.autotune import autotune

    result = autotune(
        arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        getattr(torch, arguments.dtype),
        head_dim=arguments.head_dim,
        sink_size=arguments.sink,
        window_size=arguments.window,
        length=arguments.length,
        warp_specialize=not arguments.no_warp_specialize,
        save=not arguments.no_save,
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return Output(_tuning(result), result.to_dict())


def _tuning(result: TuningResult) -> str:
    lines = [
        f"{result.machine}, {result.dtype}, {result.num_heads} heads on {result.num_kv_heads}, head_dim "
        f"{result.head_dim}, sink {result.sink_size}, window {result.window_size}, {result.length} tokens",
        f"{'milliseconds, median':<58}{'streaming':>10}{'1 dense':>10}{'all dense':>10}  note",
    ]
    for row in result.rows:
        ms = (row.streaming_ms, row.one_dense_ms, row.all_dense_ms)
        times = "".join(f"{'' if time is None else f'{time:.4g}':>10}" for time in ms)
        lines.append(f"{row.name:<58}{times}  {'chosen' if row.name == result.chosen else row.note}".rstrip())
    lines.append(f"\n{result.rates}")
    paying = "at no length" if result.break_even is None else f"from {result.break_even} tokens on"
    lines.append(f"With 5 % of the heads dense, hybrid prefill pays {paying} (dense kernel: {result.dense}).")
    for check in result.checks:
        for way in [way for way in check.measured_ms if way != "dense" and "dense" in check.measured_ms]:
            predicted, measured = (ms["dense"] / ms[way] for ms in (check.predicted_ms, check.measured_ms))
            lines.append(
                f"{check.length} tokens, 1 dense, {way.replace('_', ' ')}: dense / hybrid {measured:.2f}, "
                f"by the rates {predicted:.2f}{'; the rule takes it' if way == check.plan else ''}"
            )
    lines.append(
        "Not saved." if result.file is None else f"Saved in {result.file}; hybrid prefill uses it from now on."
    )
    return "\n".join(lines)
