"""Measure the head map of trained Glyphs models, test what it is worth, and write both model cards.

    python examples/publish_glyphs.py hub_artifacts

For every checkpoint in the folder: NAME/README.md with the held-out accuracies and figures/, and NAME-head-map/, a
repository as `corehead push` uploads it. Needs matplotlib and scipy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from corehead_hf.demo import PAGES, DemoResult, find_models, run_demo

FIGURES = ("head_heatmap.png", "ablation_curve.png")  # of corehead demo
CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags:
- core-heads
- corehead_hf
---
# {name}

A tiny `{architecture}` ({parameters:.2f} M parameters, 12 layers x 4 query heads), trained from scratch on two CPU
cores on Glyphs, the synthetic visual look-up task of `corehead_hf`: pages of 16 x 16 px cells, a question about the
colour beside one letter. It exists so that finding, ablating and using CoRe heads can be run and tested offline; it
can do nothing else.

Measured on {n} held-out examples of {lengths} visual tokens (chance {chance:.3f}), answers by greedy `generate()`:

| | top heads by RAM | bottom | random (mean of {seeds} seeds, top excluded) |
|---|---|---|---|
| dense, nothing ablated | {dense:.3f} | | |
| {k} of 48 heads ablated | {a[top]:.3f} | {a[bottom]:.3f} | {a[random]:.3f} |
| {k} of 48 dense, others sink {sink_size} + window {window_size} | {h[top]:.3f} | {h[bottom]:.3f} | {h[random]:.3f} |

![Accuracy against the number of ablated heads: top, bottom and random ones](figures/ablation_curve.png)

The top heads, (layer, head): {heads}. k is where RAM falls by the largest factor. Its head map: `{name}-head-map`.

![RAM of every head, layers upward, heads to the right](figures/head_heatmap.png)

Training: `examples/train_glyphs.py --family {family} --seed {seed} --steps {steps} --lr {lr}`, {minutes:.0f} minutes
with both cores shared; curve in `training.json`. Stage 1 aligns visual tokens with the embeddings of their letter and
colour, so the look-up is done in one hop and its heads stand in layer 0, not in the middle as in large models. In
stage 2 heads of layers >= 1 are dropped at random ({head_dropout:.0%}): otherwise a head that looks at no picture can
become a single point of failure, which RAM cannot see.

```python
from corehead_hf import AutoCoReModel, load_processor

model = AutoCoReModel.from_pretrained(
    "hub_artifacts/{name}", head_map="hub_artifacts/{name}-head-map"
)
processor = load_processor("hub_artifacts/{name}")
```
"""


def write_card(family: str, folder: Path, result: DemoResult) -> None:
    report = result.report()
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    text = CARD.format(
        name=folder.name,
        family=family,
        lengths="{}, {} and {}".format(*(16 * pages for pages in PAGES)),  # pages of 4 x 4 cells
        architecture=json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0],
        parameters=weights.stat().st_size / 2e6,  # bfloat16
        seeds=len(result.hybrid.random),
        k=result.count,
        a=report["ablate"],
        h=report["hybrid"],
        heads=", ".join(f"({layer}, {head})" for layer, head in report["top_heads"]),
        minutes=training["curve"][-1]["minutes"],
        **{key: report[key] for key in ("n", "chance", "dense", "sink_size", "window_size")},
        **{key: training[key] for key in ("seed", "steps", "lr", "head_dropout")},
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    models = find_models(folder)
    with tempfile.TemporaryDirectory() as scratch:
        results = run_demo(models, scratch, num_measured=192)
        for family, path in models.items():
            (path / "figures").mkdir(exist_ok=True)
            for name in FIGURES:
                shutil.copyfile(Path(scratch) / family / name, path / "figures" / name)
    for family, result in results.items():
        write_card(family, models[family], result)
        result.head_map.save_pretrained(folder / f"{models[family].name}-head-map", license="apache-2.0")


if __name__ == "__main__":
    main()
