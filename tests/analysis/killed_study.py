"""A study as a process of its own: python killed_study.py FOLDER

Writes whole.json, of a study in one go, and killed.json, of one that kills itself again and again and is resumed.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.analysis.ablation import ablation_curve
from corehead_hf.analysis.answers import AnswerScorer
from corehead_hf.data import glyphs
from corehead_hf.families import family_of

MODELS = Path(__file__).resolve().parents[2] / "hub_artifacts"
BATCHES, PASSES = 2, 1 + 2 * 4  # dense; at two counts top, bottom and two seeds of random
KILLED_AFTER = (3, 5, 8)  # batches of the run: in the middle of a pass, and between two
KILLS = len(KILLED_AFTER)


def loaded(name, num_examples):
    """A shipped model, its head map, a scorer."""
    model, processor = AutoCoReModel.from_pretrained(MODELS / name, dtype=torch.float32), load_processor(MODELS / name)
    head_map = HeadMap.from_pretrained(MODELS / f"{name}-head-map")
    family, per_batch = family_of(model), num_examples // BATCHES
    examples = [list(glyphs.generate(per_batch, seed=4242, pages=pages)) for pages in (3, 5)]
    return model, head_map, AnswerScorer(model, processor, [family.prepare(processor, batch) for batch in examples])


def study(model, head_map, scorer, out, resume_from=None):
    options = {"groups": ("top", "bottom", "random"), "seeds": (0, 1), "resume_from": resume_from}
    ablation_curve(model, head_map, scorer, counts=(1, 2), **options).save(out)


class Killer:
    """Kills its process after so many batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    folder = Path(sys.argv[1])
    model, head_map, scorer = loaded("glyphs-qwen3-vl", num_examples=4)
    torch.set_num_threads(1)  # threads do not survive a fork
    kept = folder / "kept.jsonl"
    for batches in KILLED_AFTER:
        child = os.fork()
        if child == 0:
            scorer.on_batch = Killer(batches)
            study(model, head_map, scorer, folder / "killed.json", kept)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert (
            os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not (folder / "killed.json").exists()
        )
        with kept.open("ab") as file:  # and what a kill in the middle of a write leaves
            file.write(b'{"key": {"count": 1, "gro')
        print(kept.read_bytes().count(b"\n") - 1)
    study(model, head_map, scorer, folder / "killed.json", kept)
    study(model, head_map, scorer, folder / "whole.json")


if __name__ == "__main__":
    main()
