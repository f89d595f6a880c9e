"""corehead stability, vision-heads and key-tokens: the numbers that are said, counted by hand or from the study."""

import json
from pathlib import Path

import numpy as np
import pytest
from hand_made import head_map

from corehead_hf.analysis import Result
from corehead_hf.families.geometry import VISUAL_RULE

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
# 20 heads, so that the top 10 % are two. Heads (0, 0) and (0, 1) lead in the first, (0, 1) and (1, 2) in the second.
FIRST = [[0.9, 0.8, *np.linspace(0.01, 0.08, 8)], [*np.linspace(0.11, 0.2, 10)]]
SECOND = [[0.3, 0.7, *np.linspace(0.01, 0.08, 8)], [0.11, 0.12, 0.9, *np.linspace(0.14, 0.2, 7)]]


@pytest.fixture
def maps(tmp_path):
    """maps(name=(scores, changes), ...): the folders of hand-made maps."""

    def save(**given):
        for name, (scores, changes) in given.items():
            head_map(scores, **changes).save_pretrained(tmp_path / name)
        return tmp_path

    return save


def table_line(printed, begin):
    return next(line for line in printed.splitlines() if line.startswith(begin)).split()


def test_stability(corehead, maps, tmp_path):
    folder = maps(a=(FIRST, {}), b=(SECOND, {}))
    asked = ("stability", f"one={folder / 'a'}", f"two={folder / 'b'}", "--share", 0.1, "--out", tmp_path / "r.json")
    code, printed, error = corehead(*asked, "--figure", tmp_path / "map.svg")
    assert code == 0, error
    found = Result.load(tmp_path / "r.json")
    assert found.universal == ((0, 1),) and found.names == ("one", "two")
    assert "tiny, 20 heads, 2 data sets; top: 0.1 of the heads" in printed
    assert "on top in all: 1, by chance 0.2\n" in printed  # 20 * (2 / 20) ** 2
    assert table_line(printed, "(0, 1)")[2:] == ["0.800", "0.700", "-"]
    assert table_line(printed, "one")[2:] == [f"{found.spearman[0, 1]:.3f}"]
    svg = (tmp_path / "map.svg").read_text()
    assert "<svg" in svg and "<dc:date>" not in svg


def test_stability_of_three_says_who_leads_in_two(answer, corehead, maps, tmp_path):
    third = np.roll(np.array(SECOND), 5, axis=1)
    folder = maps(a=(FIRST, {}), b=(SECOND, {}), c=(third, {}))
    named = [f"{name}={folder / name}" for name in "abc"]
    _, printed, _ = corehead("stability", *named, "--share", 0.1, "--out", tmp_path / "r.json")
    assert "on top in all: 0, by chance 0.02\n" in printed and "on top in 2: (0, 1)\n" in printed
    told = answer("stability", *named, "--share", 0.1, "--out", tmp_path / "r.json")
    assert told["universal"] == [] and told["model"] == "tiny" and told["names"] == ["a", "b", "c"]


def test_stability_with_intervals_over_examples(corehead, tmp_path):
    model, names = HUB / "glyphs-qwen3-vl", ("3", "5")
    for pages in names:
        asked = ("--data", "glyphs", "--limit", 6, "--option", f"pages={pages}", "--dtype", "float32")
        kept = ("--out", tmp_path / pages, "--resume-from", tmp_path / f"run{pages}")
        assert corehead("measure", model, *asked, *kept)[0] == 0
    named = [f"{pages}={tmp_path / pages}" for pages in names]
    examples = ("--examples", *(f"{pages}={tmp_path / f'run{pages}'}" for pages in names))
    out = ("--resamples", 50, "--out", tmp_path / "r.json")
    code, printed, error = corehead("stability", *named, *examples, *out)
    assert code == 0, error
    found = Result.load(tmp_path / "r.json")
    rho, low, high = (float(values[0, 1]) for values in (found.spearman, found.spearman_low, found.spearman_high))
    assert table_line(printed, "3 ")[2:] == [f"{rho:.3f}", f"[{low:.3f},", f"{high:.3f}]"]
    assert f"on top in all: {len(found.universal)} [{found.universal_low}, {found.universal_high}], by" in printed
    assert table_line(printed, "(0, 1)")[-1] == f"{found.frequency[0, 1]:.3f}"
    code, _, error = corehead("stability", *named, *examples[:2], *out)
    assert code == 1 and "--examples of 3 were given for maps of 3, 5" in error


def test_a_name_given_twice(corehead, maps, tmp_path):
    folder = maps(a=(FIRST, {}))
    code, _, error = corehead("stability", f"x={folder / 'a'}", f"x={folder / 'a'}", "--out", tmp_path / "r.json")
    assert code == 1 and "a name was given twice" in error


def test_vision_heads(corehead, maps, tmp_path):
    folder = maps(core=(FIRST, {}), vision=(SECOND, {"view_rule": VISUAL_RULE}))
    asked = (folder / "core", folder / "vision", "--share", 0.1, "--out", tmp_path / "r.json")
    code, printed, error = corehead("vision-heads", *asked, "--figure", tmp_path / "points.pdf")
    assert code == 0, error
    assert table_line(printed, "heads in both")[-4:] == ["1", "0.2", "of", "2"]
    assert table_line(printed, "Jaccard")[2] == "0.333"
    assert table_line(printed, "p-value")[-2] == "0.19"  # 1 - C(18, 2) / C(20, 2) = 37 / 190
    assert "(layer, head) in both: (0, 1)\n" in printed
    assert (tmp_path / "points.pdf").read_bytes().startswith(b"%PDF")
    code, _, error = corehead("vision-heads", *asked[1::-1], *asked[2:])
    assert code == 1 and "target='evidence'" in error


def test_key_tokens(corehead, answer, tmp_path):
    model, out = HUB / "glyphs-qwen3-vl", tmp_path / "r.json"
    asked = ("key-tokens", model, "--dtype", "float32", "--head-map", f"{model}-head-map", "--data", "glyphs")
    asked += ("--option", "pages=3", "--limit", 5, "--k", 1, "--sizes", 1, 2, "--seeds", 7, "--out", out)
    code, printed, error = corehead(*asked, "--figure", tmp_path / "bars.png")
    assert code == 0, error
    study = Result.load(out)
    assert (study.k, study.group_sizes, study.num_examples, study.dataset) == (1, (1, 2), 5, "glyphs")
    # Evidence is one token, and the look-up head always finds it: 5 of 5 with Wilson's interval.
    for measure in ("key token ratio", "hit rate"):
        words = table_line(printed, measure)[len(measure.split()) :]
        assert words[:4] == ["1", "1.000", "[0.566,", "1.000]"] and words[-1] == f"{study.ratio_chance:.3f}"
    two = [line.split() for line in printed.splitlines() if line.startswith("coverage") and line.split()[1] == "2"]
    assert two[0][2] == "1.000" and two[0][-1] == f"{study.coverage_chance[1]:.3f}"
    told = answer(*asked)
    assert told == {**json.loads(out.read_text()), "out": str(out)} and told["hit_rate"]["top"]["value"] == 1.0
