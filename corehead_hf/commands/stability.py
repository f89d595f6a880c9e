"""corehead stability: whether the same heads come out on top on several data sets."""

from __future__ import annotations

import argparse
from itertools import combinations
from typing import TYPE_CHECKING

from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import add_result_arguments, check_destinations, finished
from corehead_hf.commands.tables import heads_text, printable, table
from corehead_hf.commands.values import named_path, named_value, positive, share

if TYPE_CHECKING:
    from corehead_hf.analysis.stability import Stability

HELP = "compare one model's head maps of several data sets: rank correlation, heads on top in all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add(
        "maps", type=named_value, nargs="+", metavar="NAME=MAP", help="a data set's name and its map's folder or Hub id"
    )
    add(
        "--examples",
        type=named_path,
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="the --resume-from folder of each map's measure run, for intervals over examples",
    )
    add("--share", type=share, default=0.05, help="of the heads that count as top (default: 0.05)")
    add("--resamples", type=positive, default=1000, help="bootstrap samples of the examples (default: 1000)")
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Compare and save."""
    from corehead_hf.analysis import ram_per_example, stability
    from corehead_hf.head_map import HeadMap

    check_destinations(arguments)
    places, folders = dict(arguments.maps), dict(arguments.examples)
    if len(places) < len(arguments.maps) or len(folders) < len(arguments.examples):
        raise ValueError("a name was given twice; every data set needs its own.")
    if folders and set(folders) != set(places):
        raise ValueError(
            f"--examples of {', '.join(folders)} were given for maps of {', '.join(places)}; give them all."
        )
    maps = {name: HeadMap.from_pretrained(path) for name, path in places.items()}
    # A run that stopped early may have kept more than its map was made of.
    per_example = {name: ram_per_example(folders[name], maps[name].num_examples) for name in places if folders}
    found = stability(maps, share=arguments.share, per_example=per_example or None, resamples=arguments.resamples)
    return finished(found, arguments, lambda plots: plots.stability_map(found), _text(found))


def _text(found: Stability) -> list[str]:
    from corehead_hf.analysis.intervals import Estimate

    count, total = len(found.universal), found.counts.size
    span = "" if found.universal_low is None else f" [{found.universal_low}, {found.universal_high}]"
    lines = [
        f"{printable(found.model)}, {total} heads, {len(found.names)} data sets; top: {found.share:.3g} of the heads",
        f"on top in all: {count}{span}, by chance {found.chance:.2g}",
    ]
    best = []
    for layer, head in found.universal:
        often = None if found.frequency is None else float(found.frequency[layer, head])
        best.append([f"({layer}, {head})", *(float(scores[layer, head]) for scores in found.scores), often])
    header = ["head", *(f"RAM {printable(name)}" for name in found.names), "in all, of resamples"]
    if best:
        lines += ["", *table(header, best)]
    least = max(2, len(found.names) - 1)
    for number in range(len(found.names) - 1, least - 1, -1):
        heads = [(int(layer), int(head)) for layer, head in zip(*(found.counts == number).nonzero(), strict=True)]
        lines.append(f"on top in {number}: {heads_text(heads)}")
    pairs = []
    for first, second in combinations(range(len(found.names)), 2):
        rho: float | Estimate = float(found.spearman[first, second])
        if found.spearman_low is not None and found.spearman_high is not None:
            low, high = (float(ends[first, second]) for ends in (found.spearman_low, found.spearman_high))
            rho = Estimate(float(found.spearman[first, second]), low, high)
        pairs.append([printable(found.names[first]), printable(found.names[second]), rho])
    return [*lines, "", *table(["data set", "data set", "Spearman's rho of the rankings"], pairs)]
