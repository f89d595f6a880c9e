"""Writes what lmms-eval's own functions say: run it where lmms-eval 0.7.3 is installed.

lmms_eval_verdicts.csv: a verdict per made answer. lmms_eval_figures.json: its averages of those, and its prompts.
"""

import csv
import json
from pathlib import Path

from lmms_eval.tasks.mlvu import utils as mlvu
from lmms_eval.tasks.mmlongbench_doc import utils as doc
from lmms_eval.tasks.videomme import utils as videomme
from made_answers import EXACT, FREE, LISTS, NUMBERS, choices, documents

HERE = Path(__file__).parent
MLVU_TASKS = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
FORMATS = {"Str": FREE + EXACT, "Int": NUMBERS, "Float": NUMBERS, "List": LISTS, "None": ("Not answerable",)}
QUESTION = "What colour is the bag?"
OPTIONS = ["A. Red.", "B. Blue.", "C. Grey.", "D. Green."]


def mlvu_rows():
    results = []
    for number, (answer, text) in enumerate(choices(450, seed=1)):
        row = {"question": str(number), "task_type": MLVU_TASKS[number % 7], "answer": answer}
        result = mlvu.mlvu_process_results(row, [text])["mlvu_percetion_score"]
        results.append(result)
        score = float(result["pred_answer"] == answer)
        yield "mlvu", row["task_type"], "", answer, text, result["pred_answer"], score
    FIGURES["mlvu"] = mlvu.mlvu_aggregate_results_dev(results)


def videomme_rows():
    results = []
    for number, (answer, text) in enumerate(choices(450, seed=2)):
        row = {"question_id": str(number), "duration": ("short", "medium", "long")[number % 3], "answer": answer}
        row |= {"domain": "Knowledge", "sub_category": "Law", "videoID": "x"}
        row["task_type"] = videomme.TASK_CATEGORIES[number % 12]
        result = videomme.videomme_process_results(row, [text])["videomme_perception_score"]
        results.append(result)
        yield "video-mme", row["task_type"], "", answer, text, result["pred_answer"], result["score"]
    FIGURES["video-mme"] = videomme.videomme_aggregate_results(results)


def doc_rows():
    accuracies, f1s = [], []
    for kind, answer, text in documents(600, seed=3, formats=FORMATS):
        result = doc.mmlongbench_doc_process_results({"answer": answer, "answer_format": kind}, [text])
        accuracies.append(result["mmlongbench_doc_acc"])
        f1s.append(result["mmlongbench_doc_f1"])
        yield "mmlongbench-doc", "", kind, answer, text, text.strip(), accuracies[-1]["score"]
    FIGURES["mmlongbench-doc"] = doc.mmlongbench_doc_aggregate_acc(accuracies)
    FIGURES["mmlongbench-doc f1"] = doc.mmlongbench_doc_aggregate_f1(f1s)


def prompts():
    default = {"pre_prompt": "", "post_prompt": "\nAnswer with the option's letter from the given choices directly."}
    qwen = {"format": "qwen3_vl", "pre_prompt": "Question: ", "post_prompt": "Answer with the option letter only."}
    row = {"question": QUESTION, "options": OPTIONS, "videoID": "absent"}
    best = {"post_prompt": "\nOnly give the best option.\nBest option: ("}
    short = "\nAnswer with a single word or phrase. If the answer is not in the document, answer 'Not answerable'."
    return {
        "mlvu": mlvu.mlvu_doc_to_text({"question": QUESTION + "\n" + "\n".join(OPTIONS)}, best),
        "video-mme default": videomme.videomme_doc_to_text(row, default),
        "video-mme qwen3_vl": videomme.videomme_doc_to_text(row, qwen),
        "video-mme default, no subtitles": videomme.videomme_doc_to_text_subtitle(row, {}),
        "video-mme qwen3_vl, no subtitles": videomme.videomme_doc_to_text_subtitle(row, qwen),
        "mmlongbench-doc": doc.mmlongbench_doc_to_text({"question": QUESTION}, {"post_prompt": short}),
    }


FIGURES = {}
if __name__ == "__main__":
    with open(HERE / "lmms_eval_verdicts.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("dataset", "task", "answer_format", "answer", "text", "parsed", "score"))
        for rows in (mlvu_rows(), videomme_rows(), doc_rows()):
            writer.writerows(rows)
    content = {"figures": FIGURES, "prompts": prompts(), "question": QUESTION, "options": OPTIONS}
    (HERE / "lmms_eval_figures.json").write_text(json.dumps(content, indent=1) + "\n")
