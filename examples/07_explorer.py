"""One page a model, to open in any browser: hover a head to see where it looks.

    python examples/07_explorer.py --out explorer [--family qwen3_vl]

Each page holds one example, the attention of all heads of a tiny model, and their ranking; it needs neither server nor
network. With a large model: `corehead explore MODEL --data ... --head-map ... --out page.html`.
"""

import argparse
from pathlib import Path

import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.data import glyphs
from corehead_hf.demo import find_models
from corehead_hf.explorer import explore, write_page

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("explorer"))
parser.add_argument("--family", action="append", help="only this one; may be given several times")
arguments = parser.parse_args()

example = next(glyphs.generate(1, seed=4242, pages=3))
for family, path in find_models().items():
    if arguments.family and family not in arguments.family:
        continue
    model = AutoCoReModel.from_pretrained(path, dtype=torch.float32)
    head_map = HeadMap.from_pretrained(f"{path}-head-map")
    page = explore(model, load_processor(path), example, head_map, dataset="glyphs")
    write_page(arguments.out / f"{family}.html", page)
    print(f"{family}: {example.question} {arguments.out / family}.html, {len(page) / 1e3:.0f} kB")
