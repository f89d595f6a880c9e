"""The provenance that a page states."""

from __future__ import annotations

from typing import Any

from corehead_hf.families import Prepared
from corehead_hf.families.geometry import NO_PLACE
from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.fields import model_shape, public_name
from corehead_hf.measuring.fingerprint import package_versions


def model_name(native: Any, head_map: HeadMap | None) -> str:
    """Hub id of a model or the name of its folder; of one without a name, that of the head map or the model's type."""
    name = public_name(native.config._name_or_path)
    return name or (native.config.model_type if head_map is None else head_map.base_model_name_or_path)


def provenance(
    native: Any,
    head_map: HeadMap | None,
    prepared: Prepared,
    *,
    dataset: str | None,
    view_rule: str,
    chance: float,
) -> tuple[tuple[str, str], ...]:
    """(name, value) of the model, the example and the head map, in the order in which they are shown."""
    shape, example = model_shape(native.config), prepared.examples[0]
    heads = f"{shape['num_layers']} layers x {shape['num_heads']} query heads"
    kept = [int(mask[0].sum()) for mask in (prepared.visual_mask, prepared.evidence_mask, prepared.question_mask)]
    placeless = sum(int((tokens.views == NO_PLACE).sum()) for tokens in prepared.geometry[0])
    facts = {
        "Model": model_name(native, head_map),
        "Model type": shape["model_type"],
        "Heads": f"{heads}, {shape['num_kv_heads']} key/value heads, head_dim {shape['head_dim']}",
        "Computed in": str(native.dtype).removeprefix("torch."),
        "Example": example.id if dataset is None else f"{example.id} of {dataset}",
        "Tokens": f"{prepared.visual_mask.shape[1]} in the prompt, {kept[0]} visual, {kept[1]} evidence, "
        f"{kept[2]} of the question",
        "Not painted": f"{placeless} visual tokens that show no part of a picture (newlines, padding)",
        "Evidence rule": view_rule,
        "Chance level": f"{chance:.6f}, the RAM of a head that attends to all it may see alike; lift = RAM / chance",
        "Versions": _versions(package_versions()),
    }
    if not placeless:
        del facts["Not painted"]
    if head_map is None:
        return (*facts.items(), ("Ranked by", "RAM on this example"))
    measured = {
        "Ranked by": f"head map of {head_map.base_model_name_or_path}",
        "Revision": head_map.base_model_revision or "none (a local model)",
        "Measured on": f"{head_map.num_examples} examples of {head_map.dataset}",
        "Question rule": head_map.question_rule,
        "Map's evidence rule": head_map.view_rule,
        "Map's chance level": "unknown" if head_map.chance is None else f"{head_map.chance:.6f}",
        "Map's versions": _versions(head_map.versions),
    }
    return (*facts.items(), *measured.items())


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in sorted(versions.items()))
