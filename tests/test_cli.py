import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corehead_hf import __version__, cli

ROOT = Path(__file__).resolve().parent.parent


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_a_request_that_cannot_be_met_exits_with_1_and_says_why(tmp_path, capsys):
    assert cli.main(["demo", "--models", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "no tiny models in" in message and "--models" in message
    assert cli.main(["show", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    assert cli.main(["demo", "--family", "gemma3", "--out", str(tmp_path / "out")]) == 1
    assert "no tiny model of gemma3" in capsys.readouterr().err


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """Where autotune saves in this test."""
    from corehead_hf.kernels import tuning

    path = tmp_path / "kept" / "measured.json"
    monkeypatch.setattr(tuning, "file", lambda: path)
    tuning.forget()
    yield path
    tuning.forget()


TINY = "--device cpu --dtype float32 --head-dim 16 --window 20 --sink 4 --length 64".split()


def test_autotune_prints_times_rates_and_the_break_even(tuned, tmp_path, capsys):
    assert cli.main(["autotune", *TINY, "--no-save", "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "all.json").read_text())
    lines = printed.splitlines()
    assert lines[0] == "cpu, float32, 8 heads on 2, head_dim 16, sink 4, window 20, 64 tokens"
    (row,) = [line for line in lines if line.startswith("banded")]
    ms = written["rows"][0]
    times = [float(word) for word in row.split()[1:4]]
    assert times == [ms["streaming_ms"], ms["one_dense_ms"], ms["all_dense_ms"]] and row.endswith("chosen")
    assert f"dense={written['rates']['dense']}" in printed
    assert "With 5 % of the heads dense, hybrid prefill pays " in printed
    assert "32 tokens, 1 dense, one launch: dense / hybrid " in printed and "128 tokens" in printed
    assert lines[-1] == "Not saved." and not tuned.exists() and written["file"] is None


def test_autotune_says_where_it_saved(tuned, capsys):
    assert cli.main(["autotune", *TINY]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Saved in {tuned};")
    assert json.loads(tuned.read_text())["cpu"]["rates"]["float32"]["block_m"] == 256


def test_autotune_of_what_cannot_be_measured_exits_with_1(tuned, capsys):
    assert cli.main(["autotune", *TINY[:-1], "40"]) == 1
    assert "length=40" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert cli.main(["autotune", "--device", "cuda"]) == 1
        assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["fly"], [], ["show"], ["show", "map", "--format", "xml"], ["plot", "pie"]])
def test_wrong_usage_exits_with_2(words):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 2


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_helps_and_answers_in_both_formats(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([verb, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0 and "--format {text,json}" in printed
    assert " ".join(cli.VERBS[verb].HELP.split()[:4]) in printed


def test_help_needs_no_torch():
    code = "import sys; from corehead_hf import cli; cli.main(sys.argv[1:])"
    script = f"try:\n    {code}\nexcept SystemExit:\n    assert 'torch' not in sys.modules"
    for words in (["--help"], ["ablate", "--help"], ["plot", "heatmap", "--help"]):
        subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, check=True, capture_output=True)
