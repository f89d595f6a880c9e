"""corehead ablate: accuracy with more and more heads ablated, top ones beside bottom and random ones."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from corehead_hf.commands.loading import dataset_name
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import (
    about,
    add_result_arguments,
    add_scoring_arguments,
    add_subject_arguments,
    chance_of,
    check_destinations,
    finished,
    load_scored,
    sizes,
)
from corehead_hf.commands.tables import table
from corehead_hf.commands.values import count_or_share, natural

if TYPE_CHECKING:
    from corehead_hf.analysis.ablation import AblationCurve, AblationPoint

HELP = "score a model's answers with top, bottom and random heads ablated"
# As corehead_hf.analysis and corehead_hf.modes have them; written here too, so that --help needs no torch.
GROUPS = ("top", "bottom", "random", "layer_matched")
VARIANTS = ("zero", "mean", "visual", "stream")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_subject_arguments(parser)
    add = parser.add_argument
    add(
        "--counts",
        type=count_or_share,
        nargs="+",
        default=[1, 2, 5, 10],
        metavar="K",
        help="heads to ablate, as counts or as shares such as 0.05 (default: 1 2 5 10)",
    )
    add("--groups", choices=GROUPS, nargs="+", default=list(GROUPS), help="which heads (default: all four)")
    add("--variants", choices=VARIANTS, nargs="+", default=["zero"], help="what becomes of them (default: zero)")
    add("--seeds", type=natural, nargs="+", default=[0, 1, 2], help="of random heads (default: 0 1 2)")
    add(
        "--reference",
        type=natural,
        default=0,
        metavar="N",
        help="examples, the first of the data, that give the mean outputs of the variant mean and are not scored",
    )
    add_scoring_arguments(parser)
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Ablate, score and save."""
    from corehead_hf.analysis.ablation import ablation_curve

    check_destinations(arguments)
    if "mean" in arguments.variants and not arguments.reference:
        raise ValueError("--variants mean needs examples to take mean outputs from; give --reference 16, say.")
    model, head_map, scorer, reference = load_scored(arguments, arguments.reference)
    curve = ablation_curve(
        model,
        head_map,
        scorer,
        reference=reference or None,
        **sizes(arguments),
        chance=chance_of(arguments),
        dataset=dataset_name(arguments),
        **{name: getattr(arguments, name) for name in ("counts", "groups", "variants", "seeds", "resume_from")},
    )
    return finished(curve, arguments, lambda plots: plots.ablation_curve(curve, curve.variants), _text(curve))


def _text(curve: AblationCurve) -> list[str]:
    from corehead_hf.analysis.intervals import envelope

    rows = [["none", "dense", 0, curve.dense, None]]
    by_seed: dict[tuple[str, str, int], list[AblationPoint]] = {}
    for point in curve.points:
        by_seed.setdefault((point.variant, point.group, point.count), []).append(point)
    for key, seeds in by_seed.items():
        rows.append([*key, *(envelope([getattr(point, name) for point in seeds]) for name in ("accuracy", "drop"))])
    return [
        about(curve),
        *table(["variant", "heads", "ablated", "accuracy", "drop from dense"], rows),
        f"in brackets: {curve.confidence:.0%} intervals over examples, of random heads their envelope over the seeds",
    ]
