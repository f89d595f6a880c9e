"""One command for the paper's tables and figures: measure, ablate, answer, time, and write them beside the paper's.

    reproduce(paper_plan("Qwen/Qwen3-VL-8B-Instruct", "data"), "reproduction", load_model)

Every step keeps what it made; a run that was killed goes on in the same folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corehead_hf import plots
from corehead_hf.analysis.intervals import require_scipy
from corehead_hf.reproduce.answers import draw_ablation, score_ablations, score_budgets
from corehead_hf.reproduce.maps import compare_maps, find_key_tokens, measure_maps
from corehead_hf.reproduce.plan import Plan, Source, paper_plan, tiny_plan
from corehead_hf.reproduce.report import REPORT_NAME, write_report
from corehead_hf.reproduce.run import Run
from corehead_hf.reproduce.speed import time_prefill

__all__ = ["STEPS", "Plan", "Source", "paper_plan", "reproduce", "tiny_plan"]

logger = logging.getLogger(__name__)

# Steps whose work is dealt out to all processes come first: the main one is alone afterwards, and nobody waits for it.
_TOGETHER: dict[str, Callable[[Run], None]] = {"ablation": score_ablations, "accuracy": score_budgets}
_ALONE: dict[str, tuple[Callable[[Run], None], ...]] = {
    "maps": (compare_maps,),
    "key-tokens": (find_key_tokens,),
    "ablation": (draw_ablation,),
    "latency": (time_prefill,),
}
STEPS = ("maps", "key-tokens", "ablation", "accuracy", "latency")


def reproduce(
    plan: Plan,
    folder: str | Path,
    load_model: Callable[[], tuple[Any, Any]],
    *,
    only: Sequence[str] | None = None,
) -> Run:
    """Do a plan, and write report.md with its tables and figures.

    Data that are missing, or hold nothing that can be used, are said, listed in the report and left out; broken videos
    and rows are skipped and counted. Under torchrun measuring and answering are dealt out to the processes.

    Args:
        plan: from paper_plan or tiny_plan, or one's own.
        folder: of everything that is made; call again with the same plan to go on.
        load_model: gives the CoRe-wrapped model and its processor.
        only: of STEPS, those to do; what was made before is in the report all the same. Head maps are always measured
            first, where they were not.

    Returns:
        The run, with `missing`: what was left out -> why.

    Raises:
        ValueError: an unknown step, or a folder that holds another plan's run.
        ImportError: matplotlib, scipy or pandas is missing.
    """
    steps = STEPS if only is None else tuple(only)
    if unknown := [step for step in steps if step not in STEPS]:
        raise ValueError(f"the steps {unknown} were asked for - there are {', '.join(STEPS)} - take some of them.")
    plots.require_matplotlib()
    require_scipy()
    run = Run(plan, folder, load_model)
    measure_maps(run)
    for step in steps:
        if step in _TOGETHER and run.maps:
            _TOGETHER[step](run)
    if run.is_main:
        for step in steps:
            for part in _ALONE.get(step, ()) if run.maps else ():
                part(run)
        write_report(run)
        logger.info("report in %s", run.folder / REPORT_NAME)
    return run
