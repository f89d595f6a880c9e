"""The paper's studies as functions: each takes head maps, recordings or a scorer and returns a Result.

A Result is a small frozen dataclass with to_pandas() and save(); Result.load reads it back. Nothing here draws: plots
does. The studies need scipy and the tables pandas, both imported where they are used: pip install
'corehead-hf[analysis]'.
"""

# Not on first use, as corehead_hf's own names: a study is called as its file is, and importing the file later would
# put the module in the place of the function.
from corehead_hf.analysis.ablation import AblationCurve, AblationPoint, GroupPoint, ablation_curve
from corehead_hf.analysis.answers import AnswerScorer
from corehead_hf.analysis.hybrid_grid import GridPoint, HybridGrid, hybrid_grid
from corehead_hf.analysis.intervals import Estimate, difference_estimate, mean_estimate
from corehead_hf.analysis.keep_sweep import KeepPoint, KeepSweep, Quantiles, keep_sweep
from corehead_hf.analysis.key_tokens import KeyTokenStudy, key_tokens
from corehead_hf.analysis.observing import observe
from corehead_hf.analysis.prefill_latency import LatencyPoint, PrefillLatency, prefill_latency
from corehead_hf.analysis.result import Result
from corehead_hf.analysis.stability import Stability, ram_per_example, stability
from corehead_hf.analysis.vision_heads import VisionHeads, vision_heads

__all__ = [
    "AblationCurve",
    "AblationPoint",
    "AnswerScorer",
    "Estimate",
    "GridPoint",
    "GroupPoint",
    "HybridGrid",
    "KeepPoint",
    "KeepSweep",
    "KeyTokenStudy",
    "LatencyPoint",
    "PrefillLatency",
    "Quantiles",
    "Result",
    "Stability",
    "VisionHeads",
    "ablation_curve",
    "difference_estimate",
    "hybrid_grid",
    "keep_sweep",
    "key_tokens",
    "mean_estimate",
    "observe",
    "prefill_latency",
    "ram_per_example",
    "stability",
    "vision_heads",
]
