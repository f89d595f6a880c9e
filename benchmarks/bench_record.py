"""What recording RAM costs: a dense prefill beside the same one inside model.record_attention, in one interleaved run.

    python -m benchmarks.bench_record --model Qwen3-VL-8B --lengths 8192 32768

As corehead_hf.measure runs it: no cache, question at the end, evidence in the middle. The recording's set-up and the
reading of .ram are inside its time. Appends rows of kind record to record.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import backbone
from benchmarks.harness import Case, leave_out, reason
from benchmarks.roofline import prefill_flops
from benchmarks.session import Run, add_arguments, check_arguments, origin
from benchmarks.shapes import SHAPES

KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="Qwen3-VL-8B")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--question", type=int, default=32, help="tokens whose rows are averaged")
    parser.add_argument("--evidence", type=int, default=256, help="tokens whose columns are summed")
    parser.add_argument("--sdpa", choices=["default", *KERNELS], default="default", help="dense kernel of both")
    add_arguments(parser)
    args = check_arguments(parser, parser.parse_args(argv))
    if args.question + args.evidence >= min(args.lengths):
        parser.error(f"{args.question} question and {args.evidence} evidence tokens do not fit in {min(args.lengths)}.")
    return args


def masks(n: int, question: int, evidence: int) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [1, n] twice: the last tokens, and tokens from the middle of the rest."""
    position = torch.arange(n)[None]
    begin = (n - question - evidence) // 2
    return position >= n - question, (position >= begin) & (position < begin + evidence)


def make_cases(args: argparse.Namespace, model: Any, n: int) -> list[Case]:
    shape = SHAPES[args.model]
    ids = backbone.token_ids(shape, n, args.device)
    question, evidence = masks(n, args.question, args.evidence)
    around: Callable[[], Any] = contextlib.nullcontext
    if args.sdpa != "default":
        around = functools.partial(sdpa_kernel, [KERNELS[args.sdpa]])

    def dense() -> Any:
        return model.prefill(input_ids=ids)

    def record() -> Any:
        with model.record_attention(question, evidence) as recording:
            model.prefill(input_ids=ids)
        return recording.ram

    flops = prefill_flops(shape, n, shape.layers * shape.heads, 0, 1)
    return [Case(name, 1.0, None, None, flops, call, around) for name, call in (("dense", dense), ("record", record))]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    run = Run("record", f"{args.model} {args.dtype}", args, origin(args.device, args.commit))
    run.header()
    shape = SHAPES[args.model]
    why = backbone.missing_memory(shape, max(args.lengths), args.device, args.dtype)
    if why is not None:
        leave_out(args.model, why)
        return 0
    with torch.no_grad():
        model = backbone.build(shape, args.device, args.dtype)
        for n in args.lengths:
            try:
                rows = {row["provider"]: row for row in run.length(n, make_cases(args, model, n))}
            except torch.OutOfMemoryError as error:
                leave_out(f"{args.model} at n={n}", reason(error))
                continue
            if {"dense", "record"} <= set(rows):
                more = float(rows["record"]["p50_ms"]) / float(rows["dense"]["p50_ms"]) - 1
                memory = ""
                if rows["record"]["peak_mem_gb"]:
                    gib = float(rows["record"]["peak_mem_gb"]) - float(rows["dense"]["peak_mem_gb"])
                    memory = f", {1024 * gib:+.0f} MiB at the peak"
                print(f"  recording {n} tokens: {100 * more:+.2f} % time{memory}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
