"""Quantise a model, and see what stays: answers, the ranking of its heads, ablation and hybrid prefill.

    python examples/10_quantised.py [--model hub_artifacts/glyphs-qwen3-vl] [--library torchao|bitsandbytes]

`quantization_config` goes through AutoCoReModel.from_pretrained as through any transformers loader, and a model that is
already quantised through AutoCoReModel.from_model. Only weights are quantised: attention itself, and so RAM, stays in
the model's dtype.
"""

import argparse

import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor, measure
from corehead_hf.data import glyphs
from corehead_hf.families import family_of


def quantisation(library):
    """int8 weights of the decoder's linears; the vision tower and the output layer stay as they are."""
    if library == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["visual", "vision_tower", "lm_head"])
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["visual", "vision_tower", "lm_head"])


def accuracy(model, processor, prepared):
    length = prepared.inputs["input_ids"].shape[1]
    tokens = model.generate(**prepared.inputs, max_new_tokens=2, do_sample=False)
    told = processor.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
    return sum(a.strip() == e.answer for a, e in zip(told, prepared.examples, strict=True)) / len(told)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
parser.add_argument("--library", choices=("torchao", "bitsandbytes"), default="torchao")
arguments = parser.parse_args()

processor = load_processor(arguments.model)
model = AutoCoReModel.from_pretrained(
    arguments.model, dtype=torch.float32, device_map="cpu", quantization_config=quantisation(arguments.library)
)
prepared = family_of(model).prepare(processor, list(glyphs.generate(16, seed=1)))
print(f"decoder linears: {type(model.model.language_model.layers[0].mlp.up_proj.weight).__name__}")
print(f"answers: {accuracy(model, processor, prepared):.2f}")

full = HeadMap.from_pretrained(f"{arguments.model}-head-map")  # measured without quantisation
head_map = measure(model, processor, list(glyphs.generate(16, seed=777)), dataset="glyphs", base_model="quantised")
change = float((head_map.scores - full.scores).abs().max())
first = [tuple(each.ranking()[0].tolist()) for each in (full, head_map)]
print(f"head with the highest RAM: {first[0]}, quantised {first[1]}")
print(f"largest change of a head's RAM: {change:.3f}")

model.load_head_map(full)
with model.ablate_heads(full.top(0.05)):
    print(f"top 5 % ablated: {accuracy(model, processor, prepared):.2f}")
model.enable_hybrid(keep=0.05, sink_size=4, window_size=16, dense_below=0)
print(f"only they dense in prefill: {accuracy(model, processor, prepared):.2f}")
