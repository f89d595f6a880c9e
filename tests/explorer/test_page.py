"""The page's text: its data, its size, and that nothing in it can run or reach out."""

import base64
import hashlib
import re

import numpy as np
import pytest
from pages import HOSTILE, embedded, example_of, picture, real_size, scene_by_hand, unpacked, video

from corehead_hf import Evidence
from corehead_hf.explorer import explore, page_of, write_page
from corehead_hf.families.geometry import concatenate, grid


def by_hand(**changes):
    example = example_of([picture(), picture()], Evidence(1, (4, 0, 8, 4)), question=changes.pop("question", "Which?"))
    rows = np.linspace(0, 0.1, 6 * 8).reshape(6, 8)
    return scene_by_hand(example, (grid((8, 8), 2, 2),) * 2, rows, (3, 2), **changes)


def test_the_embedded_data_is_what_was_recorded(scene, page):
    data = embedded(page.text)
    maxima = unpacked(data["heads"]["maximum"])
    assert np.array_equal(maxima, scene.rows.max(axis=1))
    assert unpacked(data["rows"]["heads"]).tolist() == list(range(48)) and page.num_rows == 48
    codes = unpacked(data["rows"]["codes"])
    off = np.abs(np.sqrt(scene.rows / maxima[:, None]) - codes / 255)
    assert codes.shape == (48, 96) and off.max() <= 0.5 / 255 + 1e-6
    for name, values in {"ram": scene.ram, "vision": scene.vision, "text": scene.text, "score": scene.scores}.items():
        assert np.array_equal(unpacked(data["heads"][name]), values), name
    assert np.array_equal(unpacked(data["largest"]), scene.rows.argmax(axis=1))
    for name in ("ranking", "columns", "counted"):
        assert np.array_equal(unpacked(data[name]), getattr(scene, name)), name
    assert data["shape"] == [12, 4] and data["chance"] == scene.chance and data["notes"] == []
    assert (data["question"], data["answer"]) == (scene.example.question, scene.example.answer)


def test_pictures_boxes_and_cells_are_native_pixels(scene, page):
    pictures = embedded(page.text)["pictures"]
    assert [(p["caption"], p["width"], p["height"]) for p in pictures] == [(f"Image {n + 1}", 64, 64) for n in range(6)]
    for written, cells in zip(pictures, scene.cells, strict=True):
        assert np.array_equal(unpacked(written["tokens"]), cells.tokens)
        assert np.array_equal(unpacked(written["boxes"]), cells.boxes)
    (part,) = scene.example.evidence
    assert [p["evidence"] for p in pictures] == [[list(part.box)] if n == part.media else [] for n in range(6)]


def test_the_page_reaches_for_nothing(page):
    text = page.text
    assert text.isascii() and "http:" not in text.lower() and "https:" not in text.lower()
    assert not re.search(r"@import|url\(|import\(|fetch\(|XMLHttpRequest|localStorage|innerHTML|eval\(", text)
    assert set(re.findall(r'\b(?:src|href)="?([^" >]*)', text.partition('<script id="data"')[0])) == {"data:,"}


def test_the_policy_allows_only_the_pages_own_code(page):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page.text)
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, flags=re.S)
    *_, script = re.findall(r"<script>(.*?)</script>", page.text, flags=re.S)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for name, code in {"style-src": style, "script-src": script}.items():
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}


def test_hostile_texts_stay_texts():
    facts = ((HOSTILE, HOSTILE),)
    hostile = by_hand(question=HOSTILE, model=HOSTILE, dataset=HOSTILE, facts=facts, notes=(HOSTILE,))
    text = page_of(hostile).text
    assert text.isascii() and text.count("<script") == text.count("</script") == 2 and text.count("<!") == 1
    data = embedded(text)
    assert data["question"] == data["model"] == data["dataset"] == HOSTILE
    assert data["facts"] == [[HOSTILE, HOSTILE]] and data["notes"] == [HOSTILE]


def test_a_page_of_a_real_model_fits():
    """3.1 million entries of noise."""
    page = page_of(real_size(side=300))
    assert 3_000_000 < len(page.text) <= 5_000_000 and page.num_rows == 1152 and page.notes == ()


def test_pictures_are_shrunk_before_rows_go(caplog):
    scene = by_hand()
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    example = example_of([noise], Evidence(0, (0, 0, 750, 750)))
    scene = scene_by_hand(example, (grid(noise.shape, 2, 4),), scene.rows, (3, 2))
    full = page_of(scene)
    assert full.notes == () and not caplog.records and embedded(full.text)["pictures"][0]["width"] == 1500
    shrunk = page_of(scene, max_bytes=len(full.text) - 1)
    assert len(shrunk.text) < len(full.text) and shrunk.num_rows == 6
    (note,) = shrunk.notes
    assert "shrunk to 1024 pixels" in note and note in caplog.text and embedded(shrunk.text)["notes"] == [note]
    assert embedded(shrunk.text)["pictures"][0]["width"] == 1500


def test_then_the_best_and_worst_heads_stay(caplog):
    scene = real_size(side=300)
    full = len(page_of(scene).text)
    page = page_of(scene, max_bytes=full // 2)
    (note,) = [note for note in page.notes if "best" in note]
    assert len(page.text) <= full // 2 < len(page.text) * 1.05, "room was left unused"
    count = page.num_rows // 2
    assert f"{count} best- and the {count} worst" in note and note in caplog.text
    data = embedded(page.text)
    kept = unpacked(data["rows"]["heads"])
    assert sorted(kept) == sorted([*scene.ranking[:count], *scene.ranking[-count:]])
    codes, maxima = unpacked(data["rows"]["codes"]), unpacked(data["heads"]["maximum"])
    assert np.abs(np.sqrt(scene.rows[kept] / maxima[kept, None]) - codes / 255).max() <= 0.5 / 255 + 1e-6
    assert len(maxima) == 1152, "the numbers of all heads stay"


def test_a_size_that_cannot_be_met_is_refused_with_the_numbers():
    scene = by_hand()
    with pytest.raises(ValueError, match=r"at most 1000 bytes was asked - the smallest has (\d+)") as caught:
        page_of(scene, max_bytes=1000)
    least = int(re.search(r"smallest has (\d+)", str(caught.value))[1])
    assert len(page_of(scene, max_bytes=least).text) <= least


def test_frames_left_out_are_told(shipped, monkeypatch, caplog):
    from corehead_hf.explorer import scene as module

    frames = example_of([video(9)], Evidence(0, frames=(3,)))
    pictures, note = module.pictures_of(frames, 3)
    notes = module._notes(frames, shipped.head_map, pictures, note)
    assert notes[0].startswith("3 of 9 frames shown") and "holds evidence" in notes[1]
    assert all(note in caplog.text for note in notes)
    cells = [module.cells_of((concatenate([grid((8, 8), 1, 1, frame=f) for f in range(9)]),), p) for p in pictures]
    assert [each.tokens.tolist() for each in cells] == [[0], [4], [8]]


def test_explore_is_the_whole_road(shipped, page):
    text = explore(shipped.model, shipped.processor, shipped.example, shipped.head_map, dataset="glyphs")
    assert text == page.text, "one example gives one page"


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "page.html"
    write_page(path, "first\n")
    assert path.read_bytes() == b"first\n" and [file.name for file in path.parent.iterdir()] == ["page.html"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "second")
    assert path.read_bytes() == b"first\n" and [file.name for file in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["inferno", "viridis"])
def test_the_colours_are_matplotlibs(page, name):
    colormaps = pytest.importorskip("matplotlib").colormaps
    (lines,) = re.findall(rf"{name}: \[(.*?)\]", page.text, flags=re.S)
    found = bytes.fromhex("".join(re.findall(r'"([0-9a-f]+)"', lines)))
    assert found == colormaps[name](np.arange(256), bytes=True)[:, :3].tobytes()
