"""corehead grid: accuracy and cost of hybrid prefill by dense heads, sink and window."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from corehead_hf.commands.loading import dataset_name
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import (
    about,
    add_answering_arguments,
    add_result_arguments,
    add_subject_arguments,
    chance_of,
    check_destinations,
    finished,
    load_scored,
)
from corehead_hf.commands.tables import table
from corehead_hf.commands.values import count_or_share, natural, positive

if TYPE_CHECKING:
    from corehead_hf.analysis.hybrid_grid import HybridGrid

HELP = "score a model's hybrid prefill at every number of dense heads, sink and window, and count what it reads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_subject_arguments(parser)
    add = parser.add_argument
    add(
        "--keep",
        type=count_or_share,
        nargs="+",
        default=[0.02, 0.05, 0.1, 0.2],
        metavar="K",
        help="dense heads, as counts or as shares (default: 0.02 0.05 0.1 0.2)",
    )
    add("--sink", type=natural, nargs="+", default=[0, 128], metavar="N", help="sink sizes, tokens (default: 0 128)")
    add(
        "--window",
        type=positive,
        nargs="+",
        default=[512, 1024, 2048],
        metavar="N",
        help="window sizes, tokens (default: 512 1024 2048)",
    )
    add_answering_arguments(parser)
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Score, count, save and tell."""
    from corehead_hf.analysis.hybrid_grid import hybrid_grid

    check_destinations(arguments)
    model, head_map, scorer, _ = load_scored(arguments)
    grid = hybrid_grid(
        model,
        head_map,
        scorer,
        keeps=arguments.keep,
        sinks=arguments.sink,
        windows=arguments.window,
        chance=chance_of(arguments),
        dataset=dataset_name(arguments),
        resume_from=arguments.resume_from,
    )
    return finished(grid, arguments, lambda plots: plots.hybrid_grid_curves(grid), _text(grid))


def _text(grid: HybridGrid) -> list[str]:
    header = ["sink", "window", "dense heads", "accuracy", "drop from dense", "KV read", "attention FLOPs"]
    rows: list[list[object]] = [["-", "-", "all", grid.dense, None, 1.0, f"{grid.dense_flops:.3g}"]]
    for point in grid.points:
        sizes = [str(size) for size in (point.sink_size, point.window_size, point.count)]
        flops = f"{point.cost.flops:.3g} ({point.cost.flops_share:.3f})"
        rows.append([*sizes, point.accuracy, point.drop, point.cost.kv_read, flops])
    return [
        about(grid),
        f"prompts of {grid.shortest} to {grid.longest} tokens; KV read and FLOPs (and their share of dense): of a "
        f"prefill's attention, counted; brackets: {grid.confidence:.0%} intervals over examples",
        *table(header, rows),
    ]
