"""corehead eval: a model's accuracy on a benchmark, as it came, with few dense heads, or with heads ablated."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from corehead_hf.commands.loading import (
    add_data_arguments,
    add_model_arguments,
    dataset_name,
    load_examples,
    load_model,
)
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import SINK_SIZE, WINDOW_SIZE, check_file, sizes
from corehead_hf.commands.tables import printable, table
from corehead_hf.commands.values import count_or_share, natural, positive

if TYPE_CHECKING:
    from corehead_hf.evaluation import Answer, Evaluation
    from corehead_hf.head_map import HeadMap

HELP = "score a model's answers to a benchmark, also with hybrid prefill or ablated heads"
GROUPS = ("top", "bottom", "random", "layer_matched")  # as analysis.groups has them; --help needs no torch
DRAWN = ("random", "layer_matched")
VARIANTS = ("zero", "stream")
# Data sets that give every question only where they are asked for what is to be answered, not measured.
WITH_ANSWERING = ("mmlongbench", "mmlongbench-doc")


class _Ablate(argparse.Action):
    """GROUP COUNT, each checked."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        group, count = values
        if group not in GROUPS:
            parser.error(f"argument --ablate: {group!r} was given; the group is one of {', '.join(GROUPS)}")
        try:
            namespace.ablate = (group, count_or_share(count))
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --ablate: {error}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.set_defaults(on_error="skip")  # a broken video is no reason to stop; it is counted
    add = parser.add_argument
    add("--frames", type=positive, metavar="N", help="frames shown of a video; short for --option frames=N")
    add("--head-map", metavar="MAP", help="folder or Hub id of the model's head map, for --keep and --ablate")
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--keep", type=count_or_share, metavar="K", help="hybrid prefill with so many dense heads, a count or a share"
    )
    one.add_argument(
        "--ablate", action=_Ablate, nargs=2, metavar=("GROUP", "COUNT"), help=f"heads to ablate: {', '.join(GROUPS)}"
    )
    add("--variant", choices=VARIANTS, help="what becomes of ablated heads (default: zero)")
    add("--seed", type=natural, help="of random heads to ablate (default: 0)")
    add("--sink", type=natural, help=f"sink_size of streaming heads, tokens (default: {SINK_SIZE})")
    add("--window", type=positive, help=f"window_size of streaming heads, tokens (default: {WINDOW_SIZE})")
    add("--batch-size", type=positive, default=1, help="examples a generation (default: 1)")
    add("--max-new-tokens", type=positive, help="of an answer (default: the data set's)")
    add("--resume-from", type=Path, metavar="DIR", help="keep every answer here, and go on from what is there")
    add("--answers", type=Path, metavar="FILE.jsonl", help="also write every answer with its score, a line each")
    add("--out", type=Path, required=True, metavar="RESULT.json", help="file of the result")


def run(arguments: argparse.Namespace) -> Output | None:
    """Answer, score and save; the table, in the first process only."""
    _check(arguments)
    from corehead_hf.evaluation import evaluate
    from corehead_hf.measuring.dealing import process_state
    from corehead_hf.scoring import AVERAGES, MAX_NEW_TOKENS, SCORERS

    kind = "jsonl" if arguments.data.endswith(".jsonl") else arguments.data
    if kind not in SCORERS:
        raise ValueError(f"--data {kind} was given; its answers have no scorer. Known are {', '.join(SCORERS)}.")
    arguments.option += _data_options(arguments)
    examples, state = load_examples(arguments), process_state()
    head_map = _head_map(arguments)
    model, processor = load_model(arguments)
    with _written(arguments.answers if state.is_main_process else None) as write, _under(model, head_map, arguments):
        evaluation = evaluate(
            model,
            processor,
            examples,
            dataset=dataset_name(arguments),
            scorer=SCORERS[kind],
            average=AVERAGES[kind],
            max_new_tokens=arguments.max_new_tokens or MAX_NEW_TOKENS[kind],
            on_answer=write,
            **{name: getattr(arguments, name) for name in ("batch_size", "on_error", "resume_from")},
        )
    output = None
    if state.is_main_process:
        evaluation.save(arguments.out)
        places = {name: str(getattr(arguments, name)) for name in ("out", "answers") if getattr(arguments, name)}
        text = "\n".join([*_text(evaluation), f"saved in {' and '.join(places.values())}"])
        output = Output(text, {**json.loads(arguments.out.read_text(encoding="utf-8")), **places})
    if state.num_processes > 1:
        state.destroy_process_group()
    return output


def _check(arguments: argparse.Namespace) -> None:
    """Before long work: that options go together, and that what is asked for can be written."""
    for name in ("out", "answers"):
        place = getattr(arguments, name)
        if place is not None:
            check_file(name, place)
    if arguments.answers is not None and arguments.answers.resolve() == arguments.out.resolve():
        raise ValueError(f"--answers and --out are both {arguments.out}; one overwrites the other. Give two files.")
    changes = arguments.keep is not None or arguments.ablate is not None
    if changes != (arguments.head_map is not None):
        raise ValueError(
            "--keep and --ablate choose heads by a ranking, and a ranking is for them; give --head-map MAP with one of "
            "them, or neither."
        )
    ablates, streams = arguments.ablate is not None, arguments.keep is not None or arguments.variant == "stream"
    for names, fits, needed in (
        (("variant",), ablates, "--ablate GROUP COUNT"),
        (("seed",), ablates and arguments.ablate[0] in DRAWN, "--ablate with random or layer_matched heads"),
        (("sink", "window"), streams, "--keep K, or --ablate with --variant stream"),
    ):
        for name in names:
            if getattr(arguments, name) is not None and not fits:
                raise ValueError(
                    f"--{name} {getattr(arguments, name)} was given and would change nothing; it is for {needed}."
                )


def _data_options(arguments: argparse.Namespace) -> list[str]:
    """What the verb adds to --option."""
    given = {option.partition("=")[0] for option in arguments.option}
    if arguments.frames is not None and "frames" in given:
        raise ValueError(f"--frames {arguments.frames} was given beside --option frames=; give one of them.")
    added = [] if arguments.frames is None else [f"frames={arguments.frames}"]
    return added + ["answering=true"] * (arguments.data in WITH_ANSWERING and "answering" not in given)


def _head_map(arguments: argparse.Namespace) -> HeadMap | None:
    from corehead_hf.head_map import HeadMap

    return None if arguments.head_map is None else HeadMap.from_pretrained(arguments.head_map)


def _under(model: Any, head_map: HeadMap | None, arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    """What is done to the model while it answers."""
    if head_map is None:
        return nullcontext()
    from corehead_hf.analysis.groups import draw_groups
    from corehead_hf.analysis.interventions import hybrid

    head_map.check_fits(model)
    if arguments.keep is not None:
        return hybrid(model, head_map.top(arguments.keep), **sizes(arguments))
    name, count = arguments.ablate
    drawn = draw_groups(head_map, [count], [name], [arguments.seed or 0])
    if not drawn:
        raise ValueError(f"--ablate {name} {count} was given; random heads exclude the top ones, and too few are left.")
    variant = arguments.variant or "zero"
    return model.ablate_heads(drawn[0].heads, variant, **(sizes(arguments) if variant == "stream" else {}))


@contextmanager
def _written(path: Path | None) -> Iterator[Any]:
    """A function that writes answers as JSON lines, or None."""
    if path is None:
        yield None
        return
    with ExitStack() as stack:
        files: list[IO[str]] = []

        def write(answer: Answer) -> None:
            if not files:  # only now: a run that is refused leaves the answers of an earlier one alone
                path.parent.mkdir(parents=True, exist_ok=True)
                files.append(stack.enter_context(path.open("w", encoding="utf-8")))
            files[0].write(json.dumps(vars(answer)) + "\n")

        yield write


def _text(evaluation: Evaluation) -> list[str]:
    name, data = printable(evaluation.model), printable(evaluation.dataset)
    rows: list[Sequence[Any]] = []
    primary = evaluation.groups[0].key if evaluation.groups else None
    for group in evaluation.groups:
        label = printable(group.name) if group.key == primary else f"{group.key}: {printable(group.name)}"
        beside = " (not averaged)" if group.key == primary and not group.averaged else ""
        rows.append([label + beside, group.count, group.accuracy])
    count = sum(member in evaluation.averaged for member in evaluation.members)
    over = "examples" if evaluation.average_kind == "micro" else "groups"
    rows.append([f"average over {over}", count, evaluation.average])
    lines = [f"{name}, {evaluation.num_examples} examples of {data}, {evaluation.setting}"]
    lines += table(["", "examples", "accuracy"], rows)
    lines.append(f"in brackets: {evaluation.confidence:.0%} intervals over examples")
    if evaluation.f1 is not None:
        lines.append(f"F1 over the questions that can be answered: {evaluation.f1:.3f}")
    if evaluation.missing:
        lines.append(f"no example of {', '.join(evaluation.missing)}: the average is over the other groups")
    reasons = ", ".join(f"{printable(reason)} {count}" for reason, count in evaluation.skipped.items())
    lines.append(f"skipped {evaluation.num_skipped}" + (f": {reasons}" if reasons else ""))
    lines.append(f"no answer could be read in {evaluation.num_unparsed}, which score 0")
    lines.append(f"answered in {evaluation.seconds:.1f} s, the longest prompt has {evaluation.longest_prompt} tokens")
    return lines
