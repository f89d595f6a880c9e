"""An evaluation killed at any moment, and one on two processes, give the answers of one in one go."""

import os
import subprocess
import sys
from pathlib import Path

import evaluation_runs as runs
import pytest

from corehead_hf.evaluation import Evaluation, read_answers

SCRIPT = Path(runs.__file__)
ROOT = SCRIPT.parents[2]


def start(*arguments, launcher=()):
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def texts(folder):
    return [(answer.index, answer.id, answer.width, answer.text) for answer in read_answers(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of the evaluation that one process makes in one go, and its answers."""
    folder = tmp_path_factory.mktemp("whole")
    runs.run(*runs.loaded(), folder / "result.json", folder / "kept")
    assert Evaluation.load(folder / "result.json").num_examples == runs.EXAMPLES
    said = texts(folder / "kept")
    assert len({text for *_, text in said}) > 2, "the answers are too alike to tell runs apart"
    return (folder / "result.json").read_bytes(), said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_gives_the_same_answers(whole, tmp_path):
    start("killed", tmp_path / "result.json", "--keep", tmp_path / "kept")
    assert ((tmp_path / "result.json").read_bytes(), texts(tmp_path / "kept")) == whole
    lines = [path.read_bytes().count(b"\n") - 1 for path in sorted((tmp_path / "kept").iterdir())]
    # Each killed run loses the last answer it wrote; the next one adds only that of the batch.
    assert lines == [1, 1 + 1, 1 + 2 + 1, 0, 4] and sum(lines) == runs.EXAMPLES


def test_two_processes_give_the_same_answers_and_one_finishes_for_them(whole, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    start("whole", tmp_path / "two", "--keep", tmp_path / "kept", launcher=launcher)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "two-1").read_bytes() == whole[0]
    assert texts(tmp_path / "kept") == whole[1]
    files = sorted((tmp_path / "kept").iterdir())
    dealt = []
    for path in files:
        alone = tmp_path / path.stem
        alone.mkdir()
        (alone / path.name).write_bytes(path.read_bytes())
        dealt.append(sorted({index // runs.BATCH for index, *_ in texts(alone)}))
    assert sorted(dealt) == [[0, 2, 4], [1, 3, 5]], "each process answered every other batch"
    files[1].unlink()
    files[0].write_bytes(files[0].read_bytes()[:-100])
    runs.run(*runs.loaded(), tmp_path / "one", tmp_path / "kept")
    assert (tmp_path / "one").read_bytes() == whole[0]
