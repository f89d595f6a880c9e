"""How much memory a piece of code takes, seen from outside Python: what torch, NumPy and Rust allocate counts too."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys, time

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

setup, steps = json.loads(sys.stdin.read())
exec(setup)
before, seen = kilobytes("VmRSS"), {}
for name, step in steps.items():
    start = time.process_time()
    exec(step)
    seconds = time.process_time() - start
    seen[name] = (kilobytes("VmHWM") - before) / 1024, seconds
print(json.dumps(seen))
"""


def peak_memory(setup, steps):
    """Name -> (MB at the peak so far above what was there before, CPU seconds), in a process of its own; Linux.

    Not ru_maxrss, which a process inherits from the one that started it.

    Args:
        setup: source that is run first and not counted.
        steps: name -> source, run in this order.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment, given = {**os.environ, "PYTHONPATH": path}, json.dumps([setup, steps])
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return {name: tuple(numbers) for name, numbers in json.loads(answer.stdout.splitlines()[-1]).items()}
