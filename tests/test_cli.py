import pytest

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


def test_wrong_usage_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        cli.main(["fly"])
    assert exit_.value.code == 2
