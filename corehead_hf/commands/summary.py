"""What a head map says, for the verbs that end with one."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.tables import printable

if TYPE_CHECKING:
    from corehead_hf.head_map import HeadMap

_PROVENANCE = (
    "base_model_name_or_path",
    "base_model_revision",
    "model_type",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "dataset",
    "num_examples",
    "num_skipped",
    "question_rule",
    "view_rule",
    "score_rule",
    "versions",
    "chance",
)


def summary(head_map: HeadMap, top: int) -> str:
    """A head map's data, chance level, and the heads at the top, as lines of text."""
    rule = [] if head_map.score_rule is None else [f"scores: {head_map.score_rule}"]
    facts = [f"skipped {head_map.num_skipped}"] if head_map.num_skipped is not None else []
    if head_map.chance is not None:
        facts.append(f"chance level {head_map.chance:.4f}")
    if head_map.convergence:
        facts.append(_converged(head_map))
    return "\n".join([repr(head_map), *rule, *([", ".join(facts)] if facts else []), *top_heads(head_map, top)])


def top_heads(head_map: HeadMap, top: int) -> list[str]:
    """The heads at the top, a line each."""
    title = "" if head_map.chance is None else f"{'lift':>8}"
    lines = [f"{'rank':>5}{'layer':>7}{'head':>6}{score_name(head_map):>9}{'std':>9}{title}"]
    for rank, (layer, head) in enumerate(head_map.ranking()[:top].tolist(), 1):
        score, spread = float(head_map.scores[layer, head]), float(head_map.spread[layer, head])
        lift = "" if head_map.chance is None else f"{float(head_map.lift[layer, head]):>8.1f}"
        lines.append(f"{rank:>5}{layer:>7}{head:>6}{score:>9.4f}{spread:>9.4f}{lift}")
    return lines


def score_name(head_map: HeadMap) -> str:
    """RAM; vision of a map measured with target="visual"; score of an imported one."""
    from corehead_hf.families.geometry import VISUAL_RULE

    if head_map.score_rule is not None:
        return "score"
    return "vision" if head_map.view_rule == VISUAL_RULE else "RAM"


def provenance(head_map: HeadMap, width: int) -> list[str]:
    """Where a head map comes from, a fact a line, wrapped to `width` characters."""
    skipped = "" if head_map.num_skipped is None else f", {head_map.num_skipped} skipped"
    facts = {
        "model": f"{head_map.base_model_name_or_path} ({head_map.model_type})",
        "revision": head_map.base_model_revision or "none (a local model)",
        "heads": f"{head_map.num_layers} layers x {head_map.num_heads} query heads, {head_map.num_kv_heads} kv heads, "
        f"head_dim {head_map.head_dim}",
        "data": f"{head_map.num_examples} examples of {head_map.dataset}{skipped}",
        **({} if head_map.score_rule is None else {"scores": head_map.score_rule}),
        "evidence": head_map.view_rule,
        "question": head_map.question_rule,
        "chance": "unknown" if head_map.chance is None else f"{head_map.chance:.4f}; lift = score / chance level",
        "converged": _converged(head_map) if head_map.convergence else "unknown",
        "measured by": ", ".join(f"{package} {version}" for package, version in sorted(head_map.versions.items())),
    }
    if head_map.parts is not None:
        facts["merged from"] = "; ".join(f"{part['num_examples']} of {part['dataset']}" for part in head_map.parts)
    names = max(map(len, facts)) + 2
    wrapping = textwrap.TextWrapper(max(width, names + 12), subsequent_indent=" " * names)
    return [line for name, fact in facts.items() for line in wrapping.wrap(f"{name:<{names}}{printable(fact)}")]


def summary_data(head_map: HeadMap, top: int) -> dict[str, Any]:
    """The same as JSON values."""
    heads = [
        {
            "rank": rank,
            "layer": layer,
            "head": head,
            "ram": float(head_map.scores[layer, head]),
            "std": float(head_map.spread[layer, head]),
        }
        for rank, (layer, head) in enumerate(head_map.ranking()[:top].tolist(), 1)
    ]
    return {**{name: getattr(head_map, name) for name in _PROVENANCE}, "top": heads}


def _converged(head_map: HeadMap) -> str:
    assert head_map.convergence
    count, rho = head_map.convergence[-1]
    return f"Spearman {rho:.4f} between the rankings of {count} and {count // 2} examples"
