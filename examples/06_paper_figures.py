"""The paper's analyses and figures, on the tiny models that ship with this repository: offline, on a CPU, in minutes.

    python examples/06_paper_figures.py --out paper_figures [--family qwen3_vl] [--quick]

For each model: head maps of four Glyphs layouts, by RAM and by attention on all visual tokens; whether the layouts rank
heads alike, and how fast the ranking settles; whether CoRe heads are vision heads; what the top heads find; what
ablating them does, in all four variants; what keeping only them dense does; where they look. Every result is saved as
JSON beside its figure, and `corehead plot` draws it again. Needs matplotlib, scipy and pandas.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from transformers.utils import logging as transformers_logging

from corehead_hf import AutoCoReModel, Evidence, Example, HeadMap, Video, load_processor, measure, plots
from corehead_hf.analysis import (
    AblationCurve,
    AnswerScorer,
    Stability,
    ablation_curve,
    keep_sweep,
    key_tokens,
    observe,
    ram_per_example,
    stability,
    vision_heads,
)
from corehead_hf.data import glyphs
from corehead_hf.demo import find_models
from corehead_hf.families import family_of

ROOT = Path(__file__).resolve().parent.parent
CHANCE = 1 / len(glyphs.COLORS)
MEASURE_SEED, TEST_SEED = 777, 4242  # neither is a training seed
SIZES = {"sink_size": 4, "window_size": 16}  # as far below the prompts' lengths as 128 and 2048 are on real ones
DPI = 96
VARIANTS = ("zero", "mean", "visual", "stream")
# Layouts that the models answer. Only Qwen3-VL sees a page of any size at its own resolution.
LAYOUTS = {"3 pages": {"pages": 3}, "8 pages": {"pages": 8}, "8 letters": {"pages": 8, "num_letters": 8}}
FOURTH = {"qwen3_vl": {"1 page": {"pages": 1, "rows": 8, "columns": 8}}}
FOURTH_OF_OTHERS = {"16 pages": {"pages": 16}}


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    measured: int = 64
    tested: int = 40
    timed_pages: int = 64
    counts: tuple[int, ...] = (1, 2, 4, 8)
    keeps: tuple[float | int, ...] = (1, 2, 3, 5, 0.2, 1.0)
    seeds: tuple[int, ...] = (0, 1)
    resamples: int = 1000


QUICK = Scale(measured=16, tested=4, timed_pages=3, counts=(1,), keeps=(1, 1.0), seeds=(0,), resamples=50)


@dataclass(frozen=True)
class Results:
    """What the figures over all families are drawn from."""

    core: HeadMap
    vision: HeadMap
    stable: Stability
    curve: AblationCurve


class Subject:
    """One model with everything its studies share."""

    def __init__(self, family: str, path: Path, out: Path, scale: Scale) -> None:
        self.family, self.out, self.scale = family, out / family, scale
        self.model = AutoCoReModel.from_pretrained(path, dtype=torch.float32)
        self.processor = load_processor(path)
        self.out.mkdir(parents=True, exist_ok=True)
        self.layouts = {**LAYOUTS, **FOURTH.get(family, FOURTH_OF_OTHERS)}

    def examples(self, layout: str, number: int, seed: int) -> list[Example]:
        return list(glyphs.generate(number, seed=seed, **self.layouts[layout]))

    def prepare(self, examples: list[Example]) -> Any:
        return family_of(self.model).prepare(self.processor, examples)

    def save(self, figure: Any, name: str) -> None:
        figure.savefig(self.out / f"{name}.png", dpi=DPI)

    def say(self, text: str) -> None:
        print(f"{self.family:<16} {text}", flush=True)


def measured(subject: Subject) -> tuple[dict[str, HeadMap], dict[str, HeadMap], dict[str, Any]]:
    """By layout: the map by RAM, the map by attention on all visual tokens, and RAM of every example."""
    core, vision, per_example = {}, {}, {}
    for layout in subject.layouts:
        examples = subject.examples(layout, subject.scale.measured, MEASURE_SEED)
        about = {"dataset": layout, "batch_size": 16}
        with tempfile.TemporaryDirectory() as kept:
            core[layout] = measure(subject.model, subject.processor, examples, resume_from=kept, **about)
            per_example[layout] = ram_per_example(kept)
        vision[layout] = measure(subject.model, subject.processor, examples, target="visual", **about)
        for kind, maps in (("core", core), ("vision", vision)):
            maps[layout].save_pretrained(subject.out / "maps" / f"{kind}, {layout}")
        batch = subject.prepare(subject.examples(layout, subject.scale.tested, TEST_SEED))
        accuracy = AnswerScorer(subject.model, subject.processor, [batch])().mean()
        layer, head = core[layout].ranking()[0].tolist()
        lift = float(core[layout].lift[layer, head])
        subject.say(f"{layout}: accuracy {accuracy:.3f}, top head ({layer}, {head}) with lift {lift:.1f}")
    return core, vision, per_example


def compare(subject: Subject, core: dict, vision: dict, per_example: dict) -> tuple[HeadMap, HeadMap, Stability]:
    """Stability over the layouts, and vision heads; returns the maps over all layouts together."""
    scale = subject.scale
    stable = stability(core, per_example=per_example, resamples=scale.resamples)
    stable.save(subject.out / "stability.json")
    # A merged map is named after its parts, which is more than a title holds.
    merged, merged_vision = (
        replace(HeadMap.merge(list(maps.values())), dataset="4 layouts") for maps in (core, vision)
    )
    subject.save(plots.stability_map(stable), "stability")
    subject.save(plots.spearman_matrix(stable), "spearman")
    found = vision_heads(merged, merged_vision)
    found.save(subject.out / "vision_heads.json")
    subject.save(plots.vision_overlap(found), "vision_overlap")
    subject.save(plots.head_heatmaps(core, vision), "heatmaps")
    subject.save(plots.convergence_curve(core), "convergence")
    pairs = stable.spearman[np.triu_indices(len(core), k=1)]
    subject.say(
        f"on top in all layouts: {list(stable.universal)} (interval {stable.universal_low} to {stable.universal_high}, "
        f"chance {stable.chance:.2g}); Spearman {pairs.min():.2f} to {pairs.max():.2f}"
    )
    subject.say(
        f"of the top {found.count} CoRe heads {found.overlap} are vision heads (chance {found.expected:.2g}, "
        f"p {found.p_value:.2g}); Spearman {found.spearman:.2f}"
    )
    return merged, merged_vision, stable


def find_evidence(subject: Subject, head_map: HeadMap) -> None:
    """Key token ratio, hit rate and coverage on held-out examples."""
    examples = subject.examples("8 pages", subject.scale.tested, TEST_SEED)
    observed = observe(subject.model, subject.processor, examples)
    study = key_tokens(observed, head_map, k=3, group_sizes=(1, 2, 3, 5, 10, 20, 30, 48), dataset="8 pages")
    study.save(subject.out / "key_tokens.json")
    figure, axes = plots.new_figure(1, 2, size=(9.8, 3.7))
    plots.key_token_bars(study, ax=axes[0, 0])
    subject.save(plots.coverage_curve(study, ax=axes[0, 1]), "key_tokens")
    ratios = ", ".join(f"{group} {found.value:.2f}" for group, found in study.ratio.items())
    subject.say(f"key token ratio of 3 heads: {ratios}, chance {study.ratio_chance:.2f}")


def use_heads(subject: Subject, head_map: HeadMap) -> AblationCurve:
    """Accuracy with heads ablated, in every variant, and with only some dense."""
    scale = subject.scale
    batches = [subject.prepare(subject.examples("8 pages", scale.tested, TEST_SEED))]
    scorer = AnswerScorer(subject.model, subject.processor, batches)
    about = {"chance": CHANCE, "dataset": "8 pages", **SIZES}
    reference = [subject.prepare(subject.examples("8 pages", min(16, scale.measured), MEASURE_SEED))]
    studied = {"counts": scale.counts, "variants": VARIANTS, "seeds": scale.seeds, "reference": reference}
    curve = ablation_curve(subject.model, head_map, scorer, **studied, **about)
    curve.save(subject.out / "ablation.json")
    subject.save(plots.ablation_curve(curve, VARIANTS), "ablation")
    timed = subject.prepare(list(glyphs.generate(1, seed=TEST_SEED, pages=scale.timed_pages)))
    swept = keep_sweep(subject.model, head_map, scorer, keeps=scale.keeps, timed=timed, **about)
    swept.save(subject.out / "keep_sweep.json")
    subject.save(plots.keep_curve(swept), "keep_curve")
    lowest = [f"{variant} {lowest_of(curve, variant)}" for variant in VARIANTS]
    subject.say(f"dense {curve.dense.value:.3f}; lowest with top / other heads ablated: {', '.join(lowest)}")
    kept = ", ".join(f"{point.count} dense {point.accuracy.value:.3f}" for point in swept.points)
    subject.say(f"hybrid prefill: {kept}")
    return curve


def lowest_of(curve: AblationCurve, variant: str) -> str:
    points = [point for point in curve.points if point.variant == variant]
    groups = [[p.accuracy.value for p in points if (p.group == "top") == is_top] for is_top in (True, False)]
    return " / ".join(f"{min(found):.3f}" for found in groups)


def look(subject: Subject, head_map: HeadMap) -> None:
    """Pages, and where torchvision can be had video frames, under the attention of the top and the bottom head."""
    examples = subject.examples("3 pages", 9, TEST_SEED)
    (layer, head), prepared = head_map.ranking()[0].tolist(), subject.prepare(examples)
    with subject.model.record_attention(prepared.question_mask, prepared.evidence_mask) as recording:
        subject.model.prefill(**prepared.inputs)
    typical = examples[int(recording.ram[:, layer, head].argsort()[len(examples) // 2])]  # of median RAM
    subject.save(overlay(subject, head_map, typical), "overlay_pages")
    if getattr(subject.processor, "video_processor", None) is None:
        subject.say("no overlay of video frames: the processor was loaded without torchvision")
        return
    # The pages as frames of a video, which the models never saw in training.
    (asked,) = typical.evidence
    shown = Evidence(0, asked.box, frames=(asked.media,))
    frames = Example(typical.id, (Video(np.stack(typical.media), fps=1.0),), typical.question, typical.answer, (shown,))
    subject.save(overlay(subject, head_map, frames), "overlay_frames")


def overlay(subject: Subject, head_map: HeadMap, example: Example) -> Any:
    """The top and the bottom head side by side."""
    prepared, ranking = subject.prepare([example]), head_map.ranking().tolist()
    with subject.model.record_attention(prepared.question_mask, prepared.evidence_mask, keep_rows=True) as recording:
        subject.model.prefill(**prepared.inputs)
    rows = {
        f"{name} head ({layer}, {head})": recording.rows[0, layer, head]
        for name, (layer, head) in (("top", ranking[0]), ("bottom", ranking[-1]))
    }
    return plots.attention_overlay(prepared, rows, side_by_side=True)


def latency(out: Path) -> None:
    """What benchmarks/ measured, a figure for each machine, kind and model."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.csv")):
        for number, (_, rows) in enumerate(pandas.read_csv(path).groupby(["gpu", "kind", "model"])):
            plots.latency_curve(rows).savefig(out / f"latency_{path.stem}_{number}.png", dpi=DPI)


def side_by_side(results: dict[str, Results], out: Path) -> None:
    """All families in one figure."""
    core = {family: found.core for family, found in results.items()}
    vision = {family: found.vision for family, found in results.items()}
    plots.head_heatmaps(core, vision).savefig(out / "heatmaps.png", dpi=DPI)
    many = len(results)
    figure, axes = plots.new_figure(1, many, size=(4.8 * many, 3.7))
    for ax, found in zip(axes[0], results.values(), strict=True):
        plots.ablation_curve(found.curve, ax=ax)
    figure.savefig(out / "ablation.png", dpi=DPI)
    figure, axes = plots.new_figure(1, many, size=(4.8 * many, 4.2))
    for ax, found in zip(axes[0], results.values(), strict=True):
        plots.spearman_matrix(found.stable, ax=ax)
    figure.savefig(out / "spearman.png", dpi=DPI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("paper_figures"))
    parser.add_argument("--family", action="append", help="only this one; may be given several times")
    parser.add_argument("--quick", action="store_true", help="few examples: to see that it runs")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    results = {}
    for family, path in find_models(ROOT / "hub_artifacts").items():
        if arguments.family and family not in arguments.family:
            continue
        subject = Subject(family, path, arguments.out, QUICK if arguments.quick else Scale())
        core, vision, stable = compare(subject, *measured(subject))
        find_evidence(subject, core)
        results[family] = Results(core, vision, stable, use_heads(subject, core))
        look(subject, core)
    side_by_side(results, arguments.out)
    latency(arguments.out)
    print(f"figures and results in {arguments.out}/")


if __name__ == "__main__":
    main()
