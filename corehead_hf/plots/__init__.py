"""Figures from measured results. Each function returns a matplotlib Figure, shows nothing, can draw into given axes.

Needs matplotlib: pip install 'corehead-hf[plot]'.
"""

from corehead_hf.plots.figure import new_figure, require_matplotlib
from corehead_hf.plots.heads import ablation_curve, head_heatmap
from corehead_hf.plots.overlay import attention_overlay
from corehead_hf.plots.tokens import token_overlay

__all__ = [
    "ablation_curve",
    "attention_overlay",
    "head_heatmap",
    "new_figure",
    "require_matplotlib",
    "token_overlay",
]
