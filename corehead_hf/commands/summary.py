"""What a head map says, for the verbs that end with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corehead_hf.head_map import HeadMap


def summary(head_map: HeadMap, top: int) -> str:
    """A head map's data, chance level, and the heads at the top, as lines of text."""
    lines = [repr(head_map), *([] if head_map.score_rule is None else [f"scores: {head_map.score_rule}"])]
    facts = [f"skipped {head_map.num_skipped}"] if head_map.num_skipped is not None else []
    if head_map.chance is not None:
        facts.append(f"chance level {head_map.chance:.4f}")
    if head_map.convergence:
        count, rho = head_map.convergence[-1]
        facts.append(f"Spearman {rho:.4f} between the rankings of {count} and {count // 2} examples")
    lines += [", ".join(facts)] if facts else []
    title = "" if head_map.chance is None else f"{'lift':>8}"
    lines.append(
        f"{'rank':>5}{'layer':>7}{'head':>6}{'RAM' if head_map.score_rule is None else 'score':>9}{'std':>9}{title}"
    )
    for rank, (layer, head) in enumerate(head_map.ranking()[:top].tolist(), 1):
        score, spread = float(head_map.scores[layer, head]), float(head_map.spread[layer, head])
        lift = "" if head_map.chance is None else f"{float(head_map.lift[layer, head]):>8.1f}"
        lines.append(f"{rank:>5}{layer:>7}{head:>6}{score:>9.4f}{spread:>9.4f}{lift}")
    return "\n".join(lines)


def summary_data(head_map: HeadMap, top: int) -> dict[str, Any]:
    """The same as JSON values."""
    names = ("base_model_name_or_path", "base_model_revision", "model_type", "num_layers", "num_heads", "num_kv_heads")
    more = (
        "head_dim",
        "dataset",
        "num_examples",
        "num_skipped",
        "question_rule",
        "view_rule",
        "score_rule",
        "versions",
    )
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
    return {**{name: getattr(head_map, name) for name in (*names, *more, "chance")}, "top": heads}
