"""corehead <verb>: a thin skin over the package's functions. The only file that prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from corehead_hf._version import __version__
from corehead_hf.commands import measure as measure_command

if TYPE_CHECKING:
    from corehead_hf.demo import DemoResult
    from corehead_hf.kernels.autotune import TuningResult


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 the request could not be met, 2 wrong usage (argparse)."""
    parser = argparse.ArgumentParser(
        prog="corehead", description="CoRe (context-aware retrieval) heads of multimodal LLMs"
    )
    parser.add_argument("--version", action="version", version=f"corehead_hf {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    demo = verbs.add_parser("demo", help="measure, ablate and use CoRe heads in the shipped tiny models, offline")
    demo.add_argument("--family", action="append", help="only this family (model type); may be given several times")
    demo.add_argument("--models", type=Path, help="folder of the tiny models; default: hub_artifacts/ of the checkout")
    demo.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for figures and report.json")
    demo.set_defaults(run=_demo)
    show = verbs.add_parser("show", help="print a head map's provenance and top heads")
    show.add_argument("head_map", type=Path, help="folder of the head map")
    show.add_argument("--top", type=int, default=10, help="how many heads")
    show.set_defaults(run=_show)
    measuring = verbs.add_parser("measure", help="measure a model's head map on annotated data")
    measure_command.add_arguments(measuring)
    measuring.set_defaults(run=_measure)
    tune = verbs.add_parser("autotune", help="measure this machine's fastest kernel tile and its rates; leave it idle")
    tune.add_argument("--device", help="cuda or cpu; default: cuda where there is one")
    tune.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    tune.add_argument("--head-dim", type=int, default=128, help="width of a head; a tile is chosen for this one")
    tune.add_argument("--window", type=int, default=2048, help="window_size of the streaming heads, tokens")
    tune.add_argument("--sink", type=int, default=128, help="sink_size of the streaming heads, tokens")
    tune.add_argument("--length", type=int, help="tokens of the prefill; default: 32768, on a CPU 8192")
    tune.add_argument("--no-warp-specialize", action="store_true", help="leave such tiles out, where one of them hangs")
    tune.add_argument("--no-save", action="store_true", help="only print; hybrid prefill then does not use the result")
    tune.add_argument("--json", type=Path, help="a file for everything that was measured")
    tune.set_defaults(run=_autotune)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"corehead {arguments.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging as transformers_logging

    from corehead_hf.demo import find_models, run_demo

    transformers_logging.set_verbosity_error()  # the tables are the output; errors still show
    models = find_models(arguments.models)
    if arguments.family:
        missing = sorted(set(arguments.family) - set(models))
        if missing:
            raise ValueError(f"no tiny model of {', '.join(missing)}; there are {', '.join(models)}.")
        models = {family: models[family] for family in arguments.family}
    started = time.monotonic()
    results = run_demo(models, arguments.out)
    print(_table(results))
    print(f"\n{time.monotonic() - started:.0f} s; figures and report.json in {arguments.out}/")


def _table(results: dict[str, DemoResult]) -> str:
    lines = []
    for family, result in results.items():
        head_map, k = result.head_map, result.count
        lines.append(
            f"\n{family}: {result.model_name}, {head_map.scores.numel()} heads, {result.num_examples} examples"
        )
        heads = ", ".join(
            f"({la}, {h}) {float(head_map.scores[la, h]):.3f}" for la, h in head_map.ranking()[: k + 1].tolist()
        )
        noun = "head" if k == 1 else "heads"
        lines.append(f"  RAM of the top {k} {noun} (layer, head), then of the next one: {heads}")
        lines.append(f"  {'accuracy':<34}{'top':>8}{'bottom':>8}{'random':>8}")
        lines.append(f"  {'dense':<34}{result.dense:>8.3f}")
        share = f"{k} {noun} ({k / head_map.scores.numel():.1%})"
        for name, point in ((f"{share} ablated", result.ablation), (f"{share} dense, rest stream", result.hybrid)):
            lines.append(f"  {name:<34}{point.top:>8.3f}{point.bottom:>8.3f}{point.random_mean:>8.3f}")
    return "\n".join(lines)


def _show(arguments: argparse.Namespace) -> None:
    from corehead_hf.commands.measure import summary
    from corehead_hf.head_map import HeadMap

    print(summary(HeadMap.from_pretrained(arguments.head_map), arguments.top))


def _measure(arguments: argparse.Namespace) -> None:
    if text := measure_command.run(arguments):
        print(text)


def _autotune(arguments: argparse.Namespace) -> None:
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
    print(_tuning(result))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")


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


if __name__ == "__main__":
    sys.exit(main())
