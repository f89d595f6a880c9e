"""Head lists of other projects as fields of HeadMap: DuoAttention, Retrieval_Head, SparseMM, QRHead.

Decides what their numbers become: scores in [0, 1] that keep the project's own order of the heads, and a score_rule
that says what they are, for none of them is RAM. How the files are read is files.py's.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from corehead_hf._version import __version__
from corehead_hf.head_map.fields import model_shape, public_name
from corehead_hf.head_map.importers.files import (
    MAX_GATES_BYTES,
    MAX_SAMPLES_BYTES,
    MAX_YAML_BYTES,
    read_bytes,
    read_gates,
    read_head_order,
    read_run,
    read_samples,
)

logger = logging.getLogger(__name__)

# A step adds at most 1 to a sample's score, and this many are decoded.
RETRIEVAL_HEAD_STEPS = 50
SPARSEMM_STEPS = 1024
_TEXT_ONLY = "none: the prompts are text"


def duo_attention(folder: str | Path, model: Any) -> dict[str, Any]:
    """Gates of DuoAttention, one per KV head, repeated for the G query heads that share it.

    Read from full_attention_heads.tsv (L rows, Hkv columns) and config.json (sink_size, recent_size, and what the
    training was given) of a folder attn_patterns/<model>/<run> of mit-han-lab/duo-attention. Many gates are 1; such
    heads rank by (layer, head), where duo_attn/utils.py:sparsify_attention_heads adds noise.

    Args:
        folder: holds both files.
        model: a wrapped or native model, its config, or the Hub id or folder whose config, and nothing else, is read.

    Returns:
        The keyword arguments of HeadMap.

    Raises:
        FileNotFoundError: a file is not there.
        HeadMapFormatError: a file is too large or malformed, or does not fit the model.
        TypeError, ValueError: model is none of these, or has no name or no heads.
    """
    about, path = _about(model), Path(folder) / "full_attention_heads.tsv"
    layers, heads, kv_heads = (about[key] for key in ("num_layers", "num_heads", "num_kv_heads"))
    data, run = read_bytes(path, MAX_GATES_BYTES), read_run(path.with_name("config.json"))
    gates, stated = read_gates(data, path, (layers, kv_heads)), _text(run.get("dataset_name"))
    rule = (
        "DuoAttention gate of the head's KV head, clipped to [0, 1]; repeated for the "
        f"{heads // kv_heads} query heads of each KV head; trained with sink_size {run['sink_size']} and recent_size "
        f"{run['recent_size']}; one training run: count 1 and spread 0 stand for unknown"
    )
    return about | {
        "scores": np.repeat(gates, heads // kv_heads, axis=1),
        **_one_example(layers, heads),
        # In words, for "datasets/x.jsonl" of its author's disk would pass for a Hub id.
        "dataset": f"the file {stated!r} of DuoAttention" if stated else "not stated by the DuoAttention pattern",
        "question_rule": "none: the gates were trained, not measured on question tokens",
        "view_rule": f"{_TEXT_ONLY}; each KV head's gate stands for its query heads",
        "score_rule": rule + _origin(path, data, run.get("model_name"), about),
    }


def retrieval_head(path: str | Path, model: Any) -> dict[str, Any]:
    """Retrieval scores of Retrieval_Head (arXiv 2404.15574): mean and spread over the samples of the file.

    Read from head_score/<model>.json of nightdessert/Retrieval_Head, {"layer-head": [score per sample, ...]}, as
    retrieval_head_detection.py writes it; the README there ranks by the mean. A file without samples, which that
    script writes when the model answers no needle (its issue #12), is refused.

    Args, Returns, Raises: as of duo_attention; path is the file.
    """
    rule = "Retrieval_Head's retrieval score: tokens of the needle that the head copied / all of them"
    return _sampled(Path(path), model, rule, RETRIEVAL_HEAD_STEPS) | {
        "dataset": "not stated by the file; Retrieval_Head uses needles in a haystack of text",
        "question_rule": "decoding steps: does the head's top key hold the token that is written?",
        "view_rule": f"{_TEXT_ONLY}; the needle is the evidence",
    }


def sparsemm(path: str | Path, model: Any) -> dict[str, Any]:
    """Visual scores of SparseMM (arXiv 2506.05344): mean and spread over the samples of the file.

    Read from visual_head/head_score/<model>.json of CR400AF-A/SparseMM, of the form of Retrieval_Head, as
    visual_head/qwen_visual_head.py writes it; viz/vizhead.py ranks by the mean. A sample's score sums over all words of
    a picture and goes beyond 1 (2.7 in the qwen.json that ryu1ion/official_BACON keeps), so all are divided by the
    largest.

    Args, Returns, Raises: as of duo_attention; path is the file.
    """
    rule = "SparseMM's visual score: words written while the head's top key is in their box, each 1 / tokens of it"
    return _sampled(Path(path), model, rule, SPARSEMM_STEPS) | {
        "dataset": "not stated by the file; SparseMM uses synthdog-en or COCO",
        "question_rule": "decoding steps that write a word of an annotated box",
        "view_rule": "the vision tokens of that word's box",
    }


def qrhead(path: str | Path, model: Any) -> dict[str, Any]:
    """The ordered heads of QRHead (arXiv 2506.09944): n of them score 1, (n - 1) / n, ..., 1 / n, all others 0.

    Read from src/qrretriever/configs/<model>_qr_head_<data>.yaml of princeton-pli/QRHead: attn_head_set
    "layer-head,layer-head,...", best first, and model_name_or_path. "full_heads", which ranks nothing, is refused.

    Args, Returns, Raises: as of duo_attention; path is the file.
    """
    about, data = _about(model), read_bytes(Path(path), MAX_YAML_BYTES)
    shape = (about["num_layers"], about["num_heads"])
    heads, made_for = read_head_order(data, Path(path), shape)
    scores = np.zeros(shape)
    for rank, head in enumerate(heads):
        scores[head] = (len(heads) - rank) / len(heads)
    rule = (
        f"place in QRHead's list of {len(heads)} heads, best first: (n - place) / n from place 0; only the order is "
        "known, and of heads not listed, which score 0, nothing; count 1 and spread 0 stand for unknown"
    )
    return about | {
        "scores": scores,
        **_one_example(*shape),
        "dataset": "not stated by the file; QRHead uses NQ or LongMemEval",
        "question_rule": "the tokens of the query",
        "view_rule": f"{_TEXT_ONLY}; the gold documents are the evidence",
        "score_rule": rule + _origin(Path(path), data, made_for, about),
    }


def _sampled(path: Path, model: Any, rule: str, steps: int) -> dict[str, Any]:
    about, data = _about(model), read_bytes(path, MAX_SAMPLES_BYTES)
    samples = read_samples(data, path, (about["num_layers"], about["num_heads"]), steps)
    # 1 / n added n times may end a few bits above 1.
    scale = samples.largest if samples.largest > 1 + 1e-9 else 1.0
    scaled = f"; divided by {scale:.6g}, the largest of any sample, to lie in [0, 1]" if scale > 1 else ""
    return about | {
        "scores": samples.mean / scale,
        "spread": samples.spread / scale,
        "count": samples.count,
        "num_examples": int(samples.count.max()),
        "score_rule": f"{rule}; mean over samples{scaled}" + _origin(path, data, None, about),
    }


def _about(model: Any) -> dict[str, Any]:
    """The fields that tell which model, and under which packages it was looked at."""
    import transformers

    if isinstance(model, (str, Path)):
        config = transformers.AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    else:
        config = model if hasattr(model, "get_text_config") else getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        kinds = "pass a model, its config, or the Hub id or folder of one"
        raise TypeError(f"model={model!r:.60} was given - it is a {type(model).__name__} - {kinds}.")
    shape, name = model_shape(config), config._name_or_path
    if not name or None in shape.values():
        raise ValueError(
            f"the model {name!r} with {shape} was given - a head map tells a model's name and its heads - load it from "
            "the Hub or a folder, or set config._name_or_path."
        )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "corehead_hf": __version__}
    return {
        **shape,
        "base_model_name_or_path": public_name(name),
        # No format tells which commit its heads are of.
        "base_model_revision": None,
        "versions": versions,
    }


def _origin(path: Path, data: bytes, made_for: object, about: dict[str, Any]) -> str:
    """The end of a score_rule: file, its sha256, and the model it was made for; warns where that is another one."""
    name, stated = about["base_model_name_or_path"], _text(made_for)
    if stated and PurePath(stated).name.lower() != PurePath(name).name.lower():
        logger.warning("%s was made for %r and is imported for %r: their heads may differ", path, stated, name)
    made = f", made for {stated!r:.120}" if stated else ""
    return f"; from the file {path.name!r:.120}{made}, sha256 {hashlib.sha256(data).hexdigest()}"


def _one_example(layers: int, heads: int) -> dict[str, Any]:
    return {"spread": np.zeros((layers, heads)), "count": 1, "num_examples": 1}


def _text(value: object) -> str:
    """At most 200 characters of a text that a head map can keep; "" for anything else."""
    return value[:200].encode("utf-8", "replace").decode() if isinstance(value, str) and value.strip() else ""
