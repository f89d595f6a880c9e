"""Teach a model another answer with LoRA, and see that the same heads still look it up; merge, save, load natively.

    python examples/09_peft.py [--model hub_artifacts/glyphs-qwen3-vl] [--steps 40] [--out merged-model]

The tiny models answer with a colour's name. The adapter learns to answer with the next colour of the list instead: the
answer changes, the look-up should not. Wrap before or after get_peft_model(); the methods are there either way.
"""

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.data import glyphs
from corehead_hf.families import family_of

NAMES = list(glyphs.COLORS)


def prepare(model, processor, num_examples, seed):
    """(inputs of the prompts, the token that should follow each)."""
    prepared = family_of(model).prepare(processor, list(glyphs.generate(num_examples, seed=seed)))
    answers = [NAMES[(NAMES.index(example.answer) + 1) % len(NAMES)] for example in prepared.examples]
    tokens = processor.tokenizer(answers, add_special_tokens=False).input_ids
    return prepared.inputs, torch.tensor([each[0] for each in tokens])


def train(model, processor, steps):
    """A few steps of AdamW on the first answer token; only the adapter learns."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        inputs, answers = prepare(model, processor, 16, seed=step)
        loss = torch.nn.functional.cross_entropy(model(**inputs, logits_to_keep=1).logits[:, -1], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(f"step {step + 1}: loss {loss.detach():.3f}")


@torch.no_grad()
def accuracy(model, inputs, answers):
    return float((model(**inputs, logits_to_keep=1).logits[:, -1].argmax(dim=-1) == answers).float().mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", help="folder for the merged model")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    processor = load_processor(arguments.model)
    wrapped = AutoCoReModel.from_pretrained(
        arguments.model, dtype=torch.float32, head_map=f"{arguments.model}-head-map"
    )
    top = wrapped.head_map.top(0.05)
    projections = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
    model = get_peft_model(wrapped, LoraConfig(r=8, target_modules=projections))
    train(model, processor, arguments.steps)

    inputs, answers = prepare(model, processor, 32, seed=1000)
    print(f"adapted: {accuracy(model, inputs, answers):.2f}")
    with model.ablate_heads(top):
        print(f"adapted, the base model's top 5 % ablated: {accuracy(model, inputs, answers):.2f}")
    model.enable_hybrid(heads=top, sink_size=4, window_size=16, dense_below=0)
    print(f"adapted, only they dense in prefill: {accuracy(model, inputs, answers):.2f}")
    model.disable_hybrid()
    head_map = measure(model, processor, list(glyphs.generate(16, seed=777)), dataset="glyphs", base_model="adapted")
    first = [tuple(each.ranking()[0].tolist()) for each in (model.head_map, head_map)]
    print(f"head with the highest RAM: {first[0]}, adapted {first[1]}")

    merged = model.merge_and_unload()  # CoRe stays: merged.ablate_heads(...) works as well
    if arguments.out:
        merged.save_pretrained(arguments.out)
        processor.save_pretrained(arguments.out)
        merged = AutoModelForImageTextToText.from_pretrained(arguments.out, dtype=torch.float32)  # no CoRe needed
        print(f"merged, saved, loaded natively: {accuracy(merged, inputs, answers):.2f}")


if __name__ == "__main__":
    main()
