"""What answers are worth: with heads ablated (Figure 6a), and with few heads dense (Tables 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from corehead_hf import plots
from corehead_hf.analysis import AblationCurve, AblationPoint, difference_estimate, mean_estimate
from corehead_hf.analysis.groups import Group, draw_groups
from corehead_hf.analysis.interventions import hybrid
from corehead_hf.evaluation import Evaluation, evaluate
from corehead_hf.reproduce.plan import Source
from corehead_hf.reproduce.run import Run

ABLATION = "ablation"


def score_ablations(run: Run) -> None:
    """Answer with nothing, the top, the bottom and random heads ablated."""
    with run.part(f"Figure 6a on {run.plan.ablated.name}"):
        counts = [count for count in run.plan.ablations if count < run.head_map.scores.numel()]
        groups = draw_groups(run.head_map, counts, ("top", "bottom", "random"), run.plan.seeds)
        dense = _evaluation(run, run.plan.ablated, f"{ABLATION} none", nullcontext)
        found = [_evaluation(run, run.plan.ablated, _name(g), partial(_ablated, run, g)) for g in groups]
        if run.is_main:
            run.save(_curve(run, dense, groups, found), ABLATION)


def score_budgets(run: Run) -> None:
    """Answer both benchmarks densely, and with each budget of heads dense in prefill."""
    for source in (run.plan.mlvu, run.plan.video_mme):
        with run.part(f"accuracy on {source.name}"):
            for count in (None, *run.plan.budgets):
                on = nullcontext if count is None else partial(_hybrid, run, count)
                _evaluation(run, source, accuracy_name(source, count), on)


def draw_ablation(run: Run) -> None:
    """Figure 6a."""
    curve = run.saved(ABLATION)
    if curve is not None:
        run.draw(plots.ablation_curve(curve), "figure 6a ablation")


def accuracy_name(source: Source, count: int | None) -> str:
    """What the result of a benchmark with so many dense heads is called; None is the model as it came."""
    return f"accuracy {source.name} {'dense' if count is None else count}"


def _name(group: Group) -> str:
    return f"{ABLATION} {group.name} {group.count}" + ("" if group.seed is None else f" seed {group.seed}")


def _ablated(run: Run, group: Group) -> AbstractContextManager[Any]:
    return run.model.ablate_heads(group.heads)


def _hybrid(run: Run, count: int) -> AbstractContextManager[Any]:
    return hybrid(run.model, run.head_map.top(count), run.plan.sink_size, run.plan.window_size)


def _evaluation(run: Run, source: Source, name: str, on: Callable[[], AbstractContextManager[Any]]) -> Evaluation:
    """A result by its name, from the folder or from answers, each of which is kept as soon as it is known."""
    kept: Evaluation | None = run.saved(name)
    if kept is not None:
        return kept
    examples = run.examples(source, run.plan.num_answered, answered=True)
    with on():
        found = evaluate(
            run.model,
            run.processor,
            examples,
            dataset=source.loader,
            batch_size=run.plan.batch_size,
            on_error="skip",
            resume_from=run.place("answers", run.mark, name),
        )
    if run.is_main:
        run.save(found, name)
    return found


def _curve(run: Run, dense: Evaluation, groups: Sequence[Group], found: Sequence[Evaluation]) -> AblationCurve:
    """The ablation curve of evaluations, over the examples that all of them scored."""
    known = [dict(zip(each.ids, each.scores.tolist(), strict=True)) for each in (dense, *found)]
    shared = [name for name in dense.ids if all(name in scores for scores in known)]
    first, *rest = (np.array([scores[name] for name in shared]) for scores in known)
    points = [
        AblationPoint("zero", g.name, g.count, g.seed, mean_estimate(s), difference_estimate(first, s))
        for g, s in zip(groups, rest, strict=True)
    ]
    return AblationCurve(
        model=run.head_map.base_model_name_or_path,
        dataset=run.plan.ablated.name,
        num_heads=run.head_map.scores.numel(),
        num_examples=len(shared),
        dense=mean_estimate(first),
        chance=None,
        points=tuple(points),
    )
