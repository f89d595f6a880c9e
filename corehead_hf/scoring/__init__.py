"""Scorers of generated answers, by data set, and how each benchmark averages them.

    scored = SCORERS["mlvu"](text, example)
    summary = summarise(scores, [AVERAGES["mlvu"].group_of(example.details) for example in examples], AVERAGES["mlvu"])

A scorer reads what the loader of its data set put into Example.answer and Example.details. The protocols are those of
lmms-eval, which the paper used (letters, MMLongBench-Doc), and of MMLongBench's own harness (its DocQA part).
"""

from __future__ import annotations

from corehead_hf.scoring.averages import Average, Group, Summary, summarise
from corehead_hf.scoring.document_qa import score_document_qa
from corehead_hf.scoring.letters import extract_letter, score_letter
from corehead_hf.scoring.mmlongbench_doc import answerable_f1, score_rules
from corehead_hf.scoring.scored import Scored, Scorer, exact_match

SCORERS: dict[str, Scorer] = {
    "glyphs": exact_match,
    "jsonl": exact_match,
    "mlvu": score_letter,
    "mmlongbench": score_document_qa,
    "mmlongbench-doc": score_rules,
    "video-mme": score_letter,
}

# The paper's Perf. Avg. on MLVU is the unweighted mean of these six; anomaly_reco is left out of it (its Table 2).
MLVU_AVERAGED = ("topic_reasoning", "needle", "ego", "plotQA", "order", "count")

AVERAGES: dict[str, Average] = {
    "glyphs": Average(),
    "jsonl": Average(),
    "mlvu": Average("task", "macro", over=MLVU_AVERAGED),
    "mmlongbench": Average("answer_format"),
    "mmlongbench-doc": Average("answer_format"),
    "video-mme": Average("task", also=("duration",)),
}

# As in lmms-eval's tasks; mmlongbench as in its own harness.
MAX_NEW_TOKENS: dict[str, int] = {
    "glyphs": 2,
    "jsonl": 32,
    "mlvu": 16,
    "mmlongbench": 128,
    "mmlongbench-doc": 1024,
    "video-mme": 16,
}

__all__ = [
    "AVERAGES",
    "MAX_NEW_TOKENS",
    "MLVU_AVERAGED",
    "SCORERS",
    "Average",
    "Group",
    "Scored",
    "Scorer",
    "Summary",
    "answerable_f1",
    "exact_match",
    "extract_letter",
    "score_document_qa",
    "score_letter",
    "score_rules",
    "summarise",
]
