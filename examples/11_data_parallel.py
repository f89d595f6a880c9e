"""Data parallel: measure a head map and answer questions on several GPUs, or CPU processes, one model in each.

    torchrun --nproc_per_node 2 examples/11_data_parallel.py [--model hub_artifacts/glyphs-qwen3-vl]

measure() deals its batches out by itself and gives every process the same map, to the bit that of one process.
For anything else, accelerate deals out the examples and collects the answers. A model too large for one GPU is
loaded with device_map="auto" in a single process instead; tensor parallelism is refused.
"""

import argparse

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.data import glyphs
from corehead_hf.families import family_of


def answers(model, processor, examples):
    prepared = family_of(model).prepare(processor, examples).to(model.device, model.dtype)
    tokens = model.generate(**prepared.inputs, max_new_tokens=2, do_sample=False)
    told = tokens[:, prepared.inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(told, skip_special_tokens=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
    path = parser.parse_args().model
    state = PartialState(cpu=not torch.cuda.is_available())  # without cpu=, CPU processes do not find each other
    model = AutoCoReModel.from_pretrained(path, dtype=torch.float32).to(state.device)
    processor = load_processor(path)

    head_map = measure(model, processor, list(glyphs.generate(32, seed=777)), dataset="glyphs", batch_size=4)
    model.load_head_map(head_map)
    model.enable_hybrid(keep=0.05, sink_size=4, window_size=16, dense_below=0)
    examples = list(glyphs.generate(21, seed=1))
    with state.split_between_processes(examples) as mine:
        told = gather_object(answers(model, processor, mine))

    if state.is_main_process:
        right = sum(answer == example.answer for answer, example in zip(told, examples, strict=True))
        print(f"{state.num_processes} processes: {head_map.num_examples} examples measured")
        print("top heads:", [tuple(pair) for pair in head_map.ranking()[:3].tolist()])
        print(f"hybrid prefill, 5 % dense: {right} of {len(examples)} answers right")
    state.destroy_process_group()


if __name__ == "__main__":
    main()
