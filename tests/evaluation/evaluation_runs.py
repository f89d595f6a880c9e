"""Evaluations as processes of their own: python evaluation_runs.py whole|killed OUT [--keep FOLDER], or by torchrun.

`killed` forks an evaluation again and again, each SIGKILLs itself in the middle of a write, until one gets through.
"""

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from corehead_hf import AutoCoReModel, load_processor
from corehead_hf.data import load
from corehead_hf.evaluation import evaluate
from corehead_hf.evaluation.records import Answers

MODEL = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
EXAMPLES, BATCH = 11, 2
KILLED_AT = (0, 1, 2, 0)  # batches that a run finishes before it is killed while writing the next


def loaded():
    return AutoCoReModel.from_pretrained(MODEL, dtype=torch.float32), load_processor(MODEL)


def run(model, processor, out, keep):
    examples = load("glyphs", num_examples=EXAMPLES, seed=5, pages=2, margin=8, num_letters=20)
    with model.ablate_heads([(1, 0), (2, 1)]):
        found = evaluate(model, processor, examples, dataset="glyphs", batch_size=BATCH, resume_from=keep)
    rank = PartialState().process_index  # evaluate has found its place by now
    # Of two runs the answers are the same, and the seconds are not.
    replace(found, seconds=0.0).save(f"{out}-{rank}" if rank else out)


def killed(model, processor, out, keep):
    whole = Answers.append
    for batches in KILLED_AT:
        child = os.fork()
        if child == 0:
            left = [batches]

            def append(self, answers, left=left):
                whole(self, answers)
                left[0] -= 1
                if left[0] < 0:
                    self._file.truncate(self._file.tell() - 40)
                    os.kill(os.getpid(), signal.SIGKILL)

            Answers.append = append
            run(model, processor, out, keep)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not out.exists()
    run(model, processor, out, keep)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    (killed if arguments.kind == "killed" else run)(*loaded(), arguments.out, arguments.keep)
    if PartialState().num_processes > 1:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
