"""The overlay of corehead plot: one example's attention in the top and bottom heads, side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.loading import load_examples, load_model, pick_example

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_overlay(arguments: argparse.Namespace, plots: Any) -> Figure:
    """Prefill the example that --example names and paint its rows.

    Raises:
        ValueError: there is no such example, or more heads were asked for than there are.
    """
    from corehead_hf.families import family_of
    from corehead_hf.head_map import HeadMap
    from corehead_hf.measuring.batch import input_device
    from corehead_hf.patching import native_model

    head_map = HeadMap.from_pretrained(arguments.head_map)
    example = pick_example(load_examples(arguments), arguments.example)
    model, processor = load_model(arguments)
    head_map.check_fits(model)
    rule = {"views": arguments.views, "min_coverage": arguments.min_coverage}
    prepared = family_of(model).prepare(processor, example, **rule)
    prepared = prepared.to(input_device(native_model(model)), model.dtype)
    ranking = head_map.ranking().tolist()
    if 2 * arguments.heads > len(ranking):
        raise ValueError(f"--heads {arguments.heads} was given; of {len(ranking)} heads the top and bottom would meet.")
    with model.record_attention(prepared.question_mask, prepared.evidence_mask, keep_rows=True) as recording:
        model.prefill(**prepared.inputs)
    rows = {}
    for name, pairs in (("top", ranking[: arguments.heads]), ("bottom", ranking[-arguments.heads :])):
        for layer, head in pairs:
            ram = float(recording.ram[0, layer, head])
            rows[f"{name} head ({layer}, {head}), RAM {ram:.3f}"] = recording.rows[0, layer, head]
    return plots.attention_overlay(prepared, rows, max_frames=arguments.max_frames, side_by_side=True)
