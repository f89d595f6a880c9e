"""Accuracy on benchmarks: a model's answers to a data set, scored and averaged as the benchmark does.

    examples = load("mlvu", folder, on_error="skip", frames=64)
    model.enable_hybrid(keep=0.05)
    evaluation = evaluate(model, processor, examples, dataset="mlvu", resume_from="answers")

Needs scipy: pip install 'corehead-hf[eval]'.
"""

# evaluate is a function and the file it stands in; it is imported here, so that the name is the function's.
from corehead_hf.evaluation.evaluate import evaluate
from corehead_hf.evaluation.evaluation import Evaluation, GroupScore
from corehead_hf.evaluation.records import Answer, read_answers
from corehead_hf.evaluation.setting import AblationSetting, HybridSetting, Setting

__all__ = [
    "AblationSetting",
    "Answer",
    "Evaluation",
    "GroupScore",
    "HybridSetting",
    "Setting",
    "evaluate",
    "read_answers",
]
