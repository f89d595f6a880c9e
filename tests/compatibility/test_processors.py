"""load_processor: saved, copied and pickled like a native processor, also where torchvision is missing."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

from corehead_hf import load_processor, processor
from corehead_hf.families import FAMILIES

SECTION = "Around the model"
VIDEO_FILE = "video_preprocessor_config.json"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]}]


@pytest.fixture
def folder(checkpoint, family):
    return checkpoint("internvl" if family.startswith("internvl") else family)


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(processor, "is_torchvision_available", lambda: False)


def native_class(family):
    return getattr(transformers, FAMILIES["internvl" if family.startswith("internvl") else family].processor_class)


def prepared(found):
    """What a processor makes of two pictures and a question."""
    pictures = list(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8))
    text = found.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    return found(text=[text], images=[pictures], return_tensors="pt")


def assert_same(found, expected):
    assert type(found).__name__ == type(expected).__name__
    first, second = prepared(found), prepared(expected)
    assert set(first) == set(second)
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first)


@pytest.mark.compatibility(SECTION, "processor: save_pretrained, without torchvision as well")
def test_a_processor_is_saved_and_loaded(folder, family, tmp_path, without_torchvision):
    """Also twice in a row; the video settings, which nothing could read, come out as they went in."""
    original = load_processor(folder)
    assert original.video_processor is None
    saved = original
    for name in ("once", "twice"):
        written = saved.save_pretrained(tmp_path / name)
        assert not [file for file in map(str, written) if VIDEO_FILE in file]
        shutil.copy(folder / "config.json", tmp_path / name)
        settings = json.loads((tmp_path / name / VIDEO_FILE).read_text())
        assert settings == json.loads((folder / VIDEO_FILE).read_text())
        saved = load_processor(tmp_path / name)
        assert isinstance(saved, native_class(family))
        assert_same(saved, original)


@pytest.mark.compatibility(SECTION, "processor: deepcopy and pickle")
def test_a_processor_is_copied(folder, family, without_torchvision):
    """A data loader's workers and dataset.map get it pickled."""
    original = load_processor(folder)
    for found in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert type(found) is type(original)
        assert_same(found, original)
        assert found.core_video_settings == original.core_video_settings
        assert json.loads(found.to_json_string())["processor_class"] == native_class(family).__name__


def test_settings_nested_by_transformers_5_are_kept(checkpoint, tmp_path, without_torchvision):
    """processor_config.json of transformers 5 holds the video settings, and then there is no file of their own."""
    shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "nested")
    settings = {**json.loads((tmp_path / "nested" / VIDEO_FILE).read_text()), "merge_size": 4}
    (tmp_path / "nested" / VIDEO_FILE).unlink()
    main = {"processor_class": "Qwen3VLProcessor", "video_processor": settings}
    (tmp_path / "nested" / "processor_config.json").write_text(json.dumps(main))
    load_processor(tmp_path / "nested").save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / VIDEO_FILE).read_text()) == settings


def test_a_checkpoint_without_video_settings_gets_none(checkpoint, tmp_path, without_torchvision):
    shutil.copytree(checkpoint("internvl"), tmp_path / "pictures")
    (tmp_path / "pictures" / VIDEO_FILE).unlink()
    found = load_processor(tmp_path / "pictures")
    assert found.core_video_settings is None
    found.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / VIDEO_FILE).exists()


def test_pushing_uploads_the_video_settings_as_well(checkpoint, tmp_path, without_torchvision, monkeypatch):
    """save_pretrained(push_to_hub=True) hands over to push_to_hub, which saves into a folder of its own."""
    found, asked = load_processor(checkpoint("qwen3_vl")), []
    monkeypatch.setattr(type(found), "push_to_hub", lambda self, *args, **options: asked.append((args, options)))
    found.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
    found.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="you/mine")
    assert asked == [(("mine",), {"private": True}), (("you/mine",), {})]
    assert (tmp_path / "mine" / VIDEO_FILE).exists()


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision, which video processors need, is not installed")
def test_what_was_saved_without_torchvision_loads_with_it(folder, tmp_path, monkeypatch):
    """The native loader finds all three parts, with the settings of the checkpoint that was loaded first."""
    expected = AutoProcessor.from_pretrained(folder)
    with monkeypatch.context() as patch:
        patch.setattr(processor, "is_torchvision_available", lambda: False)
        load_processor(folder).save_pretrained(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    found = AutoProcessor.from_pretrained(tmp_path)
    assert found.video_processor.to_dict() == expected.video_processor.to_dict()
    assert_same(found, expected)
