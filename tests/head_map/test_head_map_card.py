"""The card of a head map: links, table, picture, terms, and text that cannot break out of it."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCardData, metadata_load
from PIL import Image
from test_head_map import COMMIT, SCORES, fields, make_map

from corehead_hf import HeadMap
from corehead_hf.head_map.card import model_card
from corehead_hf.head_map.picture import head_map_png

CARD, PICTURE = "README.md", "head_map.png"


def card_of(folder, license=None, **changes):
    """Front matter as the Hub's own client reads it, and the text below it."""
    make_map(**changes).save_pretrained(folder, license=license)
    _, _, body = (folder / CARD).read_text("utf-8").split("---\n", 2)
    return metadata_load(folder / CARD), body


def test_the_card_links_model_and_data_and_lists_the_top_ten(tmp_path):
    front, body = card_of(tmp_path, license="cc-by-4.0")
    assert front == {
        "library_name": "corehead_hf",
        "pipeline_tag": "image-text-to-text",
        "license": "cc-by-4.0",
        "base_model": "owner/tiny-vl",
        "base_model_relation": "adapter",
        "datasets": ["owner/boxes"],
        "tags": ["head-map", "core-heads"],
    }
    assert ModelCardData(**front).to_dict() == front
    rows = [line for line in body.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 10
    assert rows[0] == "| 1 | 2 | 2 | 1.0000 | 0.2500 |"
    assert rows[9] == "| 10 | 0 | 3 | 0.0000 | 0.2500 |"
    for fact in (COMMIT, "tokens of the question's text", "every view", "transformers 5.23.0"):
        assert fact in body
    assert 'AutoCoReModel.from_pretrained("owner/tiny-vl")' in body and 'load_head_map("OWNER/NAME")' in body


def test_a_vision_map_is_not_called_a_map_of_core_heads(tmp_path):
    _, body = card_of(tmp_path, view_rule="all visual tokens")
    assert "# Vision-head map of `owner/tiny-vl`" in body and "to all visual tokens" in body
    assert "CoRe head map" not in body and "| rank | layer | head | mass |" in body and "that\nthe question" not in body


def test_the_python_on_the_card_is_python(tmp_path):
    for number, name in enumerate(("owner/tiny-vl", 'x"\n```\nimport os', "/home/me/tiny")):
        _, body = card_of(tmp_path / str(number), base_model_name_or_path=name)
        (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
        compile(code, CARD, "exec")
        assert body.count("```") == 2 and "import os" not in code


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model_name_or_path": "/home/me/tiny", "dataset": "glyphs"},
        {"base_model_name_or_path": "tiny", "base_model_revision": None, "dataset": "a/b/c"},
        {"base_model_name_or_path": "owner/..x", "dataset": "owner/x y"},
        {"base_model_name_or_path": 'owner/x"\nlicense: mit', "dataset": "owner/b\n---"},
    ],
)
def test_the_card_links_nothing_that_cannot_be_a_repository(tmp_path, changes):
    assert set(card_of(tmp_path, **changes)[0]) == {"library_name", "pipeline_tag", "tags"}


def test_user_text_cannot_break_out_of_its_code_span(tmp_path):
    rule = "a` <img src=x onerror=alert(1)>\n\n# Heading\n```\n{base} \u202e\x00 ![x](http://evil)"
    _, body = card_of(tmp_path, question_rule=rule, view_rule="```", dataset=rule, score_rule=rule)
    shown = "`a <img src=x onerror=alert(1)> # Heading {base} ![x](http://evil)`"
    lines = body.splitlines()
    assert f"- question_rule: {shown}" in lines and "- view_rule: `-`" in lines
    # Everywhere else as well: what is left without the code spans holds nothing of it.
    assert body.count(shown) == body.count("onerror") == 5
    assert not any(word in body.replace(shown, "") for word in ("<img", "evil", "{base}", "\x00", "\u202e"))
    assert HeadMap.from_pretrained(tmp_path).question_rule == rule


@pytest.mark.parametrize("license", ["", "MIT", "cc by", "mit\nbase_model: x", "a" * 60, "`mit`"])
def test_a_licence_that_is_no_id_is_refused_before_anything_is_written(tmp_path, license):
    with pytest.raises(ValueError, match="no licence id"):
        make_map().save_pretrained(tmp_path, license=license)
    assert not list(tmp_path.iterdir())


def test_the_terms_of_map_and_data(tmp_path):
    parts = [{"dataset": name, "num_examples": 1, "num_skipped": None} for name in ("RefCOCOg", "mine", "mine")]
    _, body = card_of(tmp_path, license="mit", num_examples=3, count=3, parts=parts)
    terms = body.split("## Licence and terms\n\n")[1].splitlines()
    assert terms[0].startswith("- This map: `mit`.")
    assert terms[1] == "- Data set `RefCOCOg`: annotations CC-BY-4.0, pictures under Flickr terms."
    assert terms[2].startswith("- Data set `mine`: not known to corehead_hf")
    assert len(terms) == 3
    assert "no licence is stated" in card_of(tmp_path)[1]


def test_every_data_set_of_the_readme_has_its_terms():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8").split("\n## Data sets\n")[1].split("\n##")[0]
    rows = [line.split("|") for line in readme.splitlines() if re.match(r"\| `[a-z-]+` \|", line)]
    rows = [row for row in rows if "answered only" not in row[3]]  # nothing is measured on those
    known = {row[1].strip(" `"): row[-2].strip() for row in rows if row[-2].strip() not in ("ours", "yours")}
    assert len(known) >= 5
    for name, terms in known.items():
        given = model_card({**provenance(), "dataset": name}, *numbers()).rstrip().splitlines()[-1]
        words = re.findall(r"[A-Z][\w.-]*\d[\w.-]*|MIT|Flickr|none", terms)
        assert words and all(word in given for word in words), f"{name}: {terms} / {given}"


def provenance():
    return {name: value for name, value in fields().items() if name not in ("scores", "spread", "count")}


def numbers():
    return torch.tensor(SCORES), torch.zeros(3, 4), make_map().ranking()


def test_scores_that_are_not_ram_are_not_called_ram(tmp_path):
    _, body = card_of(tmp_path, score_rule="gate of its KV head")
    assert "not** RAM, but `gate of its KV head`" in body and "| rank | layer | head | score |" in body
    assert "| RAM |" not in body and "Retrieval Attention Mass" not in body


def test_a_card_in_the_root_points_into_the_subfolder():
    text = model_card(provenance(), *numbers(), has_picture=True, subfolder="boxes/small")
    assert "](boxes/small/head_map.png)" in text and 'load_head_map("OWNER/NAME", subfolder="boxes/small")' in text
    assert "head_map.png" not in model_card(provenance(), *numbers())


# ---- picture


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def test_the_picture_shows_the_scores():
    """A head of score 1 among zeros is the one bright cell; magma goes from black to pale yellow."""
    scores = torch.zeros(6, 8)
    scores[4, 2] = 1
    picture = pixels(head_map_png(scores, torch.empty(0, 2)))
    dark = picture.max(axis=2) < 8
    lines = np.where(dark.sum(axis=1) > dark.shape[1] // 3)[0]
    columns = np.where(dark.sum(axis=0) > dark.shape[0] // 3)[0]
    map_ = picture[lines.min() : lines.max() + 1, columns.min() : columns.max() + 1]  # without the colour bar
    down, across = np.where(np.abs(map_ - [252, 253, 191]).max(axis=2) < 3)
    assert len(down) > 100
    # 6 rows of cells upward and 8 columns: layer 4 is the fifth from below, head 2 the third from the left.
    assert 4 < (1 - np.median(down) / len(map_)) * 6 < 5
    assert 2 < np.median(across) / len(map_[0]) * 8 < 3


def test_the_framed_heads_are_framed():
    scores = torch.zeros(6, 8)
    plain, framed = (pixels(head_map_png(scores, torch.tensor(pairs).view(-1, 2))) for pairs in ([], [[4, 2]]))
    green = np.abs(framed - [0x2E, 0xCC, 0x71]).max(axis=2) < 40
    assert green.any() and not (np.abs(plain - [0x2E, 0xCC, 0x71]).max(axis=2) < 40).any()


def test_the_picture_is_small_has_no_date_and_ignores_the_users_style():
    import matplotlib

    scores = torch.rand(80, 64, generator=torch.Generator().manual_seed(0))
    png = head_map_png(scores, torch.tensor([[0, 0]]))
    assert len(png) < 60_000 and not Image.open(io.BytesIO(png)).text
    with matplotlib.rc_context({"figure.facecolor": "red", "font.size": 30}):
        assert head_map_png(scores, torch.tensor([[0, 0]])) == png
        assert matplotlib.rcParams["figure.facecolor"] == "red"


def test_without_matplotlib_there_is_no_picture_and_no_link_to_one(tmp_path):
    make_map().save_pretrained(tmp_path)
    assert (tmp_path / PICTURE).exists() and f"]({PICTURE})" in (tmp_path / CARD).read_text("utf-8")
    code = """
import sys
from pathlib import Path
sys.modules["matplotlib"] = None
from corehead_hf import HeadMap
HeadMap.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert not (tmp_path / PICTURE).exists(), "the picture of the older map was left"
    assert PICTURE not in (tmp_path / CARD).read_text("utf-8")
    HeadMap.from_pretrained(tmp_path)
