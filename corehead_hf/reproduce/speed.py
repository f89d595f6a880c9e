"""How long prefill takes (Figure 7)."""

from __future__ import annotations

from corehead_hf import plots
from corehead_hf.analysis.prefill_latency import prefill_latency
from corehead_hf.reproduce.run import Run

LATENCY = "latency"


def time_prefill(run: Run) -> None:
    """Time dense prefill and every budget at every length; what runs out of memory is logged and left out."""
    with run.part("Figure 7"):
        found = run.saved(LATENCY)
        if found is None:
            found = prefill_latency(
                run.model,
                run.head_map,
                keeps=run.plan.budgets,
                lengths=run.plan.lengths,
                sink_size=run.plan.sink_size,
                window_size=run.plan.window_size,
                resume_from=run.place("answers", run.mark, "latency.jsonl"),
            )
            run.save(found, LATENCY)
        run.draw(plots.prefill_curve(found), "figure 7 latency")
