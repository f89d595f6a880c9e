"""The whole road on the shipped tiny models: measure, rank, ablate, hybrid, figures. What `corehead demo` runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from corehead_hf import plots
from corehead_hf.analysis.ablation import AblationCurve, ablation_curve
from corehead_hf.analysis.answers import AnswerScorer
from corehead_hf.analysis.groups import count_from_gap
from corehead_hf.analysis.intervals import require_scipy
from corehead_hf.analysis.keep_sweep import GroupAccuracy, hybrid_accuracy
from corehead_hf.auto import AutoCoReModel
from corehead_hf.data import glyphs
from corehead_hf.detection import measure
from corehead_hf.families import FAMILIES, Prepared, family_of
from corehead_hf.head_map import HeadMap
from corehead_hf.processor import load_processor

PAGES = (3, 5, 8)  # pages of 4 x 4 cells: 48, 80 and 128 visual tokens
SINK_SIZE, WINDOW_SIZE = 4, 16  # far smaller than the asked cell's distance, as 128 and 2048 are on real prompts
MEASURE_SEED, TEST_SEED = 777, 4242  # neither is a training seed
CURVE_SEEDS = (0, 1)
CHANCE = 1 / len(glyphs.COLORS)


@dataclass
class DemoResult:
    """One family's numbers and what its figures are drawn from."""

    model_name: str
    head_map: HeadMap
    count: int
    curve: AblationCurve
    hybrid: GroupAccuracy
    shown: Prepared
    shown_index: int
    shown_rows: dict[str, torch.Tensor]

    @property
    def dense(self) -> float:
        """Accuracy of the model as it came."""
        return self.curve.dense.value

    @property
    def num_examples(self) -> int:
        return self.curve.num_examples

    @property
    def ablation(self) -> GroupAccuracy:
        """Accuracy with `count` heads ablated."""
        return self._at(self.count)

    def _at(self, count: int) -> GroupAccuracy:
        points = [point for point in self.curve.points if point.count == count]
        top, bottom, *random = (point.accuracy.value for point in points)
        return GroupAccuracy(count, top, bottom, tuple(random))

    def report(self) -> dict[str, Any]:
        """The family's entry of report.json."""
        groups = {
            "ablate": {"k": self.count, **_group(self.ablation)},
            "hybrid": {"keep": self.hybrid.count, **_group(self.hybrid)},
        }
        return {
            "dense": self.dense,
            **groups,
            "ram": self.head_map.scores.tolist(),
            "curve": [
                {"k": point.count, **_group(self._at(point.count))} for point in self.curve.series("zero", "top")
            ],
            "top_heads": self.head_map.top(self.count).nonzero().tolist(),
            "chance": CHANCE,
            "n": self.num_examples,
            "sink_size": SINK_SIZE,
            "window_size": WINDOW_SIZE,
            "model": self.model_name,
            "versions": self.head_map.versions,
        }


def _group(point: GroupAccuracy) -> dict[str, Any]:
    return {
        "top": point.top,
        "bottom": point.bottom,
        "random": point.random_mean,
        "random_per_seed": list(point.random),
    }


def find_models(folder: str | Path | None = None) -> dict[str, Path]:
    """The tiny models by family: every sub-folder that holds a checkpoint of a supported model type.

    Args:
        folder: where they are; None looks for hub_artifacts/ beside the installed package, as in a checkout.

    Raises:
        FileNotFoundError: none there; the message says where to get them.
    """
    place = Path(__file__).resolve().parent.parent / "hub_artifacts" if folder is None else Path(folder)
    found: dict[str, Path] = {}
    for config_file in sorted(place.glob("*/config.json")):
        model_type = AutoConfig.from_pretrained(config_file.parent).model_type
        if model_type in FAMILIES:
            found.setdefault(model_type, config_file.parent)
    if not found:
        raise FileNotFoundError(
            f"no tiny models in {place}. They ship in hub_artifacts/ of corehead_hf's source repository, not in the "
            "wheel: check it out and pass --models PATH/TO/hub_artifacts, or train them with examples/train_glyphs.py."
        )
    return found


def run_demo(
    models: dict[str, Path], out: str | Path, *, num_examples: int = 210, num_measured: int = 48
) -> dict[str, DemoResult]:
    """Measure, ablate and run hybrid for every model, write figures and report.json.

    Args:
        models: family -> checkpoint folder.
        out: folder of the results; made where missing.
        num_examples: held-out examples an accuracy is taken over, a multiple of len(PAGES).
        num_measured: examples the head map is measured on, a multiple of len(PAGES).

    Returns:
        family -> DemoResult, in the order of `models`.
    """
    plots.require_matplotlib()
    require_scipy()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results = {family: _run_family(path, num_examples, num_measured) for family, path in models.items()}
    for family, result in results.items():
        (out / family).mkdir(exist_ok=True)
        _draw({family: result}, out / family)
    _draw(results, out)
    report = {family: result.report() for family, result in results.items()}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return results


def _run_family(path: Path, num_examples: int, num_measured: int) -> DemoResult:
    model = AutoCoReModel.from_pretrained(path, dtype=torch.float32)
    processor = load_processor(path)
    measured, tested = num_measured // len(PAGES), num_examples // len(PAGES)  # of each length
    examples = [e for pages in PAGES for e in glyphs.generate(measured, seed=MEASURE_SEED, pages=pages)]
    head_map = measure(model, processor, examples, dataset="glyphs", batch_size=measured)
    model.load_head_map(head_map)
    count = count_from_gap(head_map)
    family = family_of(model)
    batches = [family.prepare(processor, list(glyphs.generate(tested, seed=TEST_SEED, pages=pages))) for pages in PAGES]
    counts = sorted({1, 2, count, int(0.1 * head_map.scores.numel())})
    scorer = AnswerScorer(model, processor, batches)
    groups = ("top", "bottom", "random")
    curve = ablation_curve(model, head_map, scorer, counts=counts, groups=groups, seeds=CURVE_SEEDS, chance=CHANCE)
    sizes = {"sink_size": SINK_SIZE, "window_size": WINDOW_SIZE}
    total = (2 + len(CURVE_SEEDS)) * len(batches)
    with transformers_logging.tqdm(total=total, desc="hybrid prefill", unit="batch") as progress:
        scorer = AnswerScorer(model, processor, batches, on_batch=progress.update)
        hybrid = hybrid_accuracy(model, head_map, count, scorer, seeds=CURVE_SEEDS, **sizes)
    shown = family.prepare(processor, examples[measured : 2 * measured])
    index, rows = _rows_to_show(model, shown, head_map)
    return DemoResult(path.name, head_map, count, curve, hybrid, shown, index, rows)


def _rows_to_show(model: Any, prepared: Prepared, head_map: HeadMap) -> tuple[int, dict[str, torch.Tensor]]:
    """The example whose RAM in the top head is the median of the batch, and its rows in the top and the bottom head."""
    with model.record_attention(prepared.question_mask, prepared.evidence_mask, keep_rows=True) as recording:
        model.prefill(**prepared.inputs)
    ranking = head_map.ranking().tolist()
    chosen = {"top head": ranking[0], "bottom head": ranking[-1]}
    ram = recording.ram[:, ranking[0][0], ranking[0][1]]
    index = int(ram.argsort()[len(ram) // 2])
    rows = {f"{name} ({layer}, {head})": recording.rows[index, layer, head] for name, (layer, head) in chosen.items()}
    return index, rows


def _draw(results: dict[str, DemoResult], folder: Path) -> None:
    many = len(results)
    heatmap, heat_axes = plots.new_figure(1, many, size=(3.4 * many + 0.4, 4.2))
    curves, curve_axes = plots.new_figure(1, many, size=(4.4 * many, 3.4))
    for column, result in enumerate(results.values()):
        plots.head_heatmap(result.head_map, mark=result.head_map.top(result.count), ax=heat_axes[0, column])
        plots.ablation_curve(result.curve, ax=curve_axes[0, column])
    heatmap.savefig(folder / "head_heatmap.png")
    curves.savefig(folder / "ablation_curve.png")
    lines = sum(len(result.shown_rows) for result in results.values())
    widest = max(len(result.shown.examples[0].media) for result in results.values())
    overlay, axes = plots.new_figure(lines, 1, size=(1.3 * widest + 0.6, 1.6 * lines + 0.3))
    first = 0
    for family, result in results.items():
        example = result.shown.examples[result.shown_index]
        asked = f"{example.question} ({example.answer})"
        rows = {f"{family}, {label}: {asked}": row for label, row in result.shown_rows.items()}
        plots.attention_overlay(result.shown, rows, index=result.shown_index, axes=axes[first : first + len(rows)])
        first += len(rows)
    overlay.savefig(folder / "attention_overlay.png")
