"""Starts a user's process: nothing inherited of any Hub setting, an empty HF_HOME unless one is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def environment(url: str, home: Path | str, *, token: str | None = None, xet: bool = False, **more: str) -> dict:
    """Of a process whose Hub is at `url`; HF_ENDPOINT and HF_HOME are read when huggingface_hub is imported."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    ours = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_ENDPOINT": url, "HF_HOME": str(home)}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}
    chosen = {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": None if xet else "1"}
    return {**kept, **ours, **quiet, **{name: value for name, value in chosen.items() if value}, **more}


def run(
    url: str, steps: dict[str, dict], *, home: Path | None = None, program: str = "hub_client.py", **settings
) -> dict:
    """The answers of one process to named steps, in order."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, str(HERE / program)],
            input=json.dumps(list(steps.values()), default=str),
            env=environment(url, home or empty, **settings),
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(steps), done.stderr[-3000:]
    return dict(zip(steps, answers, strict=True))
