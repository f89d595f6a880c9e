"""corehead <verb>: a thin skin over the package's functions. The only file that prints."""

from __future__ import annotations

import argparse
import json
import sys

from corehead_hf._version import __version__
from corehead_hf.commands import (
    ablate,
    autotune,
    bench,
    demo,
    explore,
    grid,
    info,
    key_tokens,
    measure,
    plot,
    pull,
    push,
    reproduce,
    show,
    stability,
    sweep,
    vision_heads,
)
from corehead_hf.commands import eval as evaluate
from corehead_hf.commands.output import add_format_argument

VERBS = {
    "demo": demo,
    "measure": measure,
    "show": show,
    "stability": stability,
    "vision-heads": vision_heads,
    "key-tokens": key_tokens,
    "ablate": ablate,
    "sweep": sweep,
    "grid": grid,
    "bench": bench,
    "eval": evaluate,
    "plot": plot,
    "explore": explore,
    "reproduce": reproduce,
    "info": info,
    "push": push,
    "pull": pull,
    "autotune": autotune,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 the request could not be met, 2 wrong usage (argparse)."""
    parser = argparse.ArgumentParser(
        prog="corehead", description="CoRe (context-aware retrieval) heads of multimodal LLMs"
    )
    parser.add_argument("--version", action="version", version=f"corehead_hf {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, command in VERBS.items():
        verb = verbs.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(verb)
        add_format_argument(verb, "text")
    arguments = parser.parse_args(argv)
    try:
        output = VERBS[arguments.verb].run(arguments)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"corehead {arguments.verb}: {error}", file=sys.stderr)
        return 1
    if output is not None:
        print(_printable(json.dumps(output.data, allow_nan=False) if arguments.format == "json" else output.text))
    return 0


def _printable(text: str) -> str:
    """What standard output cannot encode, written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
