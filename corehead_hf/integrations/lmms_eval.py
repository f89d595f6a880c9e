"""What lmms-eval reads through the entry point group `lmms_eval.models`: `lmms-eval eval --model corehead`.

Imported while lmms_eval.models itself is being imported, and an error here would take every other plugin away with a
mere warning: so it imports nothing but the registry, and the model class is named, not imported.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The lmms_eval.models.registry_v2.ModelManifest of CoRe-wrapped models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="corehead",
        chat_class_path="corehead_hf.integrations._lmms.CoreHead",
        aliases=("corehead_hf",),
    )
