"""corehead <verb>: a thin skin over the package's functions. The only file that prints."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from corehead_hf._version import __version__
from corehead_hf.commands import measure as measure_command

if TYPE_CHECKING:
    from corehead_hf.demo import DemoResult


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


if __name__ == "__main__":
    sys.exit(main())
