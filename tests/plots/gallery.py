"""Every figure from hand-made results with short and with long names, for what must hold of all of them."""

import numpy as np
from hand_made import (
    LONG_NAMES,
    SHORT,
    ablation,
    converging,
    frames,
    hybrid_grid,
    keep_sweep,
    key_tokens,
    large_map,
    latency,
    pages,
    prefill_latency,
    prefill_table,
    stability,
    vision_heads,
    vision_map,
)

from corehead_hf import plots

QUESTION = (
    "According to the table on the third page, which of the two suppliers delivered more than $500 but less than "
    "$1,000 worth of goods in the last quarter, and 那个 colour is the cell beside its name in the summary?"
)


def named(names, short, long):
    return short if names is SHORT else long


def large_stability(names):
    return stability(
        named(names, ("RefCOCOg", "VidSTG", "MMDocIR", "MMLongBench"), LONG_NAMES),
        36,
        32,
        share=0.05,
        model=names["model"],
    )


def maps(names, count=3):
    keys = named(names, ("RefCOCOg", "VidSTG", "MMDocIR"), LONG_NAMES)[:count]
    return {key: large_map(names, seed) for seed, key in enumerate(keys)}


def question(names):
    return named(names, "What color is letter A?", QUESTION)


VARIANTS = ("zero", "mean", "visual", "stream")
PAPER_COUNTS = (5, 10, 15, 20, 30, 50, 100, 150, 200, 250)
# name -> (figure of names, how many axes it takes as rows x columns, the argument they are given by)
FIGURES = {
    "head_heatmap": (
        lambda names, **to: plots.head_heatmap(large_map(names), mark=large_map(names).top(0.05), **to), (1, 1), "ax"
    ),
    "head_heatmap_of_vision": (lambda names, **to: plots.head_heatmap(vision_map(names), **to), (1, 1), "ax"),
    "head_heatmap_tiny": (
        lambda names, **to: plots.head_heatmap(large_map(names, layers=4, heads=12), **to), (1, 1), "ax"
    ),
    "head_heatmap_large": (
        lambda names, **to: plots.head_heatmap(large_map(names, layers=64, heads=64), **to), (1, 1), "ax"
    ),
    "head_heatmaps": (lambda names, **to: plots.head_heatmaps(maps(names), **to), (1, 3), "axes"),
    "head_heatmaps_both": (
        lambda names, **to: plots.head_heatmaps(
            maps(names, 2), {name: vision_map(names) for name in maps(names, 2)}, **to
        ),
        (2, 2),
        "axes",
    ),
    "stability_map": (
        lambda names, **to: plots.stability_map(large_stability(names), **to), (1, 1), "ax"
    ),
    "stability_map_tiny": (lambda names, **to: plots.stability_map(stability(), **to), (1, 1), "ax"),
    "spearman_matrix": (
        lambda names, **to: plots.spearman_matrix(large_stability(names), **to), (1, 1), "ax"
    ),
    "spearman_matrix_plain": (
        lambda names, **to: plots.spearman_matrix(stability(intervals=False), **to), (1, 1), "ax"
    ),
    "spearman_matrix_many": (
        lambda names, **to: plots.spearman_matrix(
            stability([f"{named(names, '', 'benchmark-of-documents-')}{i}" for i in range(9)], 9, 9), **to
        ),
        (1, 1),
        "ax",
    ),
    "ablation_curve": (
        lambda names, **to: plots.ablation_curve(ablation(names, PAPER_COUNTS, steep=0.03, num_heads=1152), **to),
        (1, 1),
        "ax",
    ),
    "ablation_curve_tiny": (
        lambda names, **to: plots.ablation_curve(ablation(names, (1, 2, 3, 4)), **to), (1, 1), "ax"
    ),
    "ablation_curve_variants": (
        lambda names, **to: plots.ablation_curve(ablation(names, variants=VARIANTS), VARIANTS, **to), (1, 4), "ax"
    ),
    "keep_curve": (
        lambda names, **to: plots.keep_curve(
            keep_sweep(names, device=named(names, "cpu", "NVIDIA Grace Hopper Superchip GH200 480GB with MIG 1g.12gb")),
            **to,
        ),
        (1, 2),
        "axes",
    ),
    "keep_curve_untimed": (lambda names, **to: plots.keep_curve(keep_sweep(names, timed=False), **to), (1, 1), "axes"),
    "hybrid_grid_curves": (lambda names, **to: plots.hybrid_grid_curves(hybrid_grid(names), **to), (2, 1), "axes"),
    "hybrid_grid_curves_of_several": (
        lambda names, **to: plots.hybrid_grid_curves(
            {name: hybrid_grid(names, sinks=(4,)) for name in named(names, ("a", "b", "c"), LONG_NAMES[:3])}, **to
        ),
        (1, 3),
        "axes",
    ),
    "prefill_curve": (lambda names, **to: plots.prefill_curve(prefill_latency(names), **to), (1, 2), "axes"),
    "prefill_curve_out_of_memory": (
        lambda names, **to: plots.prefill_curve(
            prefill_latency(
                names,
                lost=((65536, 1152), (131072, 1152), (131072, 250)),
                device=named(names, "cpu", "NVIDIA Grace Hopper Superchip GH200 480GB with MIG 1g.12gb"),
            ),
            **to,
        ),
        (1, 2),
        "axes",
    ),
    "key_token_bars": (lambda names, **to: plots.key_token_bars(key_tokens(names), **to), (1, 1), "ax"),
    "coverage_curve": (lambda names, **to: plots.coverage_curve(key_tokens(names), **to), (1, 1), "ax"),
    "latency_curve": (
        lambda names, **to: plots.latency_curve(
            prefill_table(model=named(names, "Qwen3-VL-8B bfloat16", names["model"])), **to
        ),
        (1, 1),
        "ax",
    ),
    "latency_curve_short": (
        lambda names, **to: plots.latency_curve(
            latency([("dense", 1000, 1.0, None, 2.0), ("hybrid", 1000, 0.05, 256, 3.0)]), **to
        ),
        (1, 1),
        "ax",
    ),
    "vision_overlap": (lambda names, **to: plots.vision_overlap(vision_heads(names), **to), (1, 1), "ax"),
    "convergence_curve": (
        lambda names, **to: plots.convergence_curve(converging(names=names), until_stable=0.98, **to), (1, 1), "ax"
    ),
    "convergence_curves": (
        lambda names, **to: plots.convergence_curve(
            {name: converging(0.99 - 0.02 * i, names) for i, name in enumerate(named(names, ("a", "b"), LONG_NAMES))},
            **to,
        ),
        (1, 1),
        "ax",
    ),
    "attention_overlay": (
        lambda names, **to: plots.attention_overlay(*pages(3, question=question(names)), **to), (2, 1), "axes"
    ),
    "attention_overlay_of_one": (
        lambda names, **to: plots.attention_overlay(*pages(1, 64, 96, question=question(names)), **to), (2, 1), "axes"
    ),
    "attention_overlay_side_by_side": (
        lambda names, **to: plots.attention_overlay(*pages(1, question=question(names)), side_by_side=True, **to),
        (1, 2),
        "axes",
    ),
    "attention_overlay_of_pages_side_by_side": (
        lambda names, **to: plots.attention_overlay(*pages(7, question=question(names)), side_by_side=True, **to),
        (1, 2),
        "axes",
    ),
    "attention_overlay_of_frames": (
        lambda names, **to: plots.attention_overlay(*frames(24, question=question(names)), **to), (2, 1), "axes"
    ),
    "attention_overlay_of_frames_side_by_side": (
        lambda names, **to: plots.attention_overlay(*frames(9, question=question(names)), side_by_side=True, **to),
        (1, 2),
        "axes",
    ),
    "token_overlay": (
        lambda names, **to: plots.token_overlay(pages(3, question=question(names))[0], **to), (1, 3), "axes"
    ),
}  # fmt: skip


def axes_of(rows, columns, size=(5.0, 3.9)):
    """A figure of the caller's own, with axes for a figure that takes rows x columns of them."""
    return plots.new_figure(rows, columns, size=(size[0] * columns, size[1] * rows))


def given(rows, columns, argument):
    """The caller's figure, and how its axes are passed: one as such, several as an array."""
    figure, axes = axes_of(rows, columns)
    is_one = argument == "ax" and np.size(axes) == 1
    return figure, {argument: axes[0, 0] if is_one else axes}
