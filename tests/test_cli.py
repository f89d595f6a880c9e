import json

import pytest
import torch

from corehead_hf import __version__, cli
from corehead_hf.demo import find_models


def test_show_prints_the_ranking(capsys):
    folder = next(path for path in find_models().values())
    assert cli.main(["show", f"{folder}-head-map", "--top", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert folder.name in printed[0]
    assert "chance level 0.0" in printed[1] and "Spearman" in printed[1]
    rows = [line.split() for line in printed if line.split()[0].isdigit()]
    scores = [float(row[3]) for row in rows]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


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


def test_wrong_usage_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        cli.main(["fly"])
    assert exit_.value.code == 2
