"""Measure a head map from annotations of your own: a JSON lines file beside pictures.

python examples/03_measure_my_data.py [--data mine.jsonl] [--model hub_artifacts/glyphs-qwen3-vl] [--out my-head-map]

Without --data it first writes such a file, with 16 generated examples, into a temporary folder.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from PIL import Image

from corehead_hf import AutoCoReModel, data, load_processor, measure


def write_my_data(folder: Path) -> Path:
    """What you would write by hand or with your labelling tool."""
    lines = []
    for example in data.load("glyphs", num_examples=16, seed=777):
        names = [f"{example.id}-{number}.png" for number in range(len(example.media))]
        for name, page in zip(names, example.media, strict=True):
            Image.fromarray(page).save(folder / name)
        evidence = [{"media": part.media, "box": part.box} for part in example.evidence]
        lines.append({"media": names, "question": example.question, "answer": example.answer, "evidence": evidence})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path)
parser.add_argument("--model", default="hub_artifacts/glyphs-qwen3-vl")
parser.add_argument("--out")
arguments = parser.parse_args()

model = AutoCoReModel.from_pretrained(arguments.model, dtype=torch.float32)
processor = load_processor(arguments.model)
with tempfile.TemporaryDirectory() as folder:
    examples = data.load("jsonl", path=arguments.data or write_my_data(Path(folder)), on_error="skip")
    head_map = measure(model, processor, examples, dataset="mine")

print(examples.report)
for layer, head in head_map.ranking()[:5].tolist():
    print(f"({layer}, {head})  RAM {head_map.scores[layer, head]:.4f} +- {head_map.spread[layer, head]:.4f}")
if arguments.out:
    head_map.save_pretrained(arguments.out)
