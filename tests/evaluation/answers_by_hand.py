"""Answers written by hand, and an evaluation of them."""

from corehead_hf.evaluation import Answer, Evaluation, Setting
from corehead_hf.scoring import Average, exact_match

TASKS = {"task": "a"}


def answer(index, score=1.0, task="a", **over):
    values = {"id": f"e{index}", "text": "x", "parsed": "x", "expected": "x", "details": {"task": task}}
    return Answer(index, **{"width": 4, "score": score, "prompt_tokens": 10 + index, "seconds": 0.5, **values, **over})


def skipped(index, kind="out_of_memory", **over):
    return Answer(index, f"e{index}", 4, failure=kind, reason="why", **over)


def evaluation(answers, average=None, scorer=exact_match, confidence=0.95, **about):
    about = {"model": "m", "dataset": "d", "setting": Setting(48, None, ()), "batch_size": 4, **about}
    average = Average("task") if average is None else average
    return Evaluation.of(answers, average, scorer, confidence, **{"max_new_tokens": 2, **about})
