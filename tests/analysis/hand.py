"""Head maps made by hand."""

import torch

from corehead_hf import HeadMap

VERSIONS = dict.fromkeys(("torch", "transformers", "corehead_hf"), "1")


def hand_map(scores, **changes):
    """A map of these scores [L, Hq] and otherwise plain fields."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    layers, heads = scores.shape
    fields = {
        "scores": scores,
        "spread": torch.zeros(layers, heads),
        "count": 5,
        "base_model_name_or_path": "tiny",
        "base_model_revision": None,
        "model_type": "qwen3_vl",
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": 1,
        "head_dim": 8,
        "dataset": "hand",
        "num_examples": 5,
        "question_rule": "the question",
        "view_rule": "all views",
        "versions": VERSIONS,
    }
    return HeadMap(**{**fields, **changes})
