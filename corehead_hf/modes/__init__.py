"""The modes: what can be on while a model runs. One dataclass each, with attend(); model.py turns them on and off.

When several are on, recording sees what ablation returns, and ablation what the hybrid prefill returns.
"""

from corehead_hf.modes.ablate import ABLATION_VARIANTS, AblateHeads
from corehead_hf.modes.hybrid import HybridPrefill
from corehead_hf.modes.record import RecordAttention, RecordOutputs

__all__ = ["ABLATION_VARIANTS", "AblateHeads", "HybridPrefill", "RecordAttention", "RecordOutputs"]
