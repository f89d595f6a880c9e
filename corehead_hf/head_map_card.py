"""The model card of a head map: README.md of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id

_CARD = """
# CoRe head map of {base}

How much of its attention every query head of {base} gives to the part of the picture, page or video
that the question is about: Retrieval Attention Mass (RAM, arXiv 2606.05843), in [0, 1]. These are
measurements, not weights.

## Top heads

{rows}

## Provenance

{facts}

## Use

```python
from corehead_hf import HeadMap
head_map = HeadMap.from_pretrained("path/to/this/folder")
heads = head_map.top(0.05)  # bool [layers, heads], the best 5 % of all heads
```
"""


def model_card(
    fields: Mapping[str, Any],
    scores: torch.Tensor,
    spread: torch.Tensor,
    ranking: torch.Tensor,
    chance: float | None = None,
) -> str:
    """Text of README.md: front matter for the Hub, the top 10 heads, the provenance, how to load the map.

    The model and the data sets are linked only if they can be Hub repositories: an id of the form owner/name,
    and for the model a commit.
    """
    base = fields["base_model_name_or_path"]
    datasets = dict.fromkeys(part["dataset"] for part in fields.get("parts") or [fields])
    front = ["---", "library_name: corehead_hf", "pipeline_tag: image-text-to-text"]
    if fields["base_model_revision"] is not None and _is_repo_id(base):
        front += [f"base_model: {json.dumps(base)}", "base_model_relation: adapter"]
    if linked := [dataset for dataset in datasets if _is_repo_id(dataset)]:
        front += ["datasets:", *(f"- {json.dumps(dataset)}" for dataset in linked)]
    front += ["tags:", "- head-map", "- core-heads", "---", ""]
    versions = ", ".join(f"{package} {version}" for package, version in sorted(fields["versions"].items()))
    shown = {**fields, "versions": versions, **_summaries(fields)}
    if chance is not None:
        shown["chance"] = f"{chance:.6f}, the RAM of a head that attends to all it may see alike; lift = RAM / chance"
    facts = [f"- {name}: {_code(str(value))}" for name, value in shown.items()]
    rows = "\n".join(_rows(scores, spread, ranking, chance))
    return "\n".join(front) + _CARD.format(base=_code(base), rows=rows, facts="\n".join(facts))


def _rows(scores: torch.Tensor, spread: torch.Tensor, ranking: torch.Tensor, chance: float | None) -> list[str]:
    titles = ["rank", "layer", "head", "RAM", "std over examples", *([] if chance is None else ["lift"])]
    lines = [titles, ["---"] * len(titles)]
    for rank, (layer, head) in enumerate(ranking[:10].tolist(), start=1):
        numbers = [scores[layer, head], spread[layer, head]]
        lift = [] if chance is None else [f"{scores[layer, head] / chance:.1f}"]
        lines.append([str(rank), str(layer), str(head), *(f"{number:.4f}" for number in numbers), *lift])
    return [f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines]


def _summaries(fields: Mapping[str, Any]) -> dict[str, str]:
    """The optional fields that are lists, in a line each."""
    shown = {}
    if "convergence" in fields:
        curve = fields["convergence"]
        shown["convergence"] = "too few examples for a check"
        if curve:
            count, rho = curve[-1]
            shown["convergence"] = f"Spearman {rho:.4f} between the rankings of {count} and {count // 2} examples"
    if "parts" in fields:
        shown["parts"] = "; ".join(f"{part['num_examples']} of {part['dataset']}" for part in fields["parts"])
    return shown


def _is_repo_id(text: str) -> bool:
    try:
        validate_repo_id(text)
    except ValueError:
        return False
    return text.isascii() and text.count("/") == 1


def _code(text: str) -> str:
    """A Markdown code span on one line, which text cannot break out of."""
    visible = "".join(c for c in text if c != "`" and (c.isprintable() or c.isspace()))
    return f"`{' '.join(visible.split()) or '-'}`"
