"""corehead key-tokens: whether the top heads' largest attention entries are the evidence."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.loading import add_rule_arguments, dataset_name
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import (
    about,
    add_result_arguments,
    add_subject_arguments,
    check_destinations,
    finished,
    load_subject,
)
from corehead_hf.commands.tables import table
from corehead_hf.commands.values import natural, positive

if TYPE_CHECKING:
    from corehead_hf.analysis.key_tokens import KeyTokenStudy

HELP = "count how much of the evidence the top, bottom and random heads find"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_subject_arguments(parser)
    add_rule_arguments(parser)
    add = parser.add_argument
    add("--batch-size", type=positive, default=8, help="examples a prefill (default: 8)")
    add("--k", type=positive, default=15, help="heads of each group (default: 15)")
    add(
        "--sizes",
        type=positive,
        nargs="+",
        default=[1, 2, 5, 10, 15, 20, 30, 50, 75, 100],
        metavar="G",
        help="heads of the groups whose coverage is counted (default: 1 2 5 10 15 20 30 50 75 100)",
    )
    add("--seeds", type=natural, nargs="+", default=[0, 1, 2], help="of random heads (default: 0 1 2)")
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Observe, count and save."""
    from corehead_hf.analysis import key_tokens, observe

    check_destinations(arguments)
    model, processor, head_map, examples = load_subject(arguments)
    rule = {name: getattr(arguments, name) for name in ("batch_size", "views", "min_coverage")}
    observed = observe(model, processor, examples, **rule)
    sizes = {"k": arguments.k, "group_sizes": arguments.sizes, "seeds": arguments.seeds}
    study = key_tokens(observed, head_map, dataset=dataset_name(arguments), **sizes)

    def draw(plots: Any) -> Any:
        figure, axes = plots.new_figure(1, 2, size=(9.8, 3.7))
        plots.key_token_bars(study, ax=axes[0, 0])
        return plots.coverage_curve(study, ax=axes[0, 1])

    return finished(study, arguments, draw, _text(study))


def _text(study: KeyTokenStudy) -> list[str]:
    groups = list(study.ratio)
    measures = [
        ["key token ratio", study.k, *study.ratio.values(), study.ratio_chance],
        ["hit rate", study.k, *study.hit_rate.values(), study.hit_chance],
    ]
    for i, size in enumerate(study.group_sizes):
        found = [study.coverage[group][i] for group in groups]
        measures.append(["coverage", size, *found, study.coverage_chance[i]])
    return [
        about(study),
        *table(["", "heads", *groups, "chance"], measures),
        "in brackets: 95% intervals over examples",
    ]
