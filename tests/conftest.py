"""What every test file shares: no network, fixtures over the supported variants, marker handling."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it
# what `corehead autotune` once measured on this machine is no part of the tests
os.environ["HF_ASSETS_CACHE"] = str(Path(__file__).parent / "no_such_folder")

import importlib.util
import sys

import pytest
import torch


def make_torchvision_importable():
    """Load torchvision also beside a CPU torch: a CUDA build of it lacks only the schemas of two operators there."""
    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        return library  # the schemas live as long as this object


if not torch.cuda.is_available():  # before triton, which torchvision imports: kernels then run interpreted, on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

if importlib.util.find_spec("torchvision"):  # before transformers imports it
    TORCHVISION_OPERATORS = make_torchvision_importable()

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side share the cores
    torch.set_num_threads(1)

import transformers  # noqa: E402
from compatibility_matrix import (  # noqa: E402, F401
    cell,
    pytest_addoption,
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)
from tiny_models import VARIANTS, build  # noqa: E402

ROOT = Path(__file__).parent.parent
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(params=["qwen3_vl", "llava_onevision", "internvl_qwen3"])
def family(request):
    """One variant of each family, for what does not depend on the text tower."""
    return request.param


@pytest.fixture
def native(variant):
    """A native model of each variant."""
    return build(variant)


@pytest.fixture
def wrapped(native):
    """A model of each variant with CoRe installed."""
    from corehead_hf import AutoCoReModel

    return AutoCoReModel.from_model(native)


@pytest.fixture
def model():
    """One wrapped model, for what does not depend on the family."""
    from corehead_hf import AutoCoReModel

    return AutoCoReModel.from_model(build("qwen3_vl"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint(family): folder with the processor files and configuration of a tiny Glyphs checkpoint."""
    sys.path.insert(0, str(ROOT / "examples"))
    from glyphs_checkpoint import RECIPES, write_checkpoint

    sys.path.remove(str(ROOT / "examples"))
    folders = {}

    def folder_of(family):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            write_checkpoint(RECIPES[family], folders[family])
        return folders[family]

    return folder_of
