"""A scorer that runs no model: each example needs one head, and is right where nothing was done to that head."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from corehead_hf import HeadMap
from corehead_hf.modes import AblateHeads, HybridPrefill

# Ranks of the 3 x 4 heads of tests/tiny_models.py: (0, 2) first, then (1, 1), (0, 3), (1, 0), ..., (2, 3) last.
SCORES = [[0.40, 0.30, 0.90, 0.70], [0.60, 0.80, 0.50, 0.20], [0.15, 0.10, 0.05, 0.01]]


def head_map(scores=SCORES, **over):
    scores = torch.tensor(scores)
    layers, heads = scores.shape
    return HeadMap(**{
        "scores": scores, "count": torch.full((layers,), 5), "spread": torch.zeros(layers, heads),
        "base_model_name_or_path": "tiny", "base_model_revision": None, "model_type": "qwen3_vl",
        "num_layers": layers, "num_heads": heads, "num_kv_heads": 2, "head_dim": 16,
        "dataset": "hand", "num_examples": 5, "question_rule": "all", "view_rule": "all",
        "versions": dict.fromkeys(("torch", "transformers", "corehead_hf"), "1"), **over,
    })  # fmt: skip


class NeedsHeads:
    """Scores by hand.

    Args:
        model: whose modes are read.
        needs: per batch, the (layer, head) that each example needs.
    """

    def __init__(self, model, needs, length=30):
        self.model, self.calls, self.modes = model, 0, []
        self.about = {"needs": [[list(head) for head in batch] for batch in needs]}
        self.batches = [self._batch(heads, length) for heads in needs]

    def __call__(self, under=None):
        self.calls += 1
        scores = []
        for batch in self.batches:
            with nullcontext() if under is None else under(batch):
                self.modes += self.model.core_state.modes
                scores += [float(self._works(head)) for head in batch.needs]
        return scores

    def _works(self, head):
        for mode in self.model.core_state.modes:
            if isinstance(mode, AblateHeads) and mode.heads[head]:
                return False
            if isinstance(mode, HybridPrefill) and not mode.heads[head]:
                return False
        return True

    @staticmethod
    def _batch(heads, length):
        masks = torch.arange(length).expand(len(heads), -1) % 3 == 0
        examples = [SimpleNamespace(id=str(i), answer="") for i in range(len(heads))]
        return SimpleNamespace(needs=heads, examples=examples, question_mask=masks, visual_mask=~masks, inputs={})
