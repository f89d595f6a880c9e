"""corehead push: a head map's folder, published on the Hub."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from corehead_hf.commands.output import Output

HELP = "publish a head map's folder on the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. A token is never an argument: log in with `hf auth login`, or set HF_TOKEN."""
    add = parser.add_argument
    add("head_map", type=Path, help="folder of the head map")
    add("repo_id", metavar="OWNER/NAME", help="the repository, made if it is missing")
    add("--private", action="store_true", default=None, help="make it private if it is new")
    add("--revision", metavar="BRANCH", help="write to this branch, made if it is missing (default: main)")
    add("--create-pr", action="store_true", help="open a pull request instead of writing")
    add("--tag", action="append", default=[], help="git tag for the new commit, such as v1; may be repeated")
    add("--subfolder", help="where in the repository the map goes (default: its root)")
    add("--message", help="of the commit")
    add("--license", metavar="ID", help="of the map, such as cc-by-4.0, kept in its card")


def run(arguments: argparse.Namespace) -> Output:
    """Read, which checks the folder, and push."""
    from corehead_hf.head_map import HeadMap

    pushed = HeadMap.from_pretrained(arguments.head_map).push_to_hub(
        arguments.repo_id,
        private=arguments.private,
        commit_message=arguments.message,
        create_pr=arguments.create_pr,
        revision=arguments.revision,
        tags=arguments.tag,
        subfolder=arguments.subfolder,
        license=arguments.license,
    )
    lines = [f"pushed {arguments.head_map} to {pushed.repo_id}, commit {pushed.commit}", pushed.url]
    return Output("\n".join([*lines, *([pushed.pr_url] if pushed.pr_url else [])]), asdict(pushed))
