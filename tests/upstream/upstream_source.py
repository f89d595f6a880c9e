"""transformers' own test mixins, imported from an unpacked source distribution or a checkout of its repository."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

PACKAGE = "transformers_tests"
# What test_modeling_common.py imports beside itself. A source distribution has none of these, a checkout has them all.
_BESIDE = {"generation.test_utils": "GenerationTesterMixin", "exporters.test_export": "ExportTesterMixin"}
_OPTIONAL = {"test_training_mixin": "TrainingTesterMixin"}  # from transformers 5.0


def mixins_of(folder: Path) -> dict[str, type]:
    """Mixin name -> class, of all mixins that the folder's tests/ has; ModelTesterMixin is always there.

    Raises:
        FileNotFoundError: the folder is no transformers source.
    """
    tests = folder / "tests"
    if not (tests / "test_modeling_common.py").is_file():
        raise FileNotFoundError(
            f"{tests} was given as transformers' tests - it has no test_modeling_common.py - unpack the source "
            "distribution (pip download --no-binary :all: --no-deps transformers==VERSION) or clone the repository."
        )
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(tests)]
    sys.modules[PACKAGE] = package
    present = {}
    for module, name in _BESIDE.items():
        if (tests / f"{module.replace('.', '/')}.py").is_file():
            present[module] = name
        else:
            _stand_in(module, name)
    present["test_modeling_common"] = "ModelTesterMixin"
    present |= {module: name for module, name in _OPTIONAL.items() if (tests / f"{module}.py").is_file()}
    return {name: getattr(importlib.import_module(f"{PACKAGE}.{module}"), name) for module, name in present.items()}


def _stand_in(module: str, name: str) -> None:
    """An empty mixin, so that the import of a file that is not there succeeds."""
    outer, inner = f"{PACKAGE}.{module.split('.')[0]}", f"{PACKAGE}.{module}"
    sys.modules.setdefault(outer, types.ModuleType(outer))
    sys.modules[inner] = types.ModuleType(inner)
    setattr(sys.modules[inner], name, type(name, (), {}))
