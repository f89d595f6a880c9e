"""The public names, and that importing them changes nothing in the process."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import corehead_hf

ROOT = Path(__file__).parent.parent
NAMES = [
    "AutoCoReModel",
    "CoReModelMixin",
    "Evidence",
    "Example",
    "HeadMap",
    "HeadMapError",
    "HeadMapFormatError",
    "Video",
    "__version__",
    "load_processor",
    "measure",
]
METHODS = {
    "ablate_heads",
    "disable_hybrid",
    "enable_hybrid",
    "head_map",
    "hybrid",
    "hybrid_backend",
    "load_head_map",
    "prefill",
    "record_attention",
    "record_outputs",
    "uninstall_core",
}


def test_the_list_of_public_names():
    assert sorted(corehead_hf.__all__) == NAMES == dir(corehead_hf)
    assert len(NAMES) <= 12, "a public name is a promise; take one out before adding another"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_public_name_is_documented(name):
    thing = getattr(corehead_hf, name)
    assert thing.__module__.startswith("corehead_hf.")
    assert inspect.getdoc(thing), f"{name} has no docstring"
    assert name in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md does not mention {name}"


def test_methods_of_a_wrapped_model_are_documented():
    public = {name for name in vars(corehead_hf.CoReModelMixin) if not name.startswith("_")}
    assert public == METHODS
    for name in public:
        assert inspect.getdoc(inspect.getattr_static(corehead_hf.CoReModelMixin, name)), f"{name} has no docstring"


def test_version_is_a_release():
    assert all(part.isdigit() for part in corehead_hf.__version__.split("."))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        corehead_hf.no_such_name  # noqa: B018


PROBE = """
import sys, torch, transformers
before = set(sys.modules)
import corehead_hf
new = set(sys.modules) - before
assert all(name.split(".")[0] == "corehead_hf" for name in new), sorted(new)
assert not any(name.startswith("transformers.modeling_utils") for name in new | before)
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
def names():
    return set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)
registered = names()
import corehead_hf.auto, corehead_hf.detection, corehead_hf.modes
assert names() == registered, "importing registers something"
assert "corehead" not in registered[0] | registered[1]
"""


def test_importing_changes_nothing_in_the_process():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
