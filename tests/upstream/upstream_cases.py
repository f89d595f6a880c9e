"""One family's test case out of transformers' mixins; run_upstream.py starts a process per family and condition.

Not collected by a plain pytest: its name does not begin with test_.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path

from transformers import AutoModelForImageTextToText
from upstream_conditions import CONDITIONS, wrap_every
from upstream_source import mixins_of

# By its file: with tests/ on the path, transformers 5.0 would take the folder tests/kernels for the package kernels.
_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent.parent / "tiny_models.py")
tiny_models = sys.modules["tiny_models"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_models)

BATCH, LAYERS = 3, 2
FAMILY = os.environ["UPSTREAM_FAMILY"]
PREPARE = CONDITIONS[os.environ["UPSTREAM_CONDITION"]]
MIXINS = mixins_of(Path(os.environ["UPSTREAM_SOURCE"]))
NATIVE = AutoModelForImageTextToText._model_mapping[type(tiny_models.config_for(FAMILY))]
if PREPARE is not None:
    wrap_every(NATIVE, PREPARE)


class Tester:
    """What the mixins ask about a model: a tiny configuration, and inputs with one picture per sequence."""

    is_training = True
    batch_size, num_hidden_layers, num_attention_heads, hidden_size = BATCH, LAYERS, tiny_models.H, tiny_models.HIDDEN
    image_size, patch_size, pad_token_id = 16, 4, 0
    causal_lm_class = NATIVE

    def __init__(self):
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self):
        config = tiny_models.config_for(FAMILY, num_hidden_layers=LAYERS)
        config.vision_config.hidden_size = tiny_models.HIDDEN  # the size that Qwen3-VL's vision tower gives out
        config.vocab_size = config.get_text_config().vocab_size  # where the training mixin looks for it
        return config

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        return config, tiny_models.inputs_for(types.SimpleNamespace(config=config, forward=NATIVE.forward), BATCH)


class UpstreamTest(*MIXINS.values(), unittest.TestCase):
    all_model_classes = (NATIVE,)
    _is_composite = True
    test_pruning = test_head_masking = False  # asked by transformers 4.57; no supported family has either
    # LLaVA-OneVision's features have a row per tile, not per picture.
    skip_test_image_features_output_shape = skip_test_video_features_output_shape = FAMILY == "llava_onevision"
    # Its vision features are taken before the tower's last norm, which therefore gets no gradient.
    test_all_params_have_gradient = FAMILY != "llava_onevision"
    model_tester = None

    def setUp(self):
        self.model_tester = Tester()
