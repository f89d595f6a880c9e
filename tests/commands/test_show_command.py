"""corehead show: a hand-made map's facts, ranking and layer histogram, counted by hand."""

import io
import json
import sys

import pytest
import torch
from hand_made import head_map, vision_map

# 20 heads: 5 % is one head, (1, 2). Means of the layers: 0.10, 0.40, 0.05, 0.00.
SCORES = [[0.1] * 5, [0.3, 0.3, 0.8, 0.3, 0.3], [0.05] * 5, [0.0] * 5]


@pytest.fixture
def saved(tmp_path):
    """saved(...): the folder of a hand-made map."""

    def save(scores=SCORES, **changes):
        head_map(scores, **changes).save_pretrained(tmp_path / "map")
        return tmp_path / "map"

    return save


def histogram(printed):
    """(layer, top, first bar, mean, second bar) of each line below the histogram's title."""
    lines = printed.splitlines()
    title = next(number for number, line in enumerate(lines) if line.startswith("layers of the top"))
    found = []
    for line in lines[title + 2 :]:
        words = line.split()
        numbers = [word for word in words if word[0].isdigit()]
        layer, top, mean = numbers
        at = words.index(mean)
        found.append((int(layer), int(top), "".join(words[2:at]), float(mean), "".join(words[at + 1 :])))
    return lines[title], found


def test_provenance_ranking_and_layers(corehead, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = saved(
        base_model_revision=commit, num_skipped=2, convergence=((2, 0.5), (4, 0.75)), dataset="pages of mine"
    )
    code, printed, _ = corehead("show", folder, "--top", 3)
    assert code == 0
    facts = {line[:13].strip(): line[13:] for line in printed.split("\n\n")[0].splitlines()}
    assert facts["model"] == "tiny (qwen3_vl)" and facts["revision"] == commit
    assert facts["heads"] == "4 layers x 5 query heads, 1 kv heads, head_dim 8"
    assert facts["data"] == "5 examples of pages of mine, 2 skipped"
    assert (facts["evidence"], facts["question"], facts["chance"]) == ("all", "all", "unknown")
    assert facts["converged"] == "Spearman 0.7500 between the rankings of 4 and 2 examples"
    assert facts["measured by"] == "corehead_hf 1, torch 1, transformers 1"
    ranks = [line.split() for line in printed.split("\n\n")[1].splitlines()]
    assert ranks[0] == ["rank", "layer", "head", "RAM", "std"]
    assert ranks[1:] == [
        ["1", "1", "2", "0.8000", "0.0000"],
        ["2", "1", "0", "0.3000", "0.0000"],
        ["3", "1", "1", "0.3000", "0.0000"],
    ]
    title, layers = histogram(printed)
    assert title == "layers of the top 1 of 20 heads"
    full = "█" * 24
    assert layers == [
        (0, 0, "", 0.1, "█" * 6),  # a quarter of the highest mean
        (1, 1, full, 0.4, full),
        (2, 0, "", 0.05, "█" * 3),
        (3, 0, "", 0.0, ""),
    ]


def test_the_same_as_json(answer, saved):
    told = answer("show", saved(), "--top", 2)
    assert [(head["layer"], head["head"]) for head in told["top"]] == [(1, 2), (1, 0)]
    assert told["top_count"] == 1 and told["chance"] is None and told["num_heads"] == 5
    assert [layer["top_heads"] for layer in told["layers"]] == [0, 1, 0, 0]
    assert [layer["mean_ram"] for layer in told["layers"]] == pytest.approx([0.1, 0.4, 0.05, 0.0])


@pytest.mark.parametrize("columns, has_bars", [(90, True), (40, True), (30, False), (5, False)])
def test_any_width(corehead, saved, monkeypatch, columns, has_bars):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, printed, _ = corehead("show", saved(), "--top", 1)
    _, layers = histogram(printed)
    assert [(layer, top, mean) for layer, top, _, mean, _ in layers] == [
        (0, 0, 0.1),
        (1, 1, 0.4),
        (2, 0, 0.05),
        (3, 0, 0.0),
    ]
    assert bool(layers[1][2]) == bool(layers[1][4]) == has_bars
    if columns >= 40:
        assert max(map(len, printed.splitlines())) <= columns


def test_a_terminal_without_blocks_gets_plain_text(saved, monkeypatch):
    from corehead_hf import cli

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    folder = saved(dataset="séance")
    assert cli.main(["show", str(folder)]) == 0
    assert cli.main(["show", str(folder), "--format", "json"]) == 0
    sys.stdout.flush()
    text, _, document = raw.getvalue().decode("ascii").rpartition("\n{")
    assert "#" * 10 in text and "s\\xe9ance" in text
    assert json.loads("{" + document)["dataset"] == "séance"


def test_what_would_steer_a_terminal_is_written_out(corehead, saved):
    _, printed, _ = corehead("show", saved(dataset="pages\x1b[2J\nbad"))
    assert "pages\\x1b[2J\\nbad" in printed and "\x1b" not in printed


def test_a_map_of_few_heads_has_one_top_head(answer, saved):
    assert answer("show", saved([[0.1, 0.4]]))["top_count"] == 1


def test_vision_maps_and_all_zero_maps(corehead, tmp_path, saved):
    vision_map(layers=2, heads=4).save_pretrained(tmp_path / "vision")
    _, printed, _ = corehead("show", tmp_path / "vision")
    assert "mean vision" in printed and "RAM" not in printed
    code, printed, _ = corehead("show", saved(torch.zeros(2, 10)))
    assert code == 0 and histogram(printed)[1][1] == (1, 0, "", 0.0, "")


@pytest.mark.parametrize("top", ["0", "-1", "many"])
def test_wrong_usage(usage, saved, top):
    assert f"{top} was given" in usage("show", saved(), "--top", top)


def test_what_is_no_map(corehead, tmp_path):
    code, printed, error = corehead("show", tmp_path / "nothing")
    assert code == 1 and "nothing" in error and not printed
