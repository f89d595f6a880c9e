"""Measuring runs as processes of their own: python runs.py whole|killed OUT [--keep FOLDER], or the former by torchrun.

`killed` forks a run again and again and SIGKILLs it, at moments drawn from a seed, until one gets through.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.data import load

MODEL = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
EXAMPLES, BATCH = 22, 3


def loaded():
    return AutoCoReModel.from_pretrained(MODEL, dtype=torch.float32), load_processor(MODEL)


def run(model, processor, out, keep):
    examples = load("glyphs", num_examples=EXAMPLES, seed=5, pages=2, margin=8, num_letters=20)
    head_map = measure(model, processor, examples, dataset="glyphs", batch_size=BATCH, resume_from=keep)
    rank = PartialState().process_index  # measure has found its place by now
    head_map.save_pretrained(f"{out}-{rank}" if rank else out)


def kept(folder):
    from corehead_hf.measuring import read_measured

    return len(list(read_measured(folder))) if (folder / "fingerprint.json").exists() else 0


def size(folder):
    return sum(path.stat().st_size for path in folder.glob("shard-*.bin"))


def killed(out, keep):
    model, processor = loaded()
    rng, counts = random.Random(0), []
    while True:
        start, growth = size(keep), rng.randint(0, 1200)  # a batch is about 1000 bytes
        child, deadline = os.fork(), time.monotonic() + rng.uniform(0.1, 0.5)
        if child == 0:
            run(model, processor, out, keep)
            os._exit(0)
        done = 0
        while not done and (size(keep) - start < growth or time.monotonic() < deadline and growth < 100):
            time.sleep(0.0005)
            done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(status, *counts)
            return
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts.append(kept(keep))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "killed":
        killed(arguments.out, arguments.keep)
    else:
        run(*loaded(), arguments.out, arguments.keep)
        if PartialState().num_processes > 1:
            PartialState().destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
