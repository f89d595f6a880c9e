"""Our scorers give what lmms-eval's and MMLongBench's own give: lmms_eval_verdicts.py, mmlongbench_verdicts.py."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from corehead_hf import Example
from corehead_hf.scoring import AVERAGES, SCORERS, Average, answerable_f1, summarise

HERE = Path(__file__).parent
FIGURES = json.loads((HERE / "lmms_eval_figures.json").read_text())


def verdicts():
    rows = defaultdict(list)
    for name in ("lmms_eval_verdicts.csv", "mmlongbench_verdicts.csv"):
        with open(HERE / name, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows[row["dataset"]].append(row)
    return rows


VERDICTS = verdicts()
PICTURE = np.zeros((4, 4, 3), np.uint8)


def scored(dataset, row):
    details = {"answer_format": row["answer_format"]} if row["answer_format"] else {}
    example = Example("x", (PICTURE,), "What?", row["answer"], (), details=details)
    return SCORERS[dataset](row["text"], example)


@pytest.mark.parametrize(
    "dataset, count", [("mlvu", 450), ("video-mme", 450), ("mmlongbench-doc", 550), ("mmlongbench", 600)]
)
def test_every_verdict_is_the_original_one(dataset, count):
    rows = VERDICTS[dataset]
    assert len(rows) >= count
    wrong = []
    for row in rows:
        ours = scored(dataset, row)
        if (ours.score, ours.parsed or "") != (float(row["score"]), row["parsed"]):
            wrong.append((row["answer_format"], row["answer"], row["text"], row["parsed"], row["score"], ours))
    assert wrong == []


def test_the_answers_are_of_every_kind():
    """Else equality would say little: right, wrong and partly right ones in every format, read and not."""
    for dataset in ("mlvu", "video-mme"):
        assert {row["parsed"] for row in VERDICTS[dataset]} == {"", "A", "B", "C", "D"}
    for dataset, partial in (("mmlongbench-doc", {"Str", "List"}), ("mmlongbench", {"String", "None", "List"})):
        for kind in {row["answer_format"] for row in VERDICTS[dataset]}:
            scores = {float(row["score"]) for row in VERDICTS[dataset] if row["answer_format"] == kind}
            assert {0.0, 1.0} <= scores and (len(scores) > 2) == (kind in partial), (dataset, kind)


def test_averages_are_the_original_ones():
    """lmms-eval's MLVU figure takes in all seven tasks, in per cent."""
    rows = VERDICTS["mlvu"]
    scores, tasks = [float(row["score"]) for row in rows], [row["task"] for row in rows]
    assert summarise(scores, tasks, Average("task", "macro")).average * 100 == pytest.approx(FIGURES["figures"]["mlvu"])
    rows = VERDICTS["video-mme"]
    scores, tasks = [float(row["score"]) for row in rows], [row["task"] for row in rows]
    summary = summarise(scores, tasks, AVERAGES["video-mme"])
    assert summary.average * 100 == pytest.approx(FIGURES["figures"]["video-mme"]) and len(summary.groups) == 12


def test_figures_of_mmlongbench_doc_are_the_original_ones():
    rows = VERDICTS["mmlongbench-doc"]
    scores, kinds = [float(row["score"]) for row in rows], [row["answer_format"] for row in rows]
    found = summarise(scores, kinds, AVERAGES["mmlongbench-doc"]).average
    assert found == pytest.approx(FIGURES["figures"]["mmlongbench-doc"])
    f1 = answerable_f1(scores, [row["answer"] for row in rows], [row["text"] for row in rows])
    assert f1 == pytest.approx(FIGURES["figures"]["mmlongbench-doc f1"])
