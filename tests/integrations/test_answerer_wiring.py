"""Each model argument reaches what it is for, and is refused where that cannot be: what reading them cannot see."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from corehead_hf import HeadMap, load_processor
from corehead_hf.demo import find_models
from corehead_hf.families import family_of_config
from corehead_hf.integrations import answerer as module
from corehead_hf.integrations.answerer import Answerer, set_picture_sizes
from corehead_hf.integrations.arguments import ModelArguments


@pytest.fixture
def seen(monkeypatch):
    """What the loaders and enable_hybrid are given; revisions are not passed on, the folders have none."""
    seen = {}
    load, config, processor = (
        module.AutoCoReModel.from_pretrained, module.AutoConfig.from_pretrained, module.load_processor
    )  # fmt: skip

    def from_pretrained(*args, **options):
        seen.update(options)
        model = load(*args, **{name: value for name, value in options.items() if "revision" not in name})
        to, enable = model.to, model.enable_hybrid
        monkeypatch.setattr(model, "to", lambda device: seen.update(to=device) or to(device))
        monkeypatch.setattr(model, "enable_hybrid", lambda *a, **k: seen.update(k, keep=a[0]) or enable(*a, **k))
        return model

    monkeypatch.setattr(module.AutoCoReModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(module, "load_processor", lambda path, **k: seen.update(of_processor=k) or processor(path))
    own = SimpleNamespace(from_pretrained=lambda path, **k: seen.update(of_config=k) or config(path))
    monkeypatch.setattr(module, "AutoConfig", own)
    return seen


def test_every_argument_is_passed_on(seen):
    folder = find_models()["qwen3_vl"]
    given = {
        "revision": "a", "dtype": "float32", "head_map": f"{folder}-head-map", "head_map_revision": "b", "keep": 2,
        "sink_size": 4, "window_size": 16, "dense_below": 7, "backend": "banded", "chunked": True, "fuse": True,
    }  # fmt: skip
    Answerer(ModelArguments.read({"pretrained": str(folder), **given}), torch.device("cpu"))
    assert {name: seen[name] for name in given} == given
    assert seen["to"] == torch.device("cpu")
    assert seen["of_processor"] == seen["of_config"] == {"revision": "a"}


def test_device_map_takes_the_place_of_device(seen):
    given = {"pretrained": str(find_models()["qwen3_vl"]), "device_map": "cpu"}
    Answerer(ModelArguments.read(given), torch.device("meta"))
    assert seen["device_map"] == "cpu" and "to" not in seen


def sized(name, processor=None, **given):
    """A processor, after it was given the sizes."""
    folder = find_models()[name]
    processor = processor or load_processor(folder)
    family = family_of_config(AutoConfig.from_pretrained(folder))
    set_picture_sizes(processor, family, ModelArguments.read({"pretrained": "m", **given}))
    return processor


def with_video(least, most):
    """A processor with a video processor of these limits, as far as sizes go: the real one needs torchvision."""
    return SimpleNamespace(
        image_processor=None, video_processor=SimpleNamespace(size={"shortest_edge": least, "longest_edge": most})
    )


def test_video_sizes():
    size = sized("qwen3_vl", with_video(128, 9999), video_max_pixels=4096).video_processor.size
    assert size == {"shortest_edge": 128, "longest_edge": 4096}
    with pytest.raises(ValueError, match=r"video_max_pixels=127 was given .* 128 and 9999"):
        sized("qwen3_vl", with_video(128, 9999), video_max_pixels=127)


def test_video_sizes_of_the_real_processor():
    pytest.importorskip("torchvision")
    assert sized("qwen3_vl", video_max_pixels=4096).video_processor.size["longest_edge"] == 4096


def test_video_sizes_need_a_video_processor():
    processor = load_processor(find_models()["qwen3_vl"])
    processor.video_processor = None
    with pytest.raises(ValueError, match=r"video_max_pixels=4096 was given .* torchvision .*corehead-hf\[video\]"):
        sized("qwen3_vl", processor, video_max_pixels=4096)


@pytest.mark.parametrize(
    "name, given",
    [("qwen3_vl", {"max_pixels": 255}), ("qwen3_vl", {"min_pixels": 4194305}), ("internvl", {"min_tiles": 2})],
    ids=str,
)
def test_sizes_that_cross_the_processors_own_limits_are_refused(name, given):
    ((argument, value),) = given.items()
    before = load_processor(find_models()[name])
    with pytest.raises(ValueError, match=rf"^{argument}={value} was given - the processor's own limits are"):
        sized(name, before, **given)
    assert before.image_processor.to_dict() == load_processor(find_models()[name]).image_processor.to_dict()


def test_sizes_up_to_the_processors_own_limits_are_taken():
    size = dict(sized("qwen3_vl", max_pixels=256).image_processor.size)
    assert (size["shortest_edge"], size["longest_edge"]) == (256, 256)
    both = dict(sized("qwen3_vl", min_pixels=9, max_pixels=99).image_processor.size)  # below the processor's least
    assert (both["shortest_edge"], both["longest_edge"]) == (9, 99)
    tiles = sized("internvl", min_tiles=2, max_tiles=3).image_processor
    assert (tiles.min_patches, tiles.max_patches) == (2, 3)


@pytest.mark.parametrize("count", [9999, 1.5, 1e-9])
def test_a_number_of_ablated_heads_out_of_range_is_refused_by_its_name(count):
    folder = find_models()["qwen3_vl"]
    head_map = HeadMap.from_pretrained(f"{folder}-head-map")
    given = {"pretrained": str(folder), "head_map": f"{folder}-head-map", "ablate": "bottom", "ablate_count": count}
    with pytest.raises(ValueError, match=rf"^ablate_count={count!r} .* 1\.\.{head_map.scores.numel()},"):
        Answerer(ModelArguments.read(given), torch.device("cpu"))
