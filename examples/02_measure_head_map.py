"""Measure a head map, save it, read it back and rank.

python examples/02_measure_head_map.py --out my-head-map [--model hub_artifacts/glyphs-qwen3-vl] [--examples 32]
"""

import argparse

import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor, measure
from corehead_hf.data import glyphs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
parser.add_argument("--examples", type=int, default=32)
parser.add_argument("--out", required=True)
arguments = parser.parse_args()

model = AutoCoReModel.from_pretrained(arguments.model, dtype=torch.float32)
processor = load_processor(arguments.model)
examples = list(glyphs.generate(arguments.examples, seed=777))
measure(model, processor, examples, dataset="glyphs").save_pretrained(arguments.out)

head_map = HeadMap.from_pretrained(arguments.out)
print(head_map)
for layer, head in head_map.ranking()[:5].tolist():
    print(f"({layer}, {head})  {head_map.scores[layer, head]:.4f} +- {head_map.spread[layer, head]:.4f}")
