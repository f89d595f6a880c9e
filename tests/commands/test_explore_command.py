"""corehead explore, end to end on a shipped tiny model."""

import json
from pathlib import Path

import pytest

from corehead_hf import HeadMap, cli
from corehead_hf.commands import explore
from corehead_hf.data import load

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL = str(HUB / "glyphs-qwen3-vl")
GLYPHS = ("--data", "glyphs", "--option", "pages=3", "--limit", 4)


@pytest.fixture
def corehead(tmp_path, capsys, monkeypatch):
    """corehead(...): runs the verb with float32 weights; its exit code, what it printed, the error's text."""
    monkeypatch.setitem(cli.VERBS, "explore", explore)

    def run(*arguments, out="page.html"):
        given = ["explore", MODEL, "--dtype", "float32", "--out", str(tmp_path / out), *map(str, arguments)]
        code = cli.main(given)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def data_of(path):
    block = path.read_text().partition('<script id="data" type="application/json">')[2]
    return json.loads(block.partition("</script>")[0])


def glyphs():
    return list(load("glyphs", num_examples=4, seed=777, pages=3))


def test_a_page_of_the_first_example(corehead, tmp_path):
    code, printed, _ = corehead(*GLYPHS, "--head-map", f"{MODEL}-head-map", "--dataset", "letters")
    written = data_of(tmp_path / "page.html")
    first = glyphs()[0]
    assert code == 0 and written["id"] == first.id and written["question"] == first.question
    assert (written["model"], written["dataset"], written["notes"]) == ("glyphs-qwen3-vl", "letters", [])
    assert HeadMap.from_pretrained(f"{MODEL}-head-map").num_examples == 192
    assert ["Measured on", "192 examples of glyphs"] in written["facts"]
    lines = printed.splitlines()
    assert lines[0] == f"example {first.id!r}: {first.question}"
    assert lines[1] == "48 of 48 heads, 48 visual tokens, 3 pictures"
    assert lines[-1].startswith(f"saved in {tmp_path / 'page.html'} (0.")


@pytest.mark.parametrize("by", ["number", "id"])
def test_another_example(corehead, tmp_path, by):
    wanted = glyphs()[2]
    code, printed, _ = corehead(*GLYPHS, "--example", 2 if by == "number" else wanted.id, "--format", "json")
    answer = json.loads(printed)
    path = tmp_path / "page.html"
    assert code == 0 and answer["example"] == wanted.id == data_of(path)["id"]
    assert answer["bytes"] == path.stat().st_size and answer["out"] == str(path)
    numbers = ("num_heads", "num_heads_kept", "num_visual_tokens", "num_pictures")
    assert [answer[name] for name in numbers] == [48, 48, 48, 3]
    (note,) = answer["notes"]
    assert "ranked by their RAM on this example" in note and data_of(path)["notes"] == [note]


def test_an_id_that_looks_like_a_number_is_an_id(corehead, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "page.png")
    rows = [
        {"id": name, "media": [file], "question": "Letter A?", "evidence": [{"media": 0, "box": [16, 0, 32, 16]}]}
        for name, file in [("1", "page.png"), ("0", "page.png"), ("broken", "missing.png")]
    ]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert corehead("--data", data)[0] == 0 and data_of(tmp_path / "page.html")["id"] == "0"
    assert corehead("--data", data, "--example", 1)[0] == 0 and data_of(tmp_path / "page.html")["id"] == "1"


def test_options_reach_the_page(corehead, tmp_path):
    code, _, error = corehead(*GLYPHS, "--max-bytes", 1000)
    assert code == 1 and "at most 1000 bytes was asked - the smallest has" in error
    code, _, error = corehead(*GLYPHS, "--max-frames", 0)
    assert code == 1 and "max_frames=0" in error
    code, _, error = corehead(*GLYPHS, "--min-coverage", 2)
    assert code == 1 and "min_coverage=2.0" in error
    assert not (tmp_path / "page.html").exists()
    assert corehead(*GLYPHS, "--views", "hires", "--min-coverage", 0.5)[0] == 0
    rule = "hires views; a visual token counts if at least 0.5 of it shows evidence"
    assert ["Evidence rule", rule] in data_of(tmp_path / "page.html")["facts"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--example", 4), "--example 4 was given - the data has 4 rows"),
        (("--example", "nobody"), "give an id, such as 'glyphs-777-3x4x4-0', or a number from 0"),
        (("--example", "-1"), "--example -1 was given"),
        (("--head-map", "nowhere"), "not an existing folder"),
    ],
)
def test_a_request_that_cannot_be_met(corehead, tmp_path, options, message):
    code, printed, error = corehead(*GLYPHS, *options)
    assert code == 1 and message in error and not printed and not (tmp_path / "page.html").exists()


def test_a_folder_is_no_page(corehead, tmp_path):
    code, _, error = corehead(*GLYPHS, out="")
    assert code == 1 and "that is a folder" in error
