"""Several processes: measuring shared out by torchrun, and tensor parallelism, which modes refuse when turned on."""

import builtins
import json
import os
import subprocess
import sys

import pytest
import torch
import two_processes
from tiny_models import build, inputs_for, logits

from corehead_hf import AutoCoReModel


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two gloo processes found, see two_processes.py."""
    folder = tmp_path_factory.mktemp("pair")
    for family in two_processes.FAMILIES:
        build(family).save_pretrained(folder / family)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *launcher, two_processes.__file__, str(folder / "found.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.compatibility("Devices", "torchrun data parallel (measure)")
def test_two_processes_measure_the_map_of_one(family, pair):
    scores = two_processes.measured(family)
    assert pair["measured"][family] == scores
    assert len({value for row in scores for value in row}) > 8, "all heads alike would prove nothing"


@pytest.mark.compatibility("Devices", "tensor parallel")
def test_tensor_parallel_heads_are_refused_before_anything_runs(family, pair, cell):
    found = pair["split"][family]
    if "upstream" in found:
        name, message = found["upstream"]
        with cell.upstream(getattr(builtins, name)):
            raise getattr(builtins, name)(message)
        return
    assert found["equal"]
    if found["heads split"]:
        for name, message in found["refusals"].values():
            with cell.refused(RuntimeError, match="tensor parallelism splits over 2 devices.*device_map"):
                raise getattr(builtins, name)(message)
        return
    assert not any(found["refusals"].values())
    model = AutoCoReModel.from_model(build(family))
    inputs = inputs_for(model)
    plain = logits(model, **inputs)
    model.enable_hybrid(heads=[(0, 1)], sink_size=2, window_size=4, dense_below=0)
    expected = logits(model, **inputs)
    torch.testing.assert_close(torch.tensor(found["hybrid"]), expected, atol=1e-4, rtol=0)
    assert float((expected - plain).abs().max()) > 0.1
