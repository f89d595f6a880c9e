"""corehead measure: a model and annotated data in, a head map's folder out."""

from __future__ import annotations

import argparse
from pathlib import Path

from corehead_hf.commands.loading import (
    add_data_arguments,
    add_model_arguments,
    add_rule_arguments,
    dataset_name,
    load_examples,
    load_model,
)
from corehead_hf.commands.output import Output
from corehead_hf.commands.values import positive

HELP = "measure a model's head map on annotated data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_rule_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the head map")
    add("--resume-from", type=Path, metavar="DIR", help="keep every result here, and go on from what is there")
    add("--keep-rows", action="store_true", help="also keep each example's attention rows there; large")
    add("--until-stable", type=float, metavar="RHO", help="stop once the ranking is this stable, e.g. 0.99")
    add("--batch-size", type=int, default=8, help="examples a prefill (default: 8)")
    add("--target", choices=("evidence", "visual"), default="evidence", help="visual: attention on all visual tokens")
    add("--top", type=positive, default=10, help="how many heads to print (default: 10)")


def run(arguments: argparse.Namespace) -> Output | None:
    """Measure and save; the summary, in the first process only."""
    from corehead_hf.commands.summary import summary, summary_data
    from corehead_hf.detection import measure
    from corehead_hf.head_map.hub import cached_commit
    from corehead_hf.measuring.dealing import process_state

    examples, state = load_examples(arguments), process_state()
    model, processor = load_model(arguments)
    head_map = measure(
        model,
        processor,
        examples,
        dataset=dataset_name(arguments),
        base_model_revision=getattr(model.config, "_commit_hash", None)
        or cached_commit(arguments.model, arguments.revision),
        **{name: getattr(arguments, name) for name in ("batch_size", "views", "min_coverage", "on_error", "target")},
        **{name: getattr(arguments, name) for name in ("resume_from", "keep_rows", "until_stable")},
    )
    output = None
    if state.is_main_process:
        head_map.save_pretrained(arguments.out)
        text = f"{summary(head_map, arguments.top)}\n{examples.report}\nsaved in {arguments.out}/"
        output = Output(text, {**summary_data(head_map, arguments.top), "out": str(arguments.out)})
    if state.num_processes > 1:
        state.destroy_process_group()
    return output
