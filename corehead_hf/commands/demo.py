"""corehead demo: the whole road on the shipped tiny models."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from corehead_hf.commands.output import Output

if TYPE_CHECKING:
    from corehead_hf.demo import DemoResult

HELP = "measure, ablate and use CoRe heads in the shipped tiny models, offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("--family", action="append", help="only this family (model type); may be given several times")
    add("--models", type=Path, help="folder of the tiny models; default: hub_artifacts/ of the checkout")
    add("--out", type=Path, default=Path("demo_output"), help="folder for figures and report.json")


def run(arguments: argparse.Namespace) -> Output:
    """Run the demo; its table."""
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
    seconds = time.monotonic() - started
    text = f"{_table(results)}\n\n{seconds:.0f} s; figures and report.json in {arguments.out}/"
    return Output(text, {family: result.report() for family, result in results.items()})


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
