"""corehead explore: one example of annotated data in, one self-contained HTML page out."""

from __future__ import annotations

import argparse
from pathlib import Path

from corehead_hf.commands.loading import (
    add_data_arguments,
    add_model_arguments,
    add_rule_arguments,
    dataset_name,
    load_examples,
    load_model,
    pick_example,
)
from corehead_hf.commands.output import Output

HELP = "write one HTML page on which every head's attention is painted over an example"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_rule_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="PAGE.html", help="the page; opens in any browser, offline")
    add("--example", default="0", metavar="ID|N", help="its id or, where no id is alike, its number (default: 0)")
    add("--head-map", metavar="MAP", help="folder or Hub id; ranks the heads; default: their RAM on this example")
    add("--max-frames", type=int, default=16, help="the most frames of each video (default: 16)")
    add("--max-bytes", type=int, default=5_000_000, help="the most bytes of the page (default: 5000000)")


def run(arguments: argparse.Namespace) -> Output:
    """Measure the example and write its page."""
    from corehead_hf.explorer import page_of, scene_of, write_page
    from corehead_hf.head_map import HeadMap

    if arguments.out.is_dir():
        raise ValueError(f"--out {arguments.out} was given - that is a folder - give the page's file.")
    example = pick_example(load_examples(arguments), arguments.example)
    head_map = None if arguments.head_map is None else HeadMap.from_pretrained(arguments.head_map)
    model, processor = load_model(arguments)
    options = {name: getattr(arguments, name) for name in ("views", "min_coverage", "max_frames")}
    scene = scene_of(model, processor, example, head_map, dataset=dataset_name(arguments), **options)
    page = page_of(scene, max_bytes=arguments.max_bytes)
    write_page(arguments.out, page.text)
    heads, tokens = scene.rows.shape
    lines = [
        f"example {example.id!r}: {example.question}",
        f"{page.num_rows} of {heads} heads, {tokens} visual tokens, {len(scene.pictures)} pictures",
        *page.notes,
        f"saved in {arguments.out} ({len(page.text) / 1e6:.2f} MB)",
    ]
    data = {
        "out": str(arguments.out),
        "bytes": len(page.text),
        "example": example.id,
        "num_heads": heads,
        "num_heads_kept": page.num_rows,
        "num_visual_tokens": tokens,
        "num_pictures": len(scene.pictures),
        "notes": list(page.notes),
    }
    return Output("\n".join(lines), data)
