"""The VLMEvalKit recipe, on a stand-in with its three parts: the dictionary of models, a model, and run.py."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from corehead_hf import HeadMap
from corehead_hf.analysis.groups import count_from_gap
from corehead_hf.data import glyphs
from corehead_hf.demo import find_models

CONFIG = """
from functools import partial
from transformers import AutoModelForImageTextToText
from corehead_hf import load_processor

class Chat:
    def __init__(self, model_path, use_vllm=False):
        if not use_vllm:
            self.model = AutoModelForImageTextToText.from_pretrained(model_path, dtype="float32")
        self.processor = load_processor(model_path)

    def generate(self, message, dataset=None):
        content = [{"type": part["type"], "text": part["value"]} for part in message]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        from PIL import Image
        images = [Image.open(part["value"]) for part in message if part["type"] == "image"]
        inputs = self.processor(text=[text], images=images, return_tensors="pt")
        new = self.model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, inputs["input_ids"].shape[1]:]
        return self.processor.tokenizer.decode(new)

class Remote:
    pass

supported_VLM = {
    "Tiny": partial(Chat, model_path=FOLDER), "Fast": partial(Chat, model_path=FOLDER, use_vllm=True), "Remote": Remote
}
"""
RUN = """
import argparse, json
from pathlib import Path
from vlmeval.config import supported_VLM
parser = argparse.ArgumentParser()
parser.add_argument("--model", nargs="+")
parser.add_argument("--data", nargs="+")
parser.add_argument("--work-dir")
args = parser.parse_args()
for name in args.model:
    found = Path(args.work_dir, name, "glyphs.json")
    if not found.exists():  # as infer_data_job does
        model = supported_VLM[name]()
        answers = [model.generate(message=json.load(open(row)), dataset="glyphs").strip() for row in args.data]
        found.parent.mkdir(parents=True)
        found.write_text(json.dumps(answers))
    print(name, *json.loads(found.read_text()))
"""


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A folder like a checkout of VLMEvalKit, and rows of Glyphs as its messages."""
    (tmp_path / "vlmeval").mkdir()
    (tmp_path / "vlmeval" / "__init__.py").write_text("")
    (tmp_path / "vlmeval" / "config.py").write_text(f"FOLDER = {str(find_models()['qwen3_vl'])!r}\n{CONFIG}")
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "vlmeval"]:
        del sys.modules[name]


@pytest.fixture
def rows(tmp_path):
    found = []
    for example in glyphs.generate(3, seed=8, pages=5):
        message = []
        for number, page in enumerate(example.media):
            path = tmp_path / f"{example.id}-{number}.png"
            Image.fromarray(page).save(path)
            message.append({"type": "image", "value": str(path)})
        message.append({"type": "text", "value": example.question})
        (tmp_path / f"{example.id}.json").write_text(json.dumps(message))
        found.append((str(tmp_path / f"{example.id}.json"), example.answer))
    return found


def recipe():
    path = Path(__file__).parents[2] / "examples" / "12_vlmevalkit.py"
    spec = importlib.util.spec_from_file_location("vlmevalkit_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(kit, rows, capsys, *options, head_map=None):
    head_map = head_map or f"{find_models()['qwen3_vl']}-head-map"
    given = ["--base", "Tiny", "--head-map", head_map, "--sink-size", "4", "--window-size", "16", *options]
    recipe().main([str(kit), *given, "--", "--work-dir", str(kit / "outputs"), "--data", *(path for path, _ in rows)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("corehead-")]
    return line.split()


def test_its_model_answers_with_hybrid_prefill(kit, rows, capsys, tmp_path):
    head_map = HeadMap.from_pretrained(f"{find_models()['qwen3_vl']}-head-map")
    answers, keep = [answer for _, answer in rows], str(count_from_gap(head_map))
    name, *found = run(kit, rows, capsys, "--keep", keep)
    assert name.startswith(f"corehead-Tiny-keep{keep}-") and found == answers
    # The same number of the worst heads finds nothing: their map is turned upside down. Same folder of results.
    upside_down = dataclasses.replace(head_map, scores=head_map.scores.max() - head_map.scores, sums=None)
    upside_down.save_pretrained(tmp_path / "map")
    other, *found = run(kit, rows, capsys, "--keep", keep, head_map=str(tmp_path / "map"))
    assert other != name and found != answers
    # And what was found under a setting's own name is taken up.
    (tmp_path / "outputs" / name / "glyphs.json").write_text('["old"]')
    assert run(kit, rows, capsys, "--keep", keep) == [name, "old"]


def test_each_setting_has_a_name_of_its_own():
    one = {"base": "Tiny", "base_options": {}, "head_map": "m", "keep": 1, "sink_size": 4, "window_size": 16}
    others = [
        {},
        {"keep": 1.0},
        {"keep": 2},
        {"head_map": "n"},
        {"sink_size": 5},
        {"window_size": 17},
        {"base": "Fast"},
    ]
    others += [{"base_options": {"temperature": 0}}, {"base_options": {"temperature": 0, "top_k": 1}}]
    names = [recipe().run_name(SimpleNamespace(**{**one, **other})) for other in others]
    assert len(set(names)) == len(others)
    again = {**one, "base_options": {"top_k": 1, "temperature": 0}}
    assert recipe().run_name(SimpleNamespace(**again)) == names[-1]


def test_a_model_on_vllm_is_refused_and_can_be_moved_off_it(kit, rows, capsys):
    for given in (["--base", "Fast"], ["--base-options", '{"use_vllm": true}']):
        with pytest.raises(SystemExit) as refusal:
            run(kit, rows, capsys, "--keep", "1.0", *given)
        assert refusal.value.code == 2
        assert "add --base-options '{\"use_vllm\": false}'" in capsys.readouterr().err
    found = run(kit, rows, capsys, "--keep", "1.0", "--base", "Fast", "--base-options", '{"use_vllm": false}')
    assert found[0].startswith("corehead-Fast-keep1.0-") and found[1:] == [answer for _, answer in rows]


def test_what_holds_no_transformers_model_is_refused(kit, rows, capsys):
    with pytest.raises(ValueError, match=r"Remote holds no transformers model in \.model, but NoneType"):
        run(kit, rows, capsys, "--keep", "1.0", "--base", "Remote")


def test_an_unknown_base_is_refused(kit, capsys):
    with pytest.raises(SystemExit):
        recipe().main([str(kit), "--base", "Nobody", "--head-map", "h", "--keep", "1"])
    assert "--base Nobody is none of VLMEvalKit's 3 models" in capsys.readouterr().err
