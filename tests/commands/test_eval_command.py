"""corehead eval on a shipped tiny model, and on small files in the benchmarks' formats."""

import json
from pathlib import Path

import pytest
from transformers.utils import is_torchvision_available

from corehead_hf import HeadMap
from corehead_hf.analysis import Result
from corehead_hf.commands import eval as command
from corehead_hf.evaluation import read_answers

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL, MAP = HUB / "glyphs-qwen3-vl", HUB / "glyphs-qwen3-vl-head-map"
SUBJECT = ("eval", MODEL, "--dtype", "float32")
GLYPHS = ("--data", "glyphs", "--option", "pages=3", "--option", "seed=4242", "--limit", 5, "--batch-size", 5)
SIZES = ("--sink", 4, "--window", 16)


def test_dense(corehead, answer, tmp_path):
    out, said, kept = tmp_path / "new" / "result.json", tmp_path / "new" / "answers.jsonl", tmp_path / "kept"
    asked = (*SUBJECT, *GLYPHS, "--out", out, "--answers", said, "--resume-from", kept, "--dataset", "letters")
    code, printed, error = corehead(*asked)
    assert code == 0, error
    found = Result.load(out)
    assert (found.kind, found.model, found.dataset, found.num_examples) == (
        "evaluation",
        "glyphs-qwen3-vl",
        "letters",
        5,
    )
    assert (
        found.average.value == 1.0
        and str(found.setting) == "dense"
        and (found.batch_size, found.max_new_tokens) == (5, 2)
    )
    lines = printed.splitlines()
    assert lines[0] == "glyphs-qwen3-vl, 5 examples of letters, dense"
    assert lines[2].split() == ["average", "over", "examples", "5", "1.000", "[0.566,", "1.000]"]  # Wilson's of 5 of 5
    assert "skipped 0" in lines and "no answer could be read in 0, which score 0" in lines
    assert lines[-1] == f"saved in {out} and {said}"
    rows = [json.loads(line) for line in said.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(found.ids) and all(row["text"] == row["expected"] for row in rows)
    assert [vars(a)["text"] for a in read_answers(kept)] == [row["text"] for row in rows]
    told = answer(*asked)
    assert told == {**json.loads(out.read_text()), "out": str(out), "answers": str(said)}
    assert told["seconds"] == found.seconds, "answers were there already"


def test_few_dense_heads_and_ablated_ones(corehead, tmp_path):
    out, head_map = tmp_path / "result.json", HeadMap.from_pretrained(MAP)
    asked = (*SUBJECT, *GLYPHS, "--head-map", MAP, "--out", out)

    def found(*options):
        code, printed, error = corehead(*asked, *options)
        assert code == 0, error
        return Result.load(out), printed.splitlines()[0]

    def pairs(heads):
        return tuple((layer, head) for layer, head in heads.nonzero().tolist())

    kept, line = found("--keep", 0.05, *SIZES)
    hybrid = kept.setting.hybrid
    assert hybrid.heads == pairs(head_map.top(2)) and (hybrid.sink_size, hybrid.window_size) == (4, 16)
    assert hybrid.dense_below == 0 and kept.average.value >= 0.8
    assert line.endswith("2 of 48 heads dense, the others see sink 4 + window 16")
    ablated, line = found("--ablate", "top", 2)
    assert ablated.setting.ablated[0].heads == pairs(head_map.top(2)) and ablated.average.value <= 0.4
    assert line.endswith("2 of 48 heads ablated (zero)")
    streamed, _ = found("--ablate", "top", 0.05, "--variant", "stream", *SIZES)
    assert (streamed.setting.ablated[0].variant, streamed.setting.ablated[0].window_size) == ("stream", 16)
    assert streamed.average.value <= 0.6
    random, _ = found("--ablate", "random", 2, "--seed", 3)
    assert random.setting.ablated[0].heads == pairs(head_map.random(2, 3, exclude=head_map.top(2)))
    assert random.average.value >= 0.8


def mlvu(folder, rows):
    (folder / "json").mkdir(parents=True)
    (folder / "video").mkdir()
    row = {"duration": 2, "question": "What colour is it?", "candidates": ["Red", "Blue"], "answer": "Red"}
    made = [{**row, "video": "a.mp4", "question_type": "count", **change} for change in rows]
    (folder / "json" / "4_count.json").write_text(json.dumps(made))
    return folder


def test_videos_that_are_missing_or_broken_are_counted_and_no_reason_to_stop(corehead, tmp_path, caplog):
    folder = mlvu(tmp_path / "mlvu", [{}, {"video": "b.mp4"}, {"question_type": "juggling"}])
    (folder / "video" / "b.mp4").write_bytes(b"no video")
    code, printed, error = corehead(*SUBJECT, "--data", "mlvu", "--path", folder, "--out", tmp_path / "result.json")
    assert code == 1 and "all 3 were skipped, the first because: 4_count.json row 0: the video a.mp4 is none" in error
    for reason in ("missing_media 1", "corrupt_media 1", "unknown_task 1"):
        assert reason in caplog.text
    code, _, error = corehead(*SUBJECT, "--data", "mlvu", "--path", folder, "--out", tmp_path / "result.json",
                              "--on-error", "raise")  # fmt: skip
    assert code == 1 and "the video a.mp4 is none" in error


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision, which video processors need, is not installed")
def test_mlvu_and_video_mme(corehead, tmp_path):
    import sys

    pytest.importorskip("av")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
    from formats import write_video

    changes = [{}, {"question_type": "ego"}, {"video": "gone.mp4"}, {"question_type": "anomaly_reco"}]
    folder = mlvu(tmp_path / "mlvu", changes)
    write_video(folder / "video" / "a.mp4", 6)
    out, said = tmp_path / "result.json", tmp_path / "answers.jsonl"
    asked = (*SUBJECT, "--out", out, "--answers", said, "--frames", 2, "--batch-size", 2)
    code, printed, error = corehead(*asked, "--data", "mlvu", "--path", folder)
    assert code == 0, error
    found = Result.load(out)
    assert found.skipped == {"missing_media": 1} and found.average_kind == "macro" and found.max_new_tokens == 16
    assert [(g.name, g.count, g.averaged) for g in found.groups] == [
        ("anomaly_reco", 1, False), ("count", 1, True), ("ego", 1, True),
    ]  # fmt: skip
    assert set(found.missing) == {"topic_reasoning", "needle", "plotQA", "order"}
    assert "skipped 1: missing_media 1" in printed and "anomaly_reco (not averaged)" in printed
    assert "no example of topic_reasoning, needle, plotQA, order: " in printed
    rows = [json.loads(line) for line in said.read_text().splitlines()]
    assert [row["row_error"] for row in rows] == [None, None, "missing_media", None]
    clips = tmp_path / "video-mme"
    (clips / "data").mkdir(parents=True)
    write_video(clips / "data" / "yt.mp4", 6)
    row = {"video_id": "001", "duration": "short", "domain": "d", "sub_category": "s", "videoID": "yt",
           "question_id": "001-1", "task_type": "Counting Problem", "question": "How many?",
           "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C"}  # fmt: skip
    (clips / "test.jsonl").write_text("\n".join(json.dumps({**row, "question_id": f"001-{i}"}) for i in (1, 2)))
    code, printed, error = corehead(*asked, "--data", "video-mme", "--path", clips)
    assert code == 0, error
    assert [(g.key, g.name, g.count) for g in Result.load(out).groups] == [
        ("task", "Counting Problem", 2), ("duration", "short", 2),
    ]  # fmt: skip
    assert "duration: short" in printed


def test_options_reach_the_data_set(monkeypatch):
    class Arguments:
        frames, option, data = 64, ["split=test"], "mlvu"

    assert command._data_options(Arguments) == ["frames=64"]
    Arguments.frames, Arguments.data = None, "mmlongbench"
    assert command._data_options(Arguments) == ["answering=true"]
    Arguments.option = ["answering=false"]
    assert command._data_options(Arguments) == []


@pytest.mark.parametrize(
    "options, message",
    [
        (("--data", "nothing"), "--data nothing was given; its answers have no scorer"),
        (("--frames", 4), "has no option frames"),
        (("--keep", 0.05), "give --head-map MAP with one of them"),
        (("--head-map", MAP), "give --head-map MAP with one of them"),
        (("--head-map", "nowhere", "--keep", 0.05), "nowhere"),
        (("--head-map", HUB / "glyphs-internvl-head-map", "--keep", 0.05), "model_type: map has 'internvl'"),
        (("--head-map", MAP, "--keep", 0.05, "--seed", 1), "--seed 1 was given and would change nothing"),
        (("--head-map", MAP, "--keep", 0.05, "--variant", "zero"), "--variant zero was given and would change nothing"),
        (("--head-map", MAP, "--ablate", "top", 2, "--window", 16), "--window 16 was given and would change nothing"),
        (("--sink", 4), "--sink 4 was given and would change nothing"),
        (("--head-map", MAP, "--ablate", "random", 40), "too few are left"),
        (("--head-map", MAP, "--ablate", "top", 49), "keep=49"),
        (("--frames", 2, "--option", "frames=3"), "--frames 2 was given beside"),
        (("--head-map", MAP, "--ablate", "top", 2, "--seed", 9), "--seed 9 was given and would change nothing"),
        (("--answers", "."), "--answers . is a folder"),
        (("--out", "."), "--out . is a folder"),
    ],
)
def test_a_request_that_cannot_be_met(corehead, tmp_path, options, message):
    code, printed, error = corehead(*SUBJECT, *GLYPHS, "--out", tmp_path / "result.json", *options)
    assert code == 1 and message in error and not printed
    assert not (tmp_path / "result.json").exists()


def test_a_refused_run_leaves_earlier_answers_alone(corehead, tmp_path):
    out, said = tmp_path / "result.json", tmp_path / "answers.jsonl"
    asked = (*SUBJECT, *GLYPHS, "--answers", said, "--resume-from", tmp_path / "kept")
    code, _, error = corehead(*asked, "--out", out)
    assert code == 0, error
    before = said.read_bytes()
    code, _, error = corehead(*asked, "--out", out, "--batch-size", 2)
    assert code == 1 and "batch_size: 5 there / 2 now" in error and said.read_bytes() == before
    code, _, error = corehead(*asked, "--out", said)
    assert code == 1 and "one overwrites the other" in error and said.read_bytes() == before


def test_data_without_a_scorer(corehead, tmp_path):
    folder = tmp_path / "refcocog"
    folder.mkdir()
    asked = (*SUBJECT, "--data", "vidstg", "--path", folder, "--out", tmp_path / "result.json")
    code, _, error = corehead(*asked)
    assert code == 1 and "--data vidstg was given; its answers have no scorer. Known are glyphs" in error


@pytest.mark.parametrize(
    "options, message",
    [
        (("--ablate", "middle", "2"), "'middle' was given; the group is one of top, bottom, random"),
        (("--ablate", "top", "0"), "argument --ablate: 0 was given"),
        (("--ablate", "top"), "expected 2 arguments"),
        (("--ablate", "top", "2", "--keep", "2"), "not allowed with argument"),
        (("--keep", "1.5"), "1.5 was given"),
        (("--batch-size", "0"), "0 was given"),
        (("--variant", "mean"), "invalid choice: 'mean'"),
    ],
)
def test_wrong_usage(usage, tmp_path, options, message):
    assert message in usage(*SUBJECT, *GLYPHS, "--out", tmp_path / "result.json", *options)
