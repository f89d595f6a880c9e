"""Record, ablate and accelerate the CoRe heads of a tiny model, offline.

    python examples/01_quickstart.py [--model hub_artifacts/glyphs-qwen3-vl]

With a large model the same lines hold: give its Hub id, and examples of your own.
"""

import argparse

import torch

from corehead_hf import AutoCoReModel, load_processor
from corehead_hf.data import glyphs
from corehead_hf.families import family_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
path = parser.parse_args().model

model = AutoCoReModel.from_pretrained(path, dtype=torch.float32, head_map=f"{path}-head-map")
processor = load_processor(path)
prepared = family_of(model).prepare(processor, list(glyphs.generate(8, seed=1)))
inputs, length = prepared.inputs, prepared.inputs["input_ids"].shape[1]


def answers() -> list[str]:
    tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    return processor.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)


with model.record_attention(prepared.question_mask, prepared.evidence_mask) as recording:
    model.prefill(**inputs)
layer, head = model.head_map.ranking()[0].tolist()
print(f"head ({layer}, {head}): RAM {recording.ram[:, layer, head].mean():.3f}, chance {recording.chance.mean():.3f}")
print("expected       ", [example.answer for example in prepared.examples])
print("dense          ", answers())
with model.ablate_heads(model.head_map.top(0.05)):
    print("top 5 % ablated", answers())
model.enable_hybrid(keep=0.05, sink_size=4, window_size=16, dense_below=0)
print("5 % dense      ", answers())
model.disable_hybrid()
