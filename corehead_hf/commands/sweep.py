"""corehead sweep: accuracy and speed of hybrid prefill against how many heads stay dense."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from corehead_hf.commands.loading import dataset_name
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import (
    about,
    add_result_arguments,
    add_scoring_arguments,
    add_subject_arguments,
    chance_of,
    check_destinations,
    finished,
    load_scored,
    sizes,
)
from corehead_hf.commands.tables import printable, table
from corehead_hf.commands.values import count_or_share, positive

if TYPE_CHECKING:
    from corehead_hf.analysis.keep_sweep import KeepSweep
    from corehead_hf.analysis.timing import Quantiles

HELP = "score and time a model's hybrid prefill with more and more heads dense"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_subject_arguments(parser)
    add = parser.add_argument
    add(
        "--keep",
        type=count_or_share,
        nargs="+",
        default=[0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
        metavar="K",
        help="dense heads, as counts or as shares (default: 0.02 0.05 0.1 0.2 0.5 1.0)",
    )
    add("--time", action="store_true", help="also time the first batch's prefill; leave the machine idle")
    add("--repeats", type=positive, help="timed rounds, dense and hybrid in turns (default: 5)")
    add_scoring_arguments(parser)
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Sweep and save."""
    from corehead_hf.analysis.keep_sweep import keep_sweep

    check_destinations(arguments)
    if arguments.repeats is not None and not arguments.time:
        raise ValueError("--repeats counts timed rounds; give it with --time.")
    model, head_map, scorer, _ = load_scored(arguments)
    swept = keep_sweep(
        model,
        head_map,
        scorer,
        keeps=arguments.keep,
        **sizes(arguments),
        timed=scorer.batches[0] if arguments.time else None,
        repeats=arguments.repeats or 5,
        chance=chance_of(arguments),
        dataset=dataset_name(arguments),
        resume_from=arguments.resume_from,
    )
    return finished(swept, arguments, lambda plots: plots.keep_curve(swept), _text(swept))


def _text(swept: KeepSweep) -> list[str]:
    header, rows = ["dense heads", "share", "accuracy", "drop from dense"], []
    every = ["all", 1.0, swept.dense, None]
    is_timed = swept.dense_seconds is not None
    if is_timed:
        header += ["ms a prefill", "speed-up"]
        every += [_spread(swept.dense_seconds, 1e3), None]
    for point in swept.points:
        timed = [_spread(point.seconds, 1e3), _spread(point.speedup)] if is_timed else []
        rows.append([str(point.count), point.share, point.accuracy, point.drop, *timed])
    lines = [
        about(swept),
        f"all other heads see sink {swept.sink_size} + window {swept.window_size}; brackets: {swept.confidence:.0%} "
        "intervals over examples",
    ]
    if is_timed:
        lines.append(f"time: median (20 % to 80 % quantile) of {swept.num_tokens} tokens on {printable(swept.device)}")
    return lines + table(header, [every, *rows])


def _spread(quantiles: Quantiles | None, scale: float = 1.0) -> str | None:
    if quantiles is None:
        return None
    return f"{scale * quantiles.p50:.3g} ({scale * quantiles.p20:.3g} to {scale * quantiles.p80:.3g})"
