"""A small reproduction, as a process of its own or in this one: python reproductions.py killed FOLDER

`killed` forks it again and again and SIGKILLs it, later and later, until one gets through.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from corehead_hf import AutoCoReModel, load_processor
from corehead_hf.reproduce import reproduce, tiny_plan

MODEL = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
PLAN = replace(tiny_plan(MODEL, num_measured=4, num_answered=3), budgets=(1, 3), ablations=(5,), batch_size=3)


def load_model():
    return AutoCoReModel.from_pretrained(MODEL, dtype=torch.float32), load_processor(MODEL)


def killed(folder):
    import matplotlib.pyplot  # noqa: F401  # once, not in every child
    import scipy.stats  # noqa: F401

    loaded, kills = load_model(), 0
    while True:
        child = os.fork()
        if child == 0:
            reproduce(PLAN, folder, lambda: loaded)
            os._exit(0)
        deadline, done = time.monotonic() + 0.7 * 1.6**kills, 0
        while not done and time.monotonic() < deadline:
            time.sleep(0.01)
            done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(status, kills)
            return
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1


if __name__ == "__main__":
    killed(sys.argv[2])
