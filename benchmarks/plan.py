"""What run_gpu.py runs, the most important first: each step's command, its budget, and which failed tests stop it.

`tiny` is the same step on a CPU at toy size, for --dry-run.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION = "benchmarks.bench_hybrid_attention"
PREFILL = "benchmarks.bench_prefill"
RECORD = "benchmarks.bench_record"
COMPILE = "benchmarks.bench_compile"


@dataclass(frozen=True)
class Step:
    """One benchmark command.

    Attributes:
        seconds: its share of the budget; it never gets more, and less where less is left.
        stopped_by: kinds of failed gpu tests (see run_gpu.kind_of_test) that make its timings worthless.
        fuses: whether it times fused providers, which a failed fusion test takes out of it.
        part: 1, 2 or 3, for as many calls of run_gpu.py.
    """

    name: str
    module: str
    arguments: str
    tiny: str
    seconds: float
    part: int
    stopped_by: tuple[str, ...]
    fuses: bool = False


_LAYER = "--heads 32 --kv-heads 8 --head-dim 128 --dtype bfloat16 --dense-heads 0 1 2 4 --peer-heads 2 --sink 128"
_TINY_LAYER = "--heads 4 --kv-heads 2 --head-dim 32 --dense-heads 0 1 --peer-heads --sink 16 --window 64 --device cpu"
_TINY_MODEL = "--model tiny --device cpu --sink 16 --keep 0.2 --windows 64 --dense-below 0"

STEPS = (
    Step(
        "attention, 128K, window 2048", ATTENTION, f"{_LAYER} --lengths 131072 --window 2048",
        f"{_TINY_LAYER} --lengths 256", 80, 1, ("kernel",),
    ),
    Step(
        "attention, 128K, window 1024", ATTENTION, f"{_LAYER} --lengths 131072 --window 1024",
        f"{_TINY_LAYER} --lengths 200", 60, 1, ("kernel",),
    ),
    Step(
        "prefill, 8B, 128K", PREFILL, "--model Qwen3-VL-8B --lengths 131072 --keep 0.05",
        f"{_TINY_MODEL} --lengths 256", 330, 1, ("kernel", "hybrid"), fuses=True,
    ),
    Step(
        "prefill, 8B, 64K, then 1K to 32K", PREFILL,
        "--model Qwen3-VL-8B --lengths 65536 1024 2048 4096 8192 32768 16384 --keep 0.05",
        f"{_TINY_MODEL} --lengths 128 200", 220, 2, ("kernel", "hybrid"), fuses=True,
    ),
    Step(
        "attention, 8K and 32K", ATTENTION, f"{_LAYER} --lengths 8192 32768 --window 2048 --repeats 15",
        f"{_TINY_LAYER} --lengths 128", 70, 2, ("kernel",),
    ),
    Step(
        "recording, 32K and 8K", RECORD, "--model Qwen3-VL-8B --lengths 32768 8192 --sdpa cudnn",
        "--model tiny --device cpu --lengths 128 --question 4 --evidence 8", 60, 2, ("record",),
    ),
    Step(
        "attention, 1K to 4K", ATTENTION,
        f"{_LAYER} --lengths 1024 2048 4096 --window 1024 --repeats 31 --without flex",
        f"{_TINY_LAYER} --lengths 100", 40, 2, ("kernel",),
    ),
    Step(
        "decode, 8B, after 32K", PREFILL, "--model Qwen3-VL-8B --lengths 32768 --keep 0.05 --windows 2048 --decode 16",
        f"{_TINY_MODEL} --lengths 128 --decode 2", 50, 2, ("kernel", "hybrid"), fuses=True,
    ),
    Step(
        "prefill, 32B, 64K", PREFILL,
        "--model Qwen3-VL-32B --lengths 65536 --keep 0.05 --windows 2048 --without dense_flash",
        f"{_TINY_MODEL} --lengths 150", 300, 2, ("kernel", "hybrid"), fuses=True,
    ),
    Step(
        "decode, 4B, plain and compiled", COMPILE, "--model Qwen3-VL-4B --lengths 2048 16384",
        "--model tiny --device cpu --lengths 100 --window 64 --sink 16 --tokens 2 --compiler eager", 360, 3,
        ("kernel", "hybrid"),
    ),
)  # fmt: skip
