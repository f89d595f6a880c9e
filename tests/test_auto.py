"""AutoCoReModel: loads what AutoModelForImageTextToText loads, refuses the rest by name."""

import json

import pytest
import torch
from test_model import head_map_of
from tiny_models import (
    VERSION,
    H,
    L,
    attentions,
    build,
    config_for,
    inputs_for,
    logits,
    masks_for,
    zero_o_proj,
)
from transformers import AutoConfig, AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, CoReModelMixin
from corehead_hf.families import FAMILIES, family_of_config

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


@pytest.fixture
def saved(native, tmp_path):
    """A native checkpoint folder."""
    native.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.compatibility("Around the model", "from_pretrained")
def test_from_pretrained_is_the_native_loader_with_core(native, saved):
    inputs = inputs_for(native)
    model = AutoCoReModel.from_pretrained(saved, attn_implementation="sdpa").eval()
    assert isinstance(model, type(native)) and isinstance(model, CoReModelMixin)
    assert torch.equal(logits(model, **inputs), logits(native, **inputs))
    with model.ablate_heads(HEADS):
        expected = logits(zero_o_proj(native, HEADS), **inputs)
        torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)


def test_the_dense_backend_is_the_users(saved):
    for asked in ("eager", {"text_config": "eager", "vision_config": "sdpa"}):
        model = AutoCoReModel.from_pretrained(saved, attn_implementation=asked)
        assert model.config.get_text_config()._attn_implementation == "eager"
        expected = asked if isinstance(asked, str) else "sdpa"
        assert model.config.vision_config._attn_implementation == expected


@pytest.mark.parametrize("asked", ["corehead", {"text_config": "corehead"}])
def test_core_is_not_a_backend(tmp_path, asked):
    config_for("qwen3_vl").save_pretrained(tmp_path)  # no weights: refused before any is read
    with pytest.raises(ValueError, match="names the dense backend that CoRe runs on"):
        AutoCoReModel.from_pretrained(tmp_path, attn_implementation=asked)


def test_dtype_defaults_to_the_checkpoints(tmp_path):
    build("internvl_qwen2").to(torch.bfloat16).save_pretrained(tmp_path)
    assert AutoCoReModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert AutoCoReModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32
    if VERSION < (5, 0):
        assert AutoCoReModel.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


def test_output_loading_info_and_config(tmp_path):
    native = build("internvl_qwen3")
    native.save_pretrained(tmp_path)
    model, info = AutoCoReModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, CoReModelMixin) and not info["missing_keys"]
    config = AutoConfig.from_pretrained(tmp_path)
    config.get_text_config().attention_dropout = 0.125
    model = AutoCoReModel.from_pretrained(tmp_path, config=config)
    assert model.config.get_text_config().attention_dropout == 0.125


def test_head_map_is_loaded_as_well(tmp_path):
    native = build("qwen3_vl")
    native.save_pretrained(tmp_path / "model")
    head_map_of(native).save_pretrained(tmp_path / "map")
    model = AutoCoReModel.from_pretrained(tmp_path / "model", head_map=tmp_path / "map")
    assert model.head_map.num_layers == L
    assert AutoCoReModel.from_model(native, head_map=head_map_of(native)).head_map is not None


def test_a_head_map_that_does_not_fit_leaves_the_model_native():
    native = build("qwen3_vl")
    native_class, keys = type(native), sorted(native.__dict__)
    with pytest.raises(ValueError, match="was asked to fit the model"):
        AutoCoReModel.from_model(native, head_map=head_map_of(native, model_type="internvl"))
    assert type(native) is native_class and sorted(native.__dict__) == keys
    with pytest.raises(FileNotFoundError):
        AutoCoReModel.from_model(native, head_map="no/such/folder")
    assert type(native) is native_class
    AutoCoReModel.from_model(native)


def test_a_head_map_is_read_and_compared_before_any_weight(tmp_path):
    config_for("qwen3_vl").save_pretrained(tmp_path / "model")  # no weights
    head_map = head_map_of(build("qwen3_vl"), model_type="internvl")
    head_map.save_pretrained(tmp_path / "map")
    for given in (head_map, tmp_path / "map", str(tmp_path / "map")):
        with pytest.raises(ValueError, match="was asked to fit the model"):
            AutoCoReModel.from_pretrained(tmp_path / "model", head_map=given)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AutoCoReModel.from_pretrained(tmp_path / "model", head_map=tmp_path / "nowhere")


def test_a_revision_of_no_repository_is_refused(tmp_path):
    native = build("qwen3_vl")
    config_for("qwen3_vl").save_pretrained(tmp_path)
    head_map_of(native).save_pretrained(tmp_path / "map")
    for head_map in (None, head_map_of(native), tmp_path / "map"):
        with pytest.raises(ValueError, match="revision='v1'"):
            AutoCoReModel.from_pretrained(tmp_path, head_map=head_map, head_map_revision="v1")


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, {"revision": None}),
        ({"head_map_revision": "v2"}, {"revision": "v2"}),
        ({"revision": "v1"}, {"revision": "v1"}),  # one repository, one revision
        ({"revision": "v1", "head_map_revision": "v2"}, {"revision": "v2"}),
        ({"revision": "v1", "head_map": "owner/map"}, {"revision": None}),
        ({"token": "t", "cache_dir": "c", "local_files_only": True}, None),
        ({"force_download": True, "token": False, "subfolder": "weights"}, {"force_download": True, "token": False}),
    ],
)
def test_what_a_map_from_the_hub_is_asked_with(monkeypatch, asked, expected):
    class Asked(Exception):
        pass

    calls = []

    def from_pretrained(source, **given):
        calls.append({"source": source, **given})
        raise Asked

    monkeypatch.setattr("corehead_hf.auto.HeadMap.from_pretrained", from_pretrained)
    asked = {"head_map": "owner/model", **asked}
    with pytest.raises(Asked):
        AutoCoReModel.from_pretrained("owner/model", config=config_for("qwen3_vl"), **asked)
    if expected is None:
        expected = {"revision": None, **{name: asked[name] for name in ("token", "cache_dir", "local_files_only")}}
    assert calls == [{"source": asked["head_map"], "revision": None, **expected}]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "gemma3", "qwen3", "llava"])
def test_other_model_types_are_refused_before_any_weight_is_read(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"model type '{model_type}' is not supported; supported: ") as refused:
        AutoCoReModel.from_pretrained(tmp_path)
    for family in (
        "qwen3_vl ",
        "qwen3_vl_moe ",
        "llava_onevision (text tower qwen2)",
        "internvl (text tower qwen2, qwen3,",
    ):
        assert family in str(refused.value)


def test_an_unsupported_text_tower_is_refused():
    config = config_for("internvl_gpt_oss")
    with pytest.raises(ValueError, match="internvl with text tower 'gpt_oss' is not supported; supported: "):
        family_of_config(config)
    native = build("internvl_qwen2")
    native.config.text_config.model_type = "gpt_oss"
    with pytest.raises(ValueError, match="text tower 'gpt_oss'"):
        AutoCoReModel.from_model(native)


def test_every_variant_has_its_family(variant):
    expected = "internvl" if variant.startswith("internvl") else variant
    assert family_of_config(config_for(variant)) is FAMILIES[expected]


def test_a_missing_repository_is_upstreams_error(tmp_path):
    with pytest.raises(OSError):
        AutoCoReModel.from_pretrained(str(tmp_path / "nowhere"))


def test_it_is_not_instantiated():
    with pytest.raises(OSError, match="is not instantiated; .*from_pretrained"):
        AutoCoReModel()


@pytest.mark.compatibility("Devices", "device_map with CPU and disk offload")
@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # a parameter, not a module
def test_layers_split_over_cpu_and_disk(variant, tmp_path):
    """device_map with accelerate's hooks on the projections; every mode, against the plain model."""
    pytest.importorskip("accelerate", exc_type=ImportError)
    native = build(variant)
    inputs = inputs_for(native)
    question, evidence, visual = masks_for(inputs)
    native.save_pretrained(tmp_path / "model")
    plain = AutoCoReModel.from_model(native)
    places = {f"model.{name}": "cpu" for name, _ in native.model.named_children() if name != "language_model"}
    places |= {f"model.language_model.{name}": "cpu" for name, _ in native.model.language_model.named_children()}
    del places["model.language_model.layers"]
    places |= {f"model.language_model.layers.{i}": "cpu" if i == 0 else "disk" for i in range(L)} | {"lm_head": "cpu"}
    if variant == "llava_onevision":
        places["model.image_newline"] = "cpu"
    model = AutoCoReModel.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload", attn_implementation="sdpa"
    ).eval()
    assert attentions(model)[1].q_proj.weight.device.type == "meta", "nothing was offloaded"
    results = []
    for each in (plain, model):
        with each.record_attention(question, evidence, visual_mask=visual) as recording:
            found = [logits(each, **inputs)]
        found += [recording.ram, recording.vision_mass]
        for ablation, options in (("zero", {}), ("visual", {"visual_mask": visual})):
            with each.ablate_heads(HEADS, ablation, **options):
                found.append(logits(each, **inputs))
        each.enable_hybrid(heads=HEADS, sink_size=1, window_size=3, dense_below=0)
        found.append(logits(each, **inputs))
        results.append(found)
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert results[0][1].shape == (1, L, H)


@pytest.mark.compatibility("Around the model", "save_pretrained, read natively")
def test_a_core_checkpoint_reloads_natively_and_back(saved, native, tmp_path):
    model = AutoCoReModel.from_pretrained(saved)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again")
    assert type(again) is type(native)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in native.state_dict().items())
