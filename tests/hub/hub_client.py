"""A user's process: runs the steps it reads from stdin with the real huggingface_hub, prints a JSON line for each.

A step is {"do": verb, ...arguments of the verb}. An answer is what the verb returns, or error, bases, message and
causes (class names) of what it raised; always with "logged", the lines of the package's log, and "waited", the seconds
that it would have slept: no sleep is longer than 10 ms here.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

SLEEP, CLOCK = time.sleep, time.monotonic


class Clock:
    """Sleeps 10 ms at most, and shows the time it would be had it slept."""

    skipped = 0.0
    waited = 0.0

    def sleep(self, seconds: float) -> None:
        SLEEP(min(seconds, 0.01))
        self.waited += seconds
        self.skipped += max(0.0, seconds - 0.01)

    def monotonic(self) -> float:
        return CLOCK() + self.skipped


NOW = Clock()


class Lines(logging.Handler):
    """Keeps what the package logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def contents(head_map) -> dict:
    """All numbers of a map, and where it says it is from."""
    sums = head_map.sums and {name: tensor.tolist() for name, tensor in head_map.sums.tensors.items()}
    numbers = {name: getattr(head_map, name).tolist() for name in ("scores", "spread", "count")}
    return {**numbers, "sums": sums, "dataset": head_map.dataset, "source": head_map.source}


def pull(repo: str, **options) -> dict:
    from corehead_hf import HeadMap

    return contents(HeadMap.from_pretrained(repo, **options))


def push(folder: str, repo: str, **options) -> dict:
    from corehead_hf import HeadMap

    pushed = HeadMap.from_pretrained(folder).push_to_hub(repo, **options)
    return {name: getattr(pushed, name) for name in ("repo_id", "commit", "url", "pr_url")}


def find(base_model: str, **options) -> dict:
    from corehead_hf import HeadMap

    names = ("repo_id", "commit", "tags", "downloads", "last_modified")
    found = HeadMap.find(base_model, **options)
    return {"found": [{name: getattr(one, name) for name in names} for one in found]}


def upload(folder: str, repo: str, **options) -> dict:
    """As anyone uploads a folder, without this package."""
    from huggingface_hub import HfApi

    HfApi().create_repo(repo, exist_ok=True)
    return {"commit": HfApi().upload_folder(repo_id=repo, folder_path=folder, **options).oid}


def damage(repo: str) -> dict:
    """Flips one bit of the cached tensors, as a disk or a broken proxy may."""
    from huggingface_hub import constants

    folder = f"models--{repo.replace('/', '--')}"
    (file,) = Path(constants.HF_HUB_CACHE, folder).glob("snapshots/*/head_map.safetensors")
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    return {}


def versions() -> dict:
    """Which libraries, and whether any of a model was imported."""
    import huggingface_hub

    return {"huggingface_hub": huggingface_hub.__version__, "transformers": "transformers" in sys.modules}


def answer(step: dict, verbs: dict) -> dict:
    NOW.waited = 0.0
    log = logging.getLogger("corehead_hf")
    log.setLevel(logging.INFO)
    lines = Lines()
    log.addHandler(lines)
    try:
        found = verbs[step.pop("do")](**step)
    except Exception as error:
        causes, cause = [], error.__cause__
        while cause is not None:
            causes.append(type(cause).__name__)
            cause = cause.__cause__
        bases = [base.__name__ for base in type(error).__mro__[1:]]
        found = {"error": type(error).__name__, "bases": bases, "message": str(error), "causes": causes}
    finally:
        log.removeHandler(lines)
    return {**found, "logged": lines.lines, "waited": NOW.waited}


def main(verbs: dict) -> None:
    time.sleep, time.monotonic = NOW.sleep, NOW.monotonic
    out, sys.stdout = sys.stdout, sys.stderr
    for step in json.load(sys.stdin):
        print(json.dumps(answer(step, verbs), default=str), file=out, flush=True)


if __name__ == "__main__":
    main({"pull": pull, "push": push, "find": find, "upload": upload, "damage": damage, "versions": versions})
