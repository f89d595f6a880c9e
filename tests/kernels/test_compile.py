"""Every tile that ships, compiled for its chip without a GPU: registers, memory, instructions, specialisation."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corehead_hf.kernels import tiles
from corehead_hf.kernels.tiles import SHARED_MEMORY, Tile

pytestmark = pytest.mark.timeout(900)  # the first test waits for all that is compiled
CHIPS = sorted(SHARED_MEMORY)
WIDTHS = (64, 128, 256)
# Bytes of spilled registers that a tile may have; any other may have none. Only tiles that nothing but a measurement
# can choose are here: the bytes are few, 40 to 56 over Triton 3.6 to 3.9, and the tile may still be the fastest.
SPILLS = {(chip, Tile(128, 64, 8, 2)): 64 for chip in ("sm_80", "sm_89")}
# On sm_80 Triton turns descriptors into plain loads; what that costs is why its table has none.
TRAP = ("sm_80", "bfloat16", 128, Tile(128, 64, 8, 2, descriptors=True))


def _job(chip, dtype, head_dim, tile, padded=True, sink=128):
    return {
        "target": chip,
        "dtype": dtype,
        "head_dim": head_dim,
        "padded": padded,
        "sink": sink,
        "tile": dataclasses.asdict(tile),
    }


def _jobs():
    for chip in CHIPS:
        for width in WIDTHS:
            yield from (_job(chip, "bfloat16", width, tile) for tile in tiles.trials(chip, torch.bfloat16, width))
            yield from (_job(chip, "float32", width, tile) for tile in tiles.table(chip, torch.float32, width))
        rows = tiles.table(chip, torch.bfloat16, 128)
        yield from (_job(chip, "bfloat16", 80, tile) for tile in rows if not tile.descriptors)
        yield _job(chip, "float16", 128, rows[0], padded=False)
        yield _job(chip, "bfloat16", 128, rows[0], sink=100)  # its end cuts a block
    yield _job(*TRAP)


# Lengths, batches, head sets, windows and sinks that have nothing in common but the kernel: whole sink blocks.
CALLS = [{"T": T, "S": S} for T, S in ((1, 1), (1, 17), (16, 16), (17, 17), (999, 4097), (1000, 1000), (4097, 4097))]
CALLS += [{"B": B} for B in (1, 2, 16)]
CALLS += [{"dense": dense, "streaming_only": only} for dense, only in itertools.product((0, 1, 2, 5), (False, True))]
CALLS += [{"dense": 8}, {"window": 1}, {"window": 16}, {"window": 10**12}, {"sink": 0}, {"sink": 256}, {"sink": 2**40}]


def _keys_jobs():
    for chip in CHIPS:
        for row, padded in ((0, False), (-1, True)):
            yield _job(chip, "bfloat16", 128, tiles.table(chip, torch.bfloat16, 128)[row], padded) | {"calls": CALLS}
    yield _job("sm_90", "bfloat16", 128, tiles.trials("sm_90", torch.bfloat16, 128)[4]) | {"calls": CALLS}


def name(job):
    t = job["tile"]
    words = [job["target"], job["dtype"], str(job["head_dim"])]
    words += [f"{t['block_m']}x{t['block_n']}w{t['num_warps']}s{t['num_stages']}"]
    words += [word for word in ("descriptors", "warp_specialize") if t[word]]
    words += ["unpadded"] * (not job["padded"]) + ["cut_sink"] * (job["sink"] % t["block_n"] != 0)
    return "-".join(words)


TRAP_NAME = name(_job(*TRAP))
JOBS = {name(job): job for job in _jobs()}
TILES = {key: Tile(**job["tile"]) for key, job in JOBS.items()}
SHIPPED = [key for key in JOBS if key != TRAP_NAME]
HALF = [key for key in SHIPPED if JOBS[key]["dtype"] != "float32"]
KEYS = {name(job): job for job in _keys_jobs()}


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """What the compiler says of every job, by name. Two processes, without the interpreter and with an empty cache."""
    jobs = list(JOBS.items()) + [(f"keys {key}", job) for key, job in KEYS.items()]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    program, root = Path(__file__).with_name("aot.py"), str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    started = []
    for half in (jobs[::2], jobs[1::2]):
        folder = tmp_path_factory.mktemp("aot")
        (folder / "jobs.json").write_text(json.dumps([job for _, job in half]))
        with open(folder / "jobs.json") as stdin, open(folder / "reports.jsonl", "w") as stdout:
            cache = environment | {"TRITON_CACHE_DIR": str(folder / "cache")}
            process = subprocess.Popen([sys.executable, program], stdin=stdin, stdout=stdout, env=cache)
        started.append((process, half, folder))
    found = {}
    for process, half, folder in started:
        assert process.wait() == 0
        lines = (folder / "reports.jsonl").read_text().splitlines()
        found |= {key: json.loads(line) for (key, _), line in zip(half, lines, strict=True)}
    return found


@pytest.fixture
def report(reports, key):
    assert "error" not in reports[key], reports[key]["error"]
    return reports[key]


@pytest.mark.parametrize("key", SHIPPED)
def test_no_register_is_spilled(key, report):
    allowed = SPILLS.get((JOBS[key]["target"], TILES[key]), 0)
    assert report["stack"] <= allowed
    assert allowed or report["spill"] == 0


def test_tiles_that_spill_are_in_no_table():
    for chip, tile in SPILLS:
        assert tile in tiles.trials(chip, torch.bfloat16, 128)
        assert all(tile not in tiles.table(chip, torch.bfloat16, width) for width in WIDTHS)


@pytest.mark.parametrize("key", SHIPPED)
def test_shared_memory_is_what_the_estimate_promises(key, report):
    job = JOBS[key]
    itemsize = getattr(torch, job["dtype"]).itemsize
    estimate = TILES[key].shared_memory(job["target"], itemsize, job["head_dim"])
    assert report["shared"] <= estimate <= SHARED_MEMORY[job["target"]]


# The instruction that multiplies matrices, and those that fetch keys ahead: a tile without them runs, and crawls.
MULTIPLY = {"sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_100": "tcgen05", "gfx942": "MFMA"}


@pytest.mark.parametrize("key", HALF)
def test_half_precision_runs_on_the_chips_own_instructions(key, report):
    chip = JOBS[key]["target"]
    assert report[MULTIPLY[chip]] > 0
    if chip != "gfx942":
        assert (report["TMA"] > 0) == TILES[key].descriptors
        assert (report["cp.async"] > 0) == (not TILES[key].descriptors)


@pytest.mark.parametrize("key", [key for key in SHIPPED if TILES[key].warp_specialize])
def test_specialised_warps(key, report):
    assert TILES[key].num_warps == 4  # with any other number Triton leaves the warps alike
    assert report["warps"] == 12  # one group loads, two compute
    assert report["USETMAXREG"] > 0
    assert report["loops"] == 1  # two crash the pass
    assert report["else"] == 0  # so does an if with an else
    assert report["signature"]["Q"] == "*bf16"  # made by the host, its box would be of the wrong size
    assert report["signature"]["K"].startswith("tensordesc")


def test_descriptors_on_ampere_are_still_a_trap(reports):
    """If this fails, Triton has learnt to do better: compile again, and think about descriptors in that table."""
    report = reports[TRAP_NAME]
    assert "error" not in report, report["error"]
    assert report["cp.async"] == 0
    assert report["stack"] >= 256


@pytest.mark.parametrize("key", KEYS)
def test_nothing_compiles_again_for_another_length_batch_or_head_set(key, reports):
    report = reports[f"keys {key}"]
    assert "error" not in report, report["error"]
    different = {found: call for found, call in zip(report["keys"], CALLS, strict=True)}
    assert len(different) == 1, list(different.values())


@pytest.mark.parametrize("key", [key for key in HALF if not TILES[key].descriptors])
def test_offsets_that_grow_with_the_sequence_are_64_bit(key, report):
    types = report["signature"]
    assert {types[f"stride_{x}{dim}"] for x in "qkvo" for dim in "bh"} == {"i64"}
    assert {types[size] for size in ("B", "T", "S", "num_dense", "num_heads", "window", "sink")} == {"i32"}
