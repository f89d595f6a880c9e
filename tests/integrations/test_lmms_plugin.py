"""The plugin as lmms-eval sees it, with a stand-in for the few names it takes from there.

tests/integrations/lmms_eval/run.sh runs the same against the real one.
"""

import configparser
import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from corehead_hf.data import glyphs
from corehead_hf.demo import find_models

SHORT = {"max_new_tokens": 2, "temperature": 0, "until": ["\n\n"]}
LONG = {**SHORT, "max_new_tokens": 3}


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple = ()


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


class Base:
    """lmms_eval.api.model.lmms as of 0.7.3, as far as it is used."""

    is_simple = True

    def __init__(self):
        self.task_dict = {}
        self.cached = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *call: self.cached.append(call))

    def clean(self):
        self.cleaned = True


@pytest.fixture
def harness(monkeypatch):
    """Modules named as in lmms-eval; its log of metrics."""
    logged = []
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.models.model_utils.gen_metrics": {"log_metrics": lambda *a, **k: logged.append((a, k))},
    }
    for name, content in names.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "corehead_hf.integrations._lmms", raising=False)
    yield logged
    sys.modules.pop("corehead_hf.integrations._lmms", None)


@pytest.fixture
def core_head(harness):
    return importlib.import_module("corehead_hf.integrations._lmms").CoreHead


def entry_point():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    (line,) = config["options.entry_points"]["lmms_eval.models"].split("\n")[1:]
    return line.split(" = ")


def test_the_entry_point_leads_to_the_class(harness):
    name, target = entry_point()
    module, function = target.split(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert (name, manifest.model_id, manifest.aliases) == ("corehead", "corehead", ("corehead_hf",))
    assert manifest.simple_class_path is None
    module, class_name = manifest.chat_class_path.rsplit(".", 1)
    found = getattr(importlib.import_module(module), class_name)
    assert issubclass(found, Base) and found.is_simple is False


def test_the_manifest_imports_no_model_code(harness):
    from corehead_hf.integrations.lmms_eval import manifest

    manifest()
    assert "corehead_hf.integrations._lmms" not in sys.modules


def test_without_lmms_eval_it_says_what_is_missing(monkeypatch):
    from corehead_hf.integrations.lmms_eval import manifest

    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ImportError, match="lmms_eval"):
        manifest()


def rows():
    """Rows of two lengths, short and long by turns."""
    short, long = (list(glyphs.generate(2, seed=5, pages=pages)) for pages in (3, 5))
    return [example for pair in zip(short, long, strict=True) for example in pair]


def to_messages(row):
    pictures = [{"type": "image", "url": Image.fromarray(page)} for page in row.media]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": row.question}]}]


def requests(asked, to_messages=to_messages):
    """As ConfigurableMessagesTask.construct_requests makes them."""
    return [SimpleNamespace(args=("ctx", to_messages, dict(how), i, "glyphs", "test")) for i, how in enumerate(asked)]


def made(core_head, **given):
    model = core_head(pretrained=str(find_models()["qwen3_vl"]), dtype="float32", **given)
    model.task_dict = {"glyphs": {"test": rows()}}
    return model


def test_answers_come_back_in_order_however_they_are_batched(core_head, harness):
    expected = [row.answer for row in rows()]
    assert len(set(expected)) > 2
    model = made(core_head, batch_size="2")
    # Two kinds of requests by turns: each batch is of one kind.
    found = model.generate_until(requests([SHORT, LONG, SHORT, LONG]))
    assert [result.text.strip() for result in found] == expected
    assert [result.token_counts.output_tokens for result in found] == [2] * 4
    assert found[0].token_counts.input_tokens < found[1].token_counts.input_tokens
    assert sorted(call[2] for call in model.cached) == sorted(result.text for result in found)
    ((seconds, tokens, speed), _), *more = harness
    assert not more and tokens == 8 and seconds > 0 and speed == tokens / seconds


def test_batches_hold_requests_of_one_kind(core_head):
    batches = sys.modules[core_head.__module__]._batches
    assert list(batches(requests([SHORT, LONG, SHORT, SHORT, LONG]), 2)) == [[0, 2], [3], [1, 4]]


def test_what_is_switched_on_is_on(core_head):
    folder = find_models()["qwen3_vl"]
    model = made(core_head, head_map=f"{folder}-head-map", keep=1, sink_size=4, window_size=16)
    assert int(model.model.hybrid.heads.sum()) == 1
    assert model.tokenizer is model.answerer.processor.tokenizer and model.device.type == "cpu"
    model.clean()
    assert not hasattr(model, "answerer") and model.cleaned


def test_an_unknown_argument_is_refused(core_head):
    with pytest.raises(ValueError, match="headmap are unknown - known are pretrained, "):
        made(core_head, headmap="x")


@pytest.mark.parametrize("on_error", ["raise", "empty"])
def test_a_broken_row(core_head, harness, caplog, on_error):
    def broken(row):
        if row is model.task_dict["glyphs"]["test"][2]:
            return [{"role": "user", "content": [{"type": "image", "url": "none.png"}, {"type": "text", "text": "?"}]}]
        return to_messages(row)

    model = made(core_head, on_error=on_error, batch_size=2)
    if on_error == "raise":
        with pytest.raises(ValueError, match=r"none.png does not exist"):
            model.generate_until(requests([SHORT] * 4, broken))
        return
    found = [result.text.strip() for result in model.generate_until(requests([SHORT] * 4, broken))]
    expected = [row.answer for row in rows()]
    assert found == [*expected[:2], "", expected[3]]
    assert "glyphs, test 2 is answered by an empty text: the image none.png" in caplog.text
    assert "1 of 4 prompts failed" in caplog.text
    assert harness[0][1] == {"additional_metrics": {"failed": 1}}


@pytest.mark.parametrize("given_up", [SystemExit("video path: v.mp4 does not exist"), FileNotFoundError("no v.mp4")])
@pytest.mark.parametrize("on_error", ["raise", "empty"])
def test_a_task_that_gives_up_on_a_row(core_head, harness, caplog, given_up, on_error):
    def no_video(row):
        if row is model.task_dict["glyphs"]["test"][1]:
            raise given_up
        return to_messages(row)

    model = made(core_head, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(type(given_up)):
            model.generate_until(requests([SHORT] * 3, no_video))
        return
    found = [result.text.strip() for result in model.generate_until(requests([SHORT] * 3, no_video))]
    assert found == [rows()[0].answer, "", rows()[2].answer]
    assert f"glyphs, test 1 is answered by an empty text: {given_up}" in caplog.text
    assert harness[0][1] == {"additional_metrics": {"failed": 1}}


def test_frames_and_system_prompt_reach_the_prompt(core_head):
    model = made(core_head, max_frames=3, fps=0.5, system_prompt="Be short.")
    assert (model.frames.most, model.frames.fps) == (3, 0.5)
    message, *_ = model._conversation(requests([SHORT])[0]).messages
    assert message == {"role": "system", "content": [{"type": "text", "text": "Be short."}]}


def test_failures_of_another_task_are_not_counted_again(core_head, harness):
    model = made(core_head)
    model.answerer.num_failed = 5
    model.generate_until(requests([SHORT]))
    assert harness[0][1] == {"additional_metrics": {"failed": 0}}


def test_each_process_has_a_device_of_its_own(core_head):
    own_device = sys.modules[core_head.__module__]._own_device
    several = SimpleNamespace(num_processes=2, device=torch.device("cuda", 1))
    given = {"device": None, "device_map": None}
    for device in (None, "cuda"):
        assert own_device(SimpleNamespace(**{**given, "device": device}), several) == torch.device("cuda", 1)
    for wrong in ({"device": "cuda:0"}, {"device": "cpu"}, {"device_map": "auto"}):
        with pytest.raises(ValueError, match="2 processes"):
            own_device(SimpleNamespace(**{**given, **wrong}), several)
    alone = SimpleNamespace(num_processes=1, device=torch.device("cuda", 0))
    assert own_device(SimpleNamespace(**given), alone) == torch.device("cuda", 0)
    assert own_device(SimpleNamespace(**{**given, "device": "cpu"}), alone) == torch.device("cpu")


def test_other_kinds_of_tasks_are_refused(core_head):
    model = made(core_head)
    for refuse in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until task"):
            refuse([])
