"""tests/upstream/run_upstream.py on a small source tree of our own: what it counts, finds lost, and refuses."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import transformers

RUNNER = Path(__file__).parent / "upstream" / "run_upstream.py"
# A mixin as transformers writes them, with a test for every way in which a wrapped model may be told from a native one.
MIXIN = """
import pytest
import torch
from .generation.test_utils import GenerationTesterMixin
from .exporters.test_export import ExportTesterMixin


class ModelTesterMixin(ExportTesterMixin):
    def test_runs(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            assert torch.isfinite(model_class(config).eval()(**inputs).logits).all()

    def test_is_native(self):
        for model_class in self.all_model_classes:
            assert not hasattr(model_class(self.model_tester.get_config()), "core_state"), "not native"

    def test_loads_native(self):
        import tempfile
        for model_class in self.all_model_classes:
            with tempfile.TemporaryDirectory() as folder:
                model_class(self.model_tester.get_config()).save_pretrained(folder)
                assert not hasattr(model_class.from_pretrained(folder), "core_state"), "not native"

    def test_hybrid_is_off(self):
        for model_class in self.all_model_classes:
            assert getattr(model_class(self.model_tester.get_config()), "hybrid", None) is None, "hybrid is on"

    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                assert number < 2, "a subtest"

    def test_fails_anyway(self):
        raise ValueError("fails natively")

    @pytest.mark.skip(reason="never")
    def test_is_skipped(self):
        raise AssertionError
"""


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_upstream", RUNNER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_upstream"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    (folder / "src" / "transformers").mkdir(parents=True)
    (folder / "src" / "transformers" / "__init__.py").write_text(f'__version__ = "{transformers.__version__}"\n')
    (folder / "tests").mkdir()
    (folder / "tests" / "test_modeling_common.py").write_text(MIXIN)
    return folder


@pytest.fixture(scope="module")
def runs(runner, source):
    return {name: runner.run_tests(source, "qwen3_vl", name, None) for name in ("native", "streaming")}


def test_native_models_stay_native(runs):
    native = runs["native"]
    counts = [native.count(outcome) for outcome in ("passed", "failed", "skipped")]
    assert (counts, native.subtests) == ([4, 2, 1], 2)
    assert set(native.reasons) == {"test_fails_anyway", "test_subtests"}
    assert "fails natively" in native.reasons["test_fails_anyway"]


def test_others_are_wrapped_however_they_come_and_hybrid_is_on(runs):
    lost = runs["streaming"].lost(runs["native"])
    assert set(lost) == {"test_is_native", "test_loads_native", "test_hybrid_is_off"}
    assert "not native" in lost["test_loads_native"] and "hybrid is on" in lost["test_hybrid_is_off"]


def test_a_lost_test_counts_unless_it_is_expected(runner, runs, capsys, monkeypatch):
    both = {"qwen3_vl": runs}
    monkeypatch.setattr(runner, "EXPECTED", ((".*_native", ("wrapped",), "another condition"),))
    assert runner.tell(both) == 3
    monkeypatch.setattr(runner, "EXPECTED", ((".*_native", ("streaming",), "wrapped models are not native"),))
    capsys.readouterr()
    assert runner.tell(both) == 1
    shown = capsys.readouterr().out
    assert "| qwen3_vl | streaming | 1 | 5 | 1 | 2 | 3 | 2 |" in shown
    assert "test_is_native: expected: wrapped models are not native" in shown and "test_hybrid_is_off: Asser" in shown
    assert "test_hybrid_is_off" in runner.summary(both)["qwen3_vl"]["streaming"]["lost"]


def test_the_source_must_be_that_of_the_installed_version(runner, source, capsys, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "0.0.1")
    with pytest.raises(SystemExit):
        runner.main([str(source)])
    assert "installed is 0.0.1" in capsys.readouterr().err


def test_the_sources_real_mixins_are_used_where_it_has_them(source, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RUNNER.parent))
    from upstream_source import PACKAGE, mixins_of

    with pytest.raises(FileNotFoundError, match="no test_modeling_common.py"):
        mixins_of(tmp_path)
    for name in ("generation/test_utils.py", "exporters/test_export.py", "test_modeling_common.py"):
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "tests" / "test_modeling_common.py").write_text("class ModelTesterMixin: ...\n")
    (tmp_path / "tests" / "generation" / "test_utils.py").write_text("class GenerationTesterMixin: ...\n")
    loaded = set(sys.modules)
    try:
        assert list(mixins_of(tmp_path)) == ["GenerationTesterMixin", "ModelTesterMixin"]
    finally:
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] == PACKAGE:
                del sys.modules[name]


def test_plain_pytest_collects_nothing_there():
    assert not [name for name in os.listdir(RUNNER.parent) if name.startswith("test_")]
