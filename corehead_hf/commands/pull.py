"""corehead pull: a head map from the Hub, checked, into the cache and, if wanted, a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from corehead_hf.commands.output import Output
from corehead_hf.commands.values import positive

HELP = "fetch a head map from the Hub and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. A token is never an argument: log in with `hf auth login`, or set HF_TOKEN."""
    add = parser.add_argument
    add("repo_id", metavar="OWNER/NAME", help="the repository")
    add("--revision", help="branch, tag or commit (default: main)")
    add("--subfolder", help="where in the repository the map lies (default: its root)")
    add("--out", type=Path, help="also save it in this folder")
    add("--force-download", action="store_true", help="fetch it even if it is in the cache")
    add("--top", type=positive, default=10, help="how many heads to print (default: 10)")


def run(arguments: argparse.Namespace) -> Output:
    """Fetch, check, and describe."""
    from corehead_hf.commands.summary import summary, summary_data
    from corehead_hf.head_map import HeadMap

    head_map = HeadMap.from_pretrained(
        arguments.repo_id,
        revision=arguments.revision,
        subfolder=arguments.subfolder,
        force_download=arguments.force_download,
    )
    lines = [f"from {head_map.source}", summary(head_map, arguments.top)]
    data = {"source": head_map.source, **summary_data(head_map, arguments.top)}
    if arguments.out is not None:
        head_map.save_pretrained(arguments.out)
        lines.append(f"saved in {arguments.out}/")
        data["out"] = str(arguments.out)
    return Output("\n".join(lines), data)
