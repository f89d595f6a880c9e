"""corehead info: what a head map says of itself, without fetching its tensors."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from corehead_hf.commands.output import Output

HELP = "print what a head map on the Hub holds, without downloading its tensors"
_VERIFIED = {True: "it is the file's", None: "only a download can check it"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. A token is never an argument: log in with `hf auth login`, or set HF_TOKEN."""
    add = parser.add_argument
    add("head_map", metavar="OWNER/NAME", help="Hub id or folder of the head map")
    add("--revision", help="branch, tag or commit (default: main)")
    add("--subfolder", help="where in the repository the map lies (default: its root)")


def run(arguments: argparse.Namespace) -> Output:
    """Ask, and describe."""
    from corehead_hf.head_map.info import head_map_info

    info = head_map_info(arguments.head_map, revision=arguments.revision, subfolder=arguments.subfolder)
    shown = {name: value for name, value in info.provenance.items() if name not in ("convergence", "parts", "versions")}
    versions = ", ".join(f"{package} {version}" for package, version in info.provenance["versions"].items())
    lines = [info.source, *(f"  {name}: {value}" for name, value in shown.items()), f"  versions: {versions}"]
    lines += [f"  tensor {name}: {dtype} {shape}" for name, (dtype, shape) in sorted(info.tensors.items())]
    size = "" if info.num_bytes is None else f" of {info.num_bytes} bytes"
    lines.append(f"  sha256{size}: {info.sha256}; {_VERIFIED[info.is_verified]}")
    return Output("\n".join(lines), asdict(info))
