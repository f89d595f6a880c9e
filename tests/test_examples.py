"""Every example runs offline, as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script, *arguments, timeout=240):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, f"examples/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_quickstart():
    lines = run("01_quickstart.py").splitlines()
    expected, dense, ablated, hybrid = (line.split("[")[1] for line in lines[1:])
    assert dense == expected == hybrid != ablated


def test_measure_head_map(tmp_path):
    printed = run("02_measure_head_map.py", "--out", str(tmp_path / "map"), "--examples", "8")
    assert "glyphs-qwen3-vl" in printed
    assert (tmp_path / "map" / "head_map.safetensors").exists()


def test_hybrid_prefill():
    short, long = run("05_hybrid_prefill.py", "--lengths", "64", "1300").splitlines()
    assert short.startswith("64 tokens: dense") and "on 'banded', 0 of 3 layers stream" in short
    assert long.startswith("1300 tokens: dense")


def test_measure_my_data(tmp_path):
    printed = run("03_measure_my_data.py", "--out", str(tmp_path / "map"))
    assert "16 examples from 16 rows" in printed
    assert (tmp_path / "map" / "head_map.safetensors").exists()


def test_token_geometry(tmp_path):
    pytest.importorskip("matplotlib")
    printed = run("04_token_geometry.py", "--out", str(tmp_path))
    assert [int(line.split()[1]) for line in printed.splitlines()] == [260, 2709, 1792]
    assert (tmp_path / "token_geometry.png").exists()


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision", "internvl"])
def test_training_writes_a_checkpoint_that_loads(tmp_path, family):
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("the training script is written for transformers >= 5; the checkpoints it writes load on 4.57")
    run("train_glyphs.py", "--family", family, "--out", str(tmp_path / family), "--steps", "2")
    from corehead_hf import AutoCoReModel, load_processor
    from corehead_hf.data import glyphs
    from corehead_hf.families import family_of

    model, processor = AutoCoReModel.from_pretrained(tmp_path / family), load_processor(tmp_path / family)
    prepared = family_of(model).prepare(processor, next(glyphs.generate(1, seed=0, pages=3)))
    assert model(**prepared.to("cpu", model.dtype).inputs).logits.shape[-1] == 384
