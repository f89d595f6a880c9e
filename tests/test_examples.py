"""Every example runs offline, as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script, *arguments, timeout=240, launcher=(sys.executable,)):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [*launcher, f"examples/{script}", *arguments]
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


def test_paper_figures(tmp_path):
    for library in ("matplotlib", "scipy", "pandas"):
        pytest.importorskip(library)
    from corehead_hf.analysis import Result

    printed = run("06_paper_figures.py", "--quick", "--family", "qwen3_vl", "--out", str(tmp_path))
    lines = [line.split(None, 1) for line in printed.splitlines()]
    assert {line[0] for line in lines[:-1]} == {"qwen3_vl"} and f"in {tmp_path}/" in printed
    assert sum("accuracy 1.000" in line[1] for line in lines) == 4  # the layouts are ones that the model answers
    found = {path.stem: Result.load(path) for path in (tmp_path / "qwen3_vl").glob("*.json")}
    assert set(found) == {"ablation", "keep_sweep", "key_tokens", "stability", "vision_heads"}
    assert len(found["stability"].names) == 4 and (0, 1) in found["stability"].universal
    assert found["ablation"].variants == ("zero", "mean", "visual", "stream")
    figures = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    own = {*found, "heatmaps", "spearman", "convergence", "overlay_pages"} - {"keep_sweep", "vision_heads"}
    own |= {"keep_curve", "vision_overlap"}
    assert {f"qwen3_vl/{name}.png" for name in own} <= figures
    assert {"ablation.png", "heatmaps.png", "spearman.png", "latency_hybrid_attention_0.png"} <= figures


def test_explorer(tmp_path):
    printed = run("07_explorer.py", "--family", "qwen3_vl", "--out", str(tmp_path))
    page = tmp_path / "qwen3_vl.html"
    assert str(page) in printed and page.read_text().startswith("<!doctype html>") and page.stat().st_size < 5e6


def test_peft(tmp_path):
    pytest.importorskip("peft", exc_type=ImportError)
    printed = run("09_peft.py", "--steps", "12", "--out", str(tmp_path))
    losses = [float(line.split()[-1]) for line in printed.splitlines()[:2]]
    assert losses[1] < losses[0] / 2
    told = dict(line.rsplit(": ", 1) for line in printed.splitlines()[2:])
    assert told["merged, saved, loaded natively"] == told["adapted"]
    assert float(told["adapted, the base model's top 5 % ablated"]) < 0.3
    assert told["head with the highest RAM"] == "(0, 1), adapted (0, 1)"


def test_quantised():
    pytest.importorskip("torchao", exc_type=ImportError)
    printed = run("10_quantised.py")
    assert "decoder linears: Int8Tensor" in printed and "head with the highest RAM: (0, 1), quantised (0, 1)" in printed
    told = dict(line.rsplit(": ", 1) for line in printed.splitlines())
    assert float(told["answers"]) > 0.9 > 0.3 > float(told["top 5 % ablated"])
    assert float(told["only they dense in prefill"]) > 0.9


def test_data_parallel():
    """Two processes measure the map, and give the answers, of one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    alone, together = run("11_data_parallel.py"), run("11_data_parallel.py", launcher=launcher)
    assert alone.startswith("1 processes: 32 examples") and together.startswith("2 processes: 32 examples")
    assert alone.splitlines()[1:] == together.splitlines()[1:]
    assert alone.splitlines()[2].endswith("21 of 21 answers right")


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


def test_share_head_map():
    printed = run("08_share_head_map.py", "--license", "mit")
    assert [line.split()[0] for line in printed.splitlines()[:4]] == [
        "README.md",
        "head_map.png",
        "head_map.safetensors",
        "head_map_config.json",
    ]
    assert 'license: "mit"' in printed and "| 1 | 0 | 1 | 0.1884 |" in printed


def test_hybrid_grid(tmp_path):
    for library in ("matplotlib", "scipy", "pandas"):
        pytest.importorskip(library)
    import pandas

    printed = run("13_hybrid_grid.py", "--quick", "--family", "qwen3_vl", "--out", str(tmp_path))
    assert "| `glyphs-qwen3-vl` (1.00) | 16 | 1.00 / " in printed
    table = pandas.read_csv(tmp_path / "hybrid_grid.csv")
    assert table["count"].tolist() == [48, 1, 3, 1, 3] and set(table.family) == {"qwen3_vl"}
    assert (tmp_path / "hybrid_grid.png").read_bytes().startswith(b"\x89PNG")
