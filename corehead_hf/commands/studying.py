"""What the verbs of the studies share: a head map, examples that are scored, where the result and its figure go."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.loading import add_data_arguments, add_model_arguments, load_examples, load_model
from corehead_hf.commands.output import Output
from corehead_hf.commands.tables import printable
from corehead_hf.commands.values import figure_path, natural, positive, probability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.answers import AnswerScorer
    from corehead_hf.analysis.result import Result
    from corehead_hf.data.example import Example
    from corehead_hf.families import Prepared
    from corehead_hf.head_map import HeadMap

logger = logging.getLogger(__name__)

SINK_SIZE, WINDOW_SIZE = 128, 2048


def add_subject_arguments(parser: argparse.ArgumentParser, named: bool = True) -> None:
    """What is studied: a model, the ranking of its heads, examples."""
    add_model_arguments(parser)
    parser.add_argument("--head-map", required=True, metavar="MAP", help="folder or Hub id of the model's head map")
    add_data_arguments(parser, named)


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the study goes."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="RESULT.json", help="file of the result; corehead plot draws it")
    add("--figure", type=figure_path, metavar="FILE", help="also draw it, into a .png, .svg or .pdf")


def add_answering_arguments(parser: argparse.ArgumentParser) -> None:
    """How answers are made and scored, and where scores are kept."""
    add = parser.add_argument
    add("--batch-size", type=positive, default=8, help="examples a prefill (default: 8)")
    add("--max-new-tokens", type=positive, default=2, help="of an answer and the end of its turn (default: 2)")
    add("--chance", type=probability, help="accuracy of a guess, kept in the result (glyphs: 1/12)")
    add("--resume-from", type=Path, metavar="FILE", help="keep every pass's scores here, and go on from what is there")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """The same, and what a streaming head sees."""
    add_answering_arguments(parser)
    add = parser.add_argument
    add("--sink", type=natural, help=f"sink_size of streaming heads, tokens (default: {SINK_SIZE})")
    add("--window", type=positive, help=f"window_size of streaming heads, tokens (default: {WINDOW_SIZE})")


def sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """sink_size and window_size, as given or the defaults."""
    return {
        "sink_size": SINK_SIZE if arguments.sink is None else arguments.sink,
        "window_size": arguments.window or WINDOW_SIZE,
    }


def check_destinations(arguments: argparse.Namespace) -> None:
    """Before long work: that its result can be written and drawn.

    Raises:
        ValueError: --out is a folder, or no file can be made there.
        ImportError: --figure needs matplotlib, which is missing.
    """
    for name in ("out", "figure"):
        if getattr(arguments, name) is not None:
            check_file(name, getattr(arguments, name))
    if arguments.figure is not None:
        from corehead_hf.plots import require_matplotlib

        require_matplotlib()


def check_file(name: str, path: Path) -> None:
    """Raise ValueError where --name is a folder or no file can be made; its folder is made."""
    if path.is_dir():
        raise ValueError(f"--{name} {path} is a folder; give a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--{name} {path} was given; no file can be made there: {error}.") from error


def load_subject(arguments: argparse.Namespace) -> tuple[Any, Any, HeadMap, Iterator[Example]]:
    """The model, its processor, its head map, and the examples that its family can map."""
    from corehead_hf.head_map import HeadMap

    head_map, examples = HeadMap.from_pretrained(arguments.head_map), load_examples(arguments)
    model, processor = load_model(arguments)
    head_map.check_fits(model)
    return model, processor, head_map, _mappable(arguments, model, processor, examples)


def load_scored(arguments: argparse.Namespace, reference: int = 0) -> tuple[Any, HeadMap, AnswerScorer, list[Prepared]]:
    """The model, its head map, a scorer of the examples, and the first `reference` of them, prepared but not scored.

    Raises:
        ValueError: an example without an answer, or none to score.
    """
    from corehead_hf.analysis.answers import AnswerScorer

    model, processor, head_map, rest = load_subject(arguments)
    first = list(_batches(model, processor, islice(rest, reference), arguments.batch_size))
    batches = list(_batches(model, processor, map(_answered, rest), arguments.batch_size))
    if not batches:
        beside = f" beside --reference {reference}" if reference else ""
        raise ValueError(f"--data {arguments.data} gave no example to score{beside}; give more.")
    return model, head_map, AnswerScorer(model, processor, batches, max_new_tokens=arguments.max_new_tokens), first


def chance_of(arguments: argparse.Namespace) -> float | None:
    """--chance; of glyphs it is known."""
    from corehead_hf.data.glyphs import COLORS

    return 1 / len(COLORS) if arguments.chance is None and arguments.data == "glyphs" else arguments.chance


def about(study: Any) -> str:
    """The first line of a study's answer: model, data, and the chance level where the study has one."""
    data = f"{study.num_examples} examples of {printable(study.dataset)}"
    line = f"{printable(study.model)}, {data}, {study.num_heads} heads"
    if not hasattr(study, "chance"):
        return line
    return f"{line}, chance level {'unknown' if study.chance is None else format(study.chance, '.3f')}"


def finished(
    result: Result, arguments: argparse.Namespace, draw: Callable[[Any], Figure], lines: list[str], **more: Any
) -> Output:
    """Save a study, draw it where that was asked, and say where.

    Args:
        draw: makes the figure with the functions of corehead_hf.plots.
        lines: the text answer.
        more: further JSON values of the answer.
    """
    result.save(arguments.out)
    places = {"out": str(arguments.out)}
    if arguments.figure is not None:
        from corehead_hf import plots

        save_figure(draw(plots), arguments.figure)
        places["figure"] = str(arguments.figure)
    values = json.loads(arguments.out.read_text(encoding="utf-8"))
    return Output("\n".join([*lines, f"saved in {' and '.join(places.values())}"]), {**values, **more, **places})


def save_figure(figure: Figure, path: Path, dpi: int | None = None) -> None:
    """Write a figure in the format of the path's suffix, without the time of day: the same figure, the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {".pdf": "CreationDate", ".svg": "Date"}.get(path.suffix.lower())
    figure.savefig(path, dpi="figure" if dpi is None else dpi, metadata={dated: None} if dated else None)


def _mappable(
    arguments: argparse.Namespace, model: Any, processor: Any, examples: Iterable[Example]
) -> Iterator[Example]:
    """With --on-error skip without those that the family cannot map, each logged."""
    from corehead_hf.families import family_of

    family = family_of(model)
    for example in examples:
        if arguments.on_error == "skip":
            try:
                family.prepare(processor, example)
            except ValueError as error:
                logger.warning("skipped example %r: %s", example.id, error)
                continue
        yield example


def _batches(model: Any, processor: Any, examples: Iterator[Example], size: int) -> Iterator[Prepared]:
    from corehead_hf.families import family_of

    while batch := list(islice(examples, size)):
        yield family_of(model).prepare(processor, batch)


def _answered(example: Example) -> Example:
    if not example.answer.strip():
        raise ValueError(
            f"example {example.id!r} has no answer text, and answers are what is scored; take data with answers, such "
            "as mmdocir, mmlongbench-doc or your own FILE.jsonl."
        )
    return example
