"""What hybrid prefill reads and what it answers: dense heads x sink x window, on the tiny models that ship here.

    python examples/13_hybrid_grid.py --out hybrid_grid [--family qwen3_vl] [--resume-from FOLDER] [--quick]

Writes hybrid_grid.csv (every setting: accuracy with its interval, key-value entries read, attention FLOPs),
hybrid_grid.png, and prints a table. Offline, on a CPU; needs matplotlib, scipy and pandas. `corehead grid` does the
same for any model and data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas
import torch
from transformers.utils import logging as transformers_logging

from corehead_hf import AutoCoReModel, HeadMap, load_processor, plots
from corehead_hf.analysis import AnswerScorer, HybridGrid, hybrid_grid
from corehead_hf.data import glyphs
from corehead_hf.demo import find_models
from corehead_hf.families import family_of

ROOT = Path(__file__).resolve().parent.parent
TEST_SEED = 4242  # no training seed, and not the one the shipped head maps were measured on
PAGES, EXAMPLES, BATCH = 16, 40, 20
# Of 48 heads, and of prompts of some 300 tokens.
GRID: dict[str, Any] = {"keeps": (1, 2, 3, 5, 10), "sinks": (0, 4, 16), "windows": (16, 32, 64)}
QUICK: dict[str, Any] = {"keeps": (1, 3), "sinks": (0, 4), "windows": (16,)}
SHOWN_SINK = 4  # the printed table's


def study(path: Path, pages: int, examples: int, grid: dict[str, Any], resume_from: Path | None) -> HybridGrid:
    """One model's grid on held-out examples."""
    model, processor = AutoCoReModel.from_pretrained(path, dtype=torch.float32), load_processor(path)
    head_map = HeadMap.from_pretrained(path.with_name(f"{path.name}-head-map"))
    tested = list(glyphs.generate(examples, seed=TEST_SEED, pages=pages))
    parts = [tested[start : start + BATCH] for start in range(0, examples, BATCH)]
    batches = [family_of(model).prepare(processor, part) for part in parts]
    scorer = AnswerScorer(model, processor, batches)
    about = {"chance": 1 / len(glyphs.COLORS), "dataset": f"{pages} pages", "resume_from": resume_from}
    return hybrid_grid(model, head_map, scorer, **grid, **about)


def markdown(found: dict[str, HybridGrid]) -> list[str]:
    """The grids at one sink: a row a model and window, columns by number of dense heads."""
    counts = sorted({point.count for grid in found.values() for point in grid.points})
    lines = [
        f"| model (dense accuracy) | window | {' | '.join(f'{count} dense' for count in counts)} |",
        f"|---|---|{'---|' * len(counts)}",
    ]
    for grid in found.values():
        for window in grid.windows:
            cells = [
                f"{point.accuracy.value:.2f} / {100 * point.cost.kv_read:.0f} / {100 * point.cost.flops_share:.0f}"
                for point in grid.series(SHOWN_SINK, window)
            ]
            lines.append(f"| `{grid.model}` ({grid.dense.value:.2f}) | {window} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hybrid_grid"))
    parser.add_argument("--family", action="append", help="only this one; may be given several times")
    parser.add_argument("--resume-from", type=Path, help="folder that keeps every pass's scores")
    parser.add_argument("--quick", action="store_true", help="few examples and settings: to see that it runs")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    pages, examples, grid = (8, 6, QUICK) if arguments.quick else (PAGES, EXAMPLES, GRID)
    found = {}
    for family, path in find_models(ROOT / "hub_artifacts").items():
        if arguments.family and family not in arguments.family:
            continue
        kept = None if arguments.resume_from is None else arguments.resume_from / f"{family}.jsonl"
        found[family] = study(path, pages, examples, grid, kept)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pandas.concat([one.to_pandas().assign(family=family) for family, one in found.items()])
    table.round(6).to_csv(arguments.out / "hybrid_grid.csv", index=False)
    plots.hybrid_grid_curves(found).savefig(arguments.out / "hybrid_grid.png", dpi=96)
    print(f"accuracy / KV entries read, % / attention FLOPs, % of dense; sink {SHOWN_SINK}\n")
    print("\n".join(markdown(found)))
    print(f"\nhybrid_grid.csv and hybrid_grid.png in {arguments.out}/")


if __name__ == "__main__":
    main()
