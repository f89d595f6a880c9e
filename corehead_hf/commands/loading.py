"""Options that verbs share, and what they stand for: a model with its processor, and annotated examples."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corehead_hf.data import ExampleSet
    from corehead_hf.data.example import Example

GLYPHS_EXAMPLES, GLYPHS_SEED = 64, 777


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and how it is loaded."""
    add = parser.add_argument
    add("model", help="Hub id or folder of the model")
    add("--dtype", default="auto", help="of the weights: auto, bfloat16, float16, float32 (default: auto)")
    add("--device-map", help='"auto" spreads a big model over devices; default: this process\'s device')
    add("--revision", help="the model's commit, branch or tag on the Hub")


def add_data_arguments(parser: argparse.ArgumentParser, named: bool = True) -> None:
    """The annotated examples; `named` adds what they are called in a result."""
    add = parser.add_argument
    add("--data", required=True, metavar="NAME|FILE.jsonl", help="a data set by name, or one's own annotations")
    add("--path", help="the data set's folder or Hub id; not for glyphs, which is generated, nor for FILE.jsonl")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="of the data set, such as split=test")
    add("--limit", type=int, help="at most so many examples")
    add("--on-error", choices=("raise", "skip"), default="raise", help="what a wrong row or example does")
    if named:
        add("--dataset", help="name kept in the result (default: the Hub id, else the data set's name)")


def add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """What counts as evidence."""
    add = parser.add_argument
    add("--views", choices=("all", "hires", "global"), default="all", help="which views of a picture count as evidence")
    add("--min-coverage", type=float, default=0.0, help="share of a visual token that must show evidence")


def load_model(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The CoRe-wrapped model and its processor."""
    import torch

    from corehead_hf.auto import AutoCoReModel
    from corehead_hf.measuring.dealing import process_state
    from corehead_hf.processor import load_processor

    dtype = arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype {arguments.dtype} was given; it is auto or a torch dtype, such as bfloat16.")
    device_map = {"": process_state().device} if arguments.device_map is None else arguments.device_map
    revision = {} if arguments.revision is None else {"revision": arguments.revision}
    model = AutoCoReModel.from_pretrained(arguments.model, dtype=dtype, device_map=device_map, **revision)
    return model, load_processor(arguments.model, **revision)


def load_examples(arguments: argparse.Namespace) -> ExampleSet:
    """The examples that --data and its options name."""
    from corehead_hf.data import load

    options = {key: _value(text) for key, text in (_pair(option) for option in arguments.option)}
    common = {"on_error": arguments.on_error, "limit": arguments.limit, **options}
    if arguments.data.endswith(".jsonl"):
        if arguments.path is not None:
            raise ValueError(f"--path {arguments.path} was given beside --data {arguments.data}; the file is the path.")
        return load("jsonl", arguments.data, **common)
    if arguments.data == "glyphs":
        number = GLYPHS_EXAMPLES if arguments.limit is None else arguments.limit
        common = {"num_examples": number, "seed": GLYPHS_SEED, **common}
    try:
        return load(arguments.data, arguments.path, **common)
    except TypeError as error:  # an option that is unknown or missing
        raise ValueError(f"{error} Give options as --option KEY=VALUE.") from error


def pick_example(examples: ExampleSet, wanted: str) -> Example:
    """The example with an id or, where there is none, with a number from 0; only what is before a number is decoded.

    Raises:
        ValueError: there is neither.
    """
    ids = [row.id for row in examples.source.iter_rows()]
    if wanted in ids:
        others = [name for name in ids if name not in (None, wanted)]
        found = next(iter(examples.without(others)), None)  # type: ignore[arg-type]
    else:
        found = next(islice(examples, int(wanted), None), None) if wanted.isdecimal() else None
    if found is None:
        raise ValueError(
            f"--example {wanted} was given - the data has {len(ids)} rows, and no example of this id or number; see "
            f"--limit and --on-error - give an id, such as {ids[0] if ids else None!r}, or a number from 0."
        )
    return found


def dataset_name(arguments: argparse.Namespace) -> str:
    """What the data set is called in a result."""
    if arguments.dataset:
        return arguments.dataset
    if arguments.data.endswith(".jsonl"):
        return Path(arguments.data).stem
    path = arguments.path
    is_hub_id = path is not None and path.count("/") == 1 and not Path(path).exists()
    return path if is_hub_id else arguments.data


def _pair(option: str) -> tuple[str, str]:
    key, sign, text = option.partition("=")
    if not sign or not key:
        raise ValueError(f"--option {option} was given; it is KEY=VALUE, such as split=test.")
    return key, text


def _value(text: str) -> Any:
    """Numbers, true, false and null as JSON has them; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
