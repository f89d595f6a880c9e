"""Writes mmlongbench_verdicts.csv: what MMLongBench's own harness says of made answers to its DocQA questions.

`python tests/scoring/mmlongbench_verdicts.py FOLDER`, a checkout of github.com/EdinburghNLP/MMLongBench (it was written
at 476fe86). Of its utils.py only the functions are taken: its imports need a GPU's software and an API client.
"""

import ast
import csv
import json
import math
import re
import string
import sys
from collections import Counter
from pathlib import Path

from made_answers import EXACT, FREE, LISTS, NUMBERS, documents

HERE = Path(__file__).parent
WHOLE = ("12", "$1,200", "-7", "12 million", "0", "100", "5 kg", "7 mm", "1e3")
FORMATS = {"String": FREE + EXACT, "Integer": WHOLE, "Float": NUMBERS, "List": LISTS, "None": ("Not answerable",)}


def official(folder):
    """The names that utils.py defines by functions."""
    tree = ast.parse((Path(folder) / "utils.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {"re": re, "json": json, "math": math, "isclose": math.isclose, "string": string, "Counter": Counter}
    exec(compile(tree, "utils.py", "exec"), names)
    return names


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    functions = official(sys.argv[1])
    with open(HERE / "mmlongbench_verdicts.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("dataset", "answer_format", "answer", "text", "parsed", "score"))
        for kind, answer, text in documents(600, seed=4, formats=FORMATS):
            parsed = functions["parse_output"](f"Answer:{text}")  # as its eval.py does
            score = functions["eval_docqa_score"](answer, parsed, kind)
            writer.writerow(("mmlongbench", kind, answer, text, parsed, score))
