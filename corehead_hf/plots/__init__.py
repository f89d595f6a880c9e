"""Figures from measured results. Each function returns a matplotlib Figure, shows nothing, can draw into given axes.

Needs matplotlib: pip install 'corehead-hf[plot]'.
"""

from corehead_hf.plots.ablation import ablation_curve, keep_curve
from corehead_hf.plots.convergence import convergence_curve
from corehead_hf.plots.figure import new_figure, require_matplotlib
from corehead_hf.plots.heads import head_heatmap, head_heatmaps
from corehead_hf.plots.hybrid_grid import hybrid_grid_curves
from corehead_hf.plots.key_tokens import coverage_curve, key_token_bars
from corehead_hf.plots.latency import latency_curve
from corehead_hf.plots.overlay import attention_overlay
from corehead_hf.plots.prefill_latency import prefill_curve
from corehead_hf.plots.stability import spearman_matrix, stability_map
from corehead_hf.plots.tokens import token_overlay
from corehead_hf.plots.vision_heads import vision_overlap

__all__ = [
    "ablation_curve",
    "attention_overlay",
    "convergence_curve",
    "coverage_curve",
    "head_heatmap",
    "head_heatmaps",
    "hybrid_grid_curves",
    "keep_curve",
    "key_token_bars",
    "latency_curve",
    "new_figure",
    "prefill_curve",
    "require_matplotlib",
    "spearman_matrix",
    "stability_map",
    "token_overlay",
    "vision_overlap",
]
