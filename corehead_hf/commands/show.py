"""corehead show: a head map's provenance, top heads, and how they spread over the layers."""

from __future__ import annotations

import argparse

from corehead_hf.commands.output import Output

HELP = "print a head map's provenance and top heads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("head_map", help="folder or Hub id of the head map")
    parser.add_argument("--top", type=int, default=10, help="how many heads (default: 10)")


def run(arguments: argparse.Namespace) -> Output:
    """Read and describe."""
    from corehead_hf.commands.summary import summary, summary_data
    from corehead_hf.head_map import HeadMap

    head_map = HeadMap.from_pretrained(arguments.head_map)
    return Output(summary(head_map, arguments.top), summary_data(head_map, arguments.top))
