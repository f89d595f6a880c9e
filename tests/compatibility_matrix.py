"""The compatibility matrix: which tests prove which cell of COMPATIBILITY.md, and whether it still says the truth.

A test marked `@pytest.mark.compatibility(section, feature)` that runs over the fixture `variant` or `family` fills one
cell per family and transformers version. What it found is compared with the committed cells of that version, test by
test, so a feature that stops working, and a refusal that is no longer needed, fail. `pytest --write-compatibility`
writes the cells of the installed version anew; `python tests/compatibility/render.py` makes COMPATIBILITY.md and the
README's section of them.
"""

import contextlib
import json
import re
from pathlib import Path

import pytest
import transformers

CELLS = Path(__file__).parent / "compatibility" / "cells"
OLDER = ("4.57.6", "5.0.0")  # every other version is held against newest.json
FAMILY_OF = {
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL",
    "llava_onevision": "LLaVA-OneVision",
    "internvl_qwen2": "InternVL",
    "internvl_qwen3": "InternVL",
    "internvl_qwen3_moe": "InternVL",
}
WORKS = {"status": "works"}


def cells_file():
    """The cells that the installed transformers is held against."""
    return CELLS / f"{transformers.__version__ if transformers.__version__ in OLDER else 'newest'}.json"


def one_sentence(text):
    """The first sentence of a message, without what differs from run to run."""
    text = re.sub(r"/\S*/", "", re.sub(r"0x[0-9a-f]+", "0x", " ".join(str(text).split())))
    return re.split(r"(?<=[.!?])\s", text)[0][:240]


class Cell:
    """What one marked test finds: works, unless it says otherwise."""

    def __init__(self):
        self.found = dict(WORKS)

    @contextlib.contextmanager
    def refused(self, error, match):
        """Inside the block corehead_hf refuses with this error; its first sentence goes into the matrix."""
        with pytest.raises(error, match=match) as caught:
            yield
        self.found = {"status": "refused", "why": f"{caught.type.__name__}: {one_sentence(caught.value)}"}

    @contextlib.contextmanager
    def upstream(self, error, match=None):
        """Inside the block the native model, without corehead_hf, fails with this error."""
        with pytest.raises(error, match=match) as caught:
            yield
        self.found = {"status": "upstream", "why": f"{caught.type.__name__}: {one_sentence(caught.value)}"}

    def unsupported(self, why):
        """The library in question has no such feature, or fails by chance (a race): said, not run."""
        self.found = {"status": "upstream", "why": why}


@pytest.fixture
def cell(request):
    """The cell of a test marked `compatibility`, for what does not simply work."""
    assert request.node.get_closest_marker("compatibility"), "mark it: @pytest.mark.compatibility(section, feature)"
    request.node.compatibility_cell = Cell()
    return request.node.compatibility_cell


def entry_of(item):
    """(test id, its entry) of a marked test, or None."""
    marker = item.get_closest_marker("compatibility")
    if marker is None:
        return None
    section, feature = marker.args
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    variant = parameters.get("variant", parameters.get("family", marker.kwargs.get("variant")))
    assert variant in FAMILY_OF, f"{item.nodeid} is marked compatibility and runs over neither variant nor family"
    found = getattr(item, "compatibility_cell", Cell()).found
    name = item.nodeid.rpartition("tests/")[2]
    return name, {"section": section, "feature": feature, "family": FAMILY_OF[variant], "variant": variant, **found}


def pytest_addoption(parser):
    parser.addoption(
        "--write-compatibility", action="store_true", help="write what the marked tests find as the committed cells"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    found = entry_of(item)
    if found is None or report.when != "call" or report.outcome != "passed":
        return
    if item.config.getoption("--write-compatibility"):
        report.user_properties.append(("compatibility", found))
        return
    name, entry = found
    file = cells_file()
    kept = json.loads(file.read_text(encoding="utf-8"))["cells"].get(name) if file.exists() else None
    if kept != entry:
        report.outcome = "failed"
        report.longrepr = (
            f"{name} found {entry}; {file.name} says {kept}. If that is right, run pytest "
            "--write-compatibility on this version, then python tests/compatibility/render.py."
        )


_written = {}


def pytest_runtest_logreport(report):
    _written.update(dict(value for name, value in report.user_properties if name == "compatibility"))


def pytest_sessionfinish(session):
    if not _written or hasattr(session.config, "workerinput"):
        return
    file = cells_file()
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else {}
    cells = {name: entry for name, entry in {**cells, **_written}.items() if is_a_test(name)}
    kept = {"transformers": transformers.__version__, "cells": dict(sorted(cells.items()))}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def is_a_test(name):
    """Whether a marked test of this id still stands in its file."""
    path, _, test = name.partition("::")
    file = CELLS.parent.parent / path
    return file.exists() and f"def {test.partition('[')[0].rpartition('::')[2]}(" in file.read_text(encoding="utf-8")
