"""What test_devices.py asks of two processes: torchrun two_processes.py OUT.json, with a folder of tiny models beside.

The first process writes, per family, what happened under tensor parallelism, and the scores of a map measured by both.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from tiny_models import attentions, inputs_for, logits, masks_for
from transformers import AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.data import load

FAMILIES = ("qwen3_vl", "llava_onevision", "internvl_qwen3")
HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
CHECKPOINTS = {"qwen3_vl": "glyphs-qwen3-vl", "llava_onevision": "glyphs-llava-onevision"}
CHECKPOINTS["internvl_qwen3"] = "glyphs-internvl"


def measured(family):
    """Scores of a small map; where processes are launched together, each measures a share."""
    folder = HUB / CHECKPOINTS[family]
    model = AutoCoReModel.from_pretrained(folder, dtype=torch.float32)
    examples = load("glyphs", num_examples=4, seed=5, pages=1, margin=4, num_letters=12)
    return measure(model, load_processor(folder), examples, dataset="glyphs", batch_size=1).scores.tolist()


def error_of(function):
    """[class, message] of what a call raises, or None."""
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def modes(model, inputs):
    """A call that turns on each mode and runs nothing."""
    question, evidence, _ = masks_for(inputs)
    return {
        "hybrid": lambda: model.enable_hybrid(heads=[(0, 1)], sink_size=2, window_size=4, dense_below=0),
        "record": lambda: model.record_attention(question, evidence).__enter__(),
        "ablate": lambda: model.ablate_heads([(0, 1)]).__enter__(),
    }


def split(folder):
    """What a natively tensor-parallel model does before and after CoRe is installed."""
    native = AutoModelForImageTextToText.from_pretrained(folder, tp_plan="auto").eval()
    inputs = inputs_for(native)
    plain = logits(native, **inputs)
    model = AutoCoReModel.from_model(native)
    found = {"equal": torch.equal(logits(model, **inputs), plain)}
    found["heads split"] = hasattr(attentions(model)[0].q_proj.weight, "placements")
    found["refusals"] = {name: error_of(turn_on) for name, turn_on in modes(model, inputs).items()}
    if not found["heads split"]:
        model.core_state.modes.clear()
        model.enable_hybrid(heads=[(0, 1)], sink_size=2, window_size=4, dense_below=0)
        found["hybrid"] = logits(model, **inputs).tolist()
    return found


def main(out):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {"measured": {family: measured(family) for family in FAMILIES}, "split": {}}
    for family in FAMILIES:
        try:
            found["split"][family] = split(out.parent / family)
        except Exception as error:
            found["split"][family] = {"upstream": [type(error).__name__, str(error)]}
    if PartialState().process_index == 0:
        out.write_text(json.dumps(found), encoding="utf-8")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
