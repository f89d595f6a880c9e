"""What each family does to one picture: its visual tokens, drawn where their pixels are.

    python examples/04_token_geometry.py --out examples/figures

The processors are the families' own, with the settings that the Hub checkpoints publish (Qwen/Qwen3-VL-8B-Instruct,
llava-hf/llava-onevision-qwen2-7b-ov-hf, OpenGVLab/InternVL3_5-8B-HF); only their tokenizer and chat template are those
of the tiny Glyphs models, so nothing is downloaded. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from glyphs_checkpoint import RECIPES, write_checkpoint

from corehead_hf import Evidence, Example, load_processor, plots
from corehead_hf.data import glyphs
from corehead_hf.families import FAMILIES

CROPS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
# name -> (model, image processor's settings, processor's settings)
PUBLISHED = {
    "qwen3_vl": (
        "Qwen3-VL",
        {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        {},
    ),
    "llava_onevision": (
        "LLaVA-OneVision",
        {"size": {"height": 384, "width": 384}, "image_grid_pinpoints": CROPS},
        {"num_image_tokens": 729},
    ),
    "internvl": (
        "InternVL3.5",
        {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12},
        {"image_seq_length": 256},
    ),
}


def real_processor(family: str, folder: Path):
    """The family's processor with published settings."""
    _, image_processor, options = PUBLISHED[family]
    recipe = RECIPES[family]
    parts = {"image_processor": recipe.image_processor | image_processor, "processor": recipe.processor | options}
    # A folder's pictures and videos have one size in these families; nothing here is a video.
    if family != "qwen3_vl":
        parts["video_processor"] = recipe.video_processor | {"size": image_processor["size"]}
    write_checkpoint(replace(recipe, **parts), folder)
    return load_processor(folder)


def picture() -> Example:
    """A Glyphs page of 9 x 6 cells, framed and four times enlarged; the evidence is the cell asked about."""
    page = next(glyphs.generate(1, seed=5, pages=1, rows=6, columns=9, margin=9, num_letters=20))
    left, top, right, bottom = page.evidence[0].box
    framed = np.pad(page.media[0], ((5, 6), (8, 8), (0, 0)), constant_values=200)
    enlarged = np.kron(framed, np.ones((4, 4, 1), dtype=np.uint8))
    box = (4 * (left + 8), 4 * (top + 5), 4 * (right + 8), 4 * (bottom + 5))
    return replace(page, media=(enlarged,), evidence=(Evidence(0, box),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of token_geometry.png")
    out = parser.parse_args().out
    example = picture()
    height, width = example.media[0].shape[:2]
    figure, axes = plots.new_figure(3, 2, size=(9.6, 10.4))
    for line, (family, (name, _, _)) in zip(axes, PUBLISHED.items(), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            prepared = FAMILIES[family].prepare(real_processor(family, Path(folder)), example)
        plots.token_overlay(prepared, axes=line)
        total = f"{name}: {int(prepared.visual_mask.sum())} visual tokens, {int(prepared.evidence_mask.sum())} marked"
        for ax, above in zip(line, (f"{total}\n", ""), strict=True):
            ax.set_title(above + ax.get_title(loc="left"), loc="left", fontsize="medium")
        print(total)
    axes[0, 1].imshow(example.media[0])
    axes[0, 1].set_title(f"{example.question}\nthe picture, {width} x {height} pixels", loc="left", fontsize="medium")
    figure.suptitle(
        "Red: the evidence. Green: the tokens marked as showing it.\n"
        "Grid: what each token sees, coloured by its place in the prompt, from dark blue (first) to yellow (last).",
        fontsize="medium",
    )
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "token_geometry.png")


if __name__ == "__main__":
    main()
