"""corehead vision-heads: whether the heads that read the evidence are just those that look at the picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import add_result_arguments, check_destinations, finished
from corehead_hf.commands.tables import heads_text, printable, table
from corehead_hf.commands.values import share

if TYPE_CHECKING:
    from corehead_hf.analysis.vision_heads import VisionHeads

HELP = "compare a model's top heads by RAM with its top heads by attention on all visual tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("core_map", help="folder or Hub id of the head map")
    add("vision_map", help="the map that measure --target visual wrote")
    add("--share", type=share, default=0.05, help="of the heads that count as top (default: 0.05)")
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Compare and save."""
    from corehead_hf.analysis import vision_heads
    from corehead_hf.head_map import HeadMap

    check_destinations(arguments)
    core, vision = (HeadMap.from_pretrained(path) for path in (arguments.core_map, arguments.vision_map))
    found = vision_heads(core, vision, share=arguments.share)
    return finished(found, arguments, lambda plots: plots.vision_overlap(found), _text(found))


def _text(found: VisionHeads) -> list[str]:
    rows: list[list[str | None]] = [
        ["heads in both top sets", str(found.overlap), f"{found.expected:.2g} of {found.count}"],
        ["Jaccard index", f"{found.jaccard:.3f}", None],
        ["p-value of the overlap", f"{found.p_value:.2g}", None],
        ["Spearman's rho of the rankings", f"{found.spearman:.3f}", "0"],
    ]
    return [
        f"{printable(found.model)}, {printable(found.dataset)}, {found.core.size} heads; top: {found.count} of each",
        *table(["CoRe heads and vision heads", "", "by chance"], rows),
        f"(layer, head) in both: {heads_text(found.shared)}",
    ]
