"""A run killed at any moment, and a run on two processes, give the bits of a run in one go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from corehead_hf import HeadMap
from corehead_hf.measuring import read_measured

SCRIPT = Path(runs.__file__)
ROOT = SCRIPT.parents[2]


def start(*arguments, launcher=()):
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the map that one process measures in one go, without keeping anything."""
    out = tmp_path_factory.mktemp("whole") / "map"
    runs.run(*runs.loaded(), out, None)
    assert HeadMap.from_pretrained(out).num_examples == runs.EXAMPLES
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_gives_the_same_bits(whole, tmp_path):
    status, *kept = map(int, start("killed", tmp_path / "map", "--keep", tmp_path / "kept").split())
    assert status == 0 and contents(tmp_path / "map") == contents(whole)
    assert kept == sorted(kept), "what was on disk got lost"
    assert len({count for count in kept if 0 < count < runs.EXAMPLES}) >= 3, f"no run was killed midway: {kept}"
    outcomes = list(read_measured(tmp_path / "kept"))
    assert [outcome.index for outcome in outcomes] == list(range(runs.EXAMPLES))


@pytest.mark.compatibility("Devices", "torchrun data parallel (measure)", variant="qwen3_vl")
def test_two_processes_give_the_same_bits_and_one_finishes_for_them(whole, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    start("whole", tmp_path / "two", "--keep", tmp_path / "kept", launcher=launcher)
    assert contents(tmp_path / "two") == contents(tmp_path / "two-1") == contents(whole)
    shards = sorted((tmp_path / "kept").glob("shard-*.bin"))
    assert len(shards) == 2
    batches = [sorted({o.index // runs.BATCH for o in read_measured(alone(shard))}) for shard in shards]
    assert sorted(batches) == [[0, 2, 4, 6], [1, 3, 5, 7]], "each process measured every other batch"
    shards[1].unlink()
    shards[0].write_bytes(shards[0].read_bytes()[:-100])
    runs.run(*runs.loaded(), tmp_path / "one", tmp_path / "kept")
    assert contents(tmp_path / "one") == contents(whole)


def alone(shard):
    """A folder with the fingerprint and this shard only."""
    folder = shard.parent / shard.stem
    folder.mkdir()
    for name in ("fingerprint.json", shard.name):
        (folder / name).write_bytes((shard.parent / name).read_bytes())
    return folder
