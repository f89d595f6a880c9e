"""corehead measure: a model and annotated data in, a head map's folder out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corehead_hf.data import ExampleSet
    from corehead_hf.head_map import HeadMap

GLYPHS_EXAMPLES, GLYPHS_SEED = 64, 777


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("model", help="Hub id or folder of the model")
    add("--data", required=True, metavar="NAME|FILE.jsonl", help="a data set by name, or one's own annotations")
    add("--path", help="the data set's folder or Hub id; not for glyphs, which is generated, nor for FILE.jsonl")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="of the data set, such as split=test")
    add("--limit", type=int, help="at most so many examples")
    add("--on-error", choices=("raise", "skip"), default="raise", help="what a wrong row or example does")
    add("--out", type=Path, required=True, help="folder of the head map")
    add("--resume-from", type=Path, metavar="DIR", help="keep every result here, and go on from what is there")
    add("--keep-rows", action="store_true", help="also keep each example's attention rows there; large")
    add("--until-stable", type=float, metavar="RHO", help="stop once the ranking is this stable, e.g. 0.99")
    add("--batch-size", type=int, default=8, help="examples a prefill (default: 8)")
    add("--views", choices=("all", "hires", "global"), default="all", help="which views of a picture count as evidence")
    add("--min-coverage", type=float, default=0.0, help="share of a visual token that must show evidence")
    add("--dtype", default="auto", help="of the weights: auto, bfloat16, float16, float32 (default: auto)")
    add("--device-map", help='"auto" spreads a big model over devices; default: this process\'s device')
    add("--revision", help="the model's commit, branch or tag on the Hub")
    add("--dataset", help="name kept in the head map (default: the Hub id, else the data set's name)")
    add("--top", type=int, default=10, help="how many heads to print (default: 10)")


def run(arguments: argparse.Namespace) -> str:
    """Measure and save; the summary, empty in all processes but the first."""
    import torch

    from corehead_hf.auto import AutoCoReModel
    from corehead_hf.detection import measure
    from corehead_hf.measuring.dealing import process_state
    from corehead_hf.processor import load_processor

    examples, state = _load(arguments), process_state()
    dtype = arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype {arguments.dtype} was given; it is auto or a torch dtype, such as bfloat16.")
    device_map = {"": state.device} if arguments.device_map is None else arguments.device_map
    revision = {} if arguments.revision is None else {"revision": arguments.revision}
    model = AutoCoReModel.from_pretrained(arguments.model, dtype=dtype, device_map=device_map, **revision)
    head_map = measure(
        model,
        load_processor(arguments.model, **revision),
        examples,
        dataset=arguments.dataset or _name(arguments),
        base_model_revision=getattr(model.config, "_commit_hash", None),
        **{name: getattr(arguments, name) for name in ("batch_size", "views", "min_coverage", "on_error")},
        **{name: getattr(arguments, name) for name in ("resume_from", "keep_rows", "until_stable")},
    )
    text = ""
    if state.is_main_process:
        head_map.save_pretrained(arguments.out)
        text = f"{summary(head_map, arguments.top)}\n{examples.report}\nsaved in {arguments.out}/"
    if state.num_processes > 1:
        state.destroy_process_group()
    return text


def summary(head_map: HeadMap, top: int) -> str:
    """What a head map says: its data, chance level, and the heads at the top."""
    lines = [repr(head_map)]
    facts = [f"skipped {head_map.num_skipped}"] if head_map.num_skipped is not None else []
    if head_map.chance is not None:
        facts.append(f"chance level {head_map.chance:.4f}")
    if head_map.convergence:
        count, rho = head_map.convergence[-1]
        facts.append(f"Spearman {rho:.4f} between the rankings of {count} and {count // 2} examples")
    lines += [", ".join(facts)] if facts else []
    title = "" if head_map.chance is None else f"{'lift':>8}"
    lines.append(f"{'rank':>5}{'layer':>7}{'head':>6}{'RAM':>9}{'std':>9}{title}")
    for rank, (layer, head) in enumerate(head_map.ranking()[:top].tolist(), 1):
        score, spread = float(head_map.scores[layer, head]), float(head_map.spread[layer, head])
        lift = "" if head_map.chance is None else f"{float(head_map.lift[layer, head]):>8.1f}"
        lines.append(f"{rank:>5}{layer:>7}{head:>6}{score:>9.4f}{spread:>9.4f}{lift}")
    return "\n".join(lines)


def _load(arguments: argparse.Namespace) -> ExampleSet:
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


def _name(arguments: argparse.Namespace) -> str:
    if arguments.data.endswith(".jsonl"):
        return Path(arguments.data).stem
    path = arguments.path
    is_hub_id = path is not None and path.count("/") == 1 and not Path(path).exists()
    return path if is_hub_id else arguments.data
