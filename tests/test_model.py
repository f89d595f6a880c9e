"""CoReModelMixin: its arguments, its refusals, and that nothing is left behind."""

import re

import pytest
import torch
from tiny_models import KV, D, H, L, add_lora, build, generate, inputs_for, logits, masks_for, text_inputs

from corehead_hf import AutoCoReModel, CoReModelMixin, HeadMap
from corehead_hf.modes import HybridPrefill

SIZES = {"sink_size": 2, "window_size": 4, "dense_below": 0}


def head_map_of(model, **over):
    fields = {
        "scores": torch.arange(L * H).view(L, H) / 100,
        "spread": torch.zeros(L, H),
        "count": 3,
        "base_model_name_or_path": "tiny",
        "base_model_revision": None,
        "model_type": model.config.model_type,
        "num_layers": L,
        "num_heads": H,
        "num_kv_heads": KV,
        "head_dim": D,
        "dataset": "hand-made",
        "num_examples": 3,
        "question_rule": "rule",
        "view_rule": "rule",
        "versions": {"torch": "1", "transformers": "1", "corehead_hf": "1"},
    }
    return HeadMap(**{**fields, **over})


def test_the_methods_are_added_and_the_native_class_stays(native):
    native_class = type(native)
    model = AutoCoReModel.from_model(native)
    assert isinstance(model, native_class) and isinstance(model, CoReModelMixin)
    assert type(model).__name__ == native_class.__name__ and type(model).__module__ == native_class.__module__
    assert model.head_map is None and model.hybrid is None


def test_load_head_map(wrapped, tmp_path):
    head_map = head_map_of(wrapped)
    assert wrapped.load_head_map(head_map) is head_map is wrapped.head_map
    head_map.save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path)):
        loaded = wrapped.load_head_map(source)
        assert torch.equal(loaded.scores, head_map.scores) and wrapped.head_map is loaded
    wrapped.uninstall_core()
    assert "core_head_map" not in wrapped.__dict__


@pytest.mark.parametrize(
    "over, message",
    [
        ({"model_type": "internvl"}, "model_type: map has 'internvl' / model has 'qwen3_vl'"),
        (
            {"num_layers": 2, "scores": torch.zeros(2, H), "spread": torch.zeros(2, H)},
            "map has 2 / model has 3",
        ),
        ({"num_kv_heads": 4}, "num_kv_heads: map has 4 / model has 2"),
        ({"head_dim": 32}, "head_dim: map has 32 / model has 16"),
    ],
)
def test_a_map_of_another_model_is_refused_and_the_loaded_one_stays(model, over, message):
    good = model.load_head_map(head_map_of(model))
    with pytest.raises(ValueError, match=f"{message}.*load the map of this checkpoint"):
        model.load_head_map(head_map_of(model, **over))
    assert model.head_map is good


def test_a_missing_map_is_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an existing folder"):
        model.load_head_map(tmp_path / "nowhere")
    assert model.head_map is None


def test_a_map_in_a_subfolder(model, tmp_path):
    head_map_of(model).save_pretrained(tmp_path / "boxes")
    assert model.load_head_map(tmp_path, subfolder="boxes").source == str(tmp_path / "boxes")
    for changes in ({"revision": "v1"}, {"subfolder": "boxes"}):
        with pytest.raises(ValueError, match="were given with a HeadMap"):
            model.load_head_map(head_map_of(model), **changes)
    with pytest.raises(ValueError, match="revision='v1'"):
        model.load_head_map(tmp_path / "boxes", revision="v1")


@pytest.mark.parametrize("keep, dense", [(1, 1), (5, 5), (0.25, 3), (1.0, 12), (12, 12)])
def test_keep_takes_the_top_heads_of_the_map(model, keep, dense):
    model.load_head_map(head_map_of(model))
    model.enable_hybrid(keep=keep, **SIZES)
    flat = model.hybrid.heads.flatten().tolist()
    assert flat == [False] * (12 - dense) + [True] * dense  # the map's scores rise with (layer, head)
    assert isinstance(model.hybrid, HybridPrefill)


def test_keep_is_heads_of_the_map(model):
    model.load_head_map(head_map_of(model))
    inputs = inputs_for(model)
    model.enable_hybrid(keep=2, **SIZES)
    by_keep = logits(model, **inputs)
    model.enable_hybrid(heads=[(L - 1, H - 1), (L - 1, H - 2)], **SIZES)
    assert torch.equal(logits(model, **inputs), by_keep)


BAD = [
    ({"keep": 0.05}, "needs a head map and none is loaded; call load_head_map"),
    ({}, "takes keep or heads, one of them; got keep=None and heads=None"),
    ({"keep": 0.05, "heads": [(0, 0)]}, "takes keep or heads, one of them"),
    ({"heads": [(0, H)]}, rf"head (0, {H}) was asked; the model has {L} layers x {H} heads"),
    ({"heads": torch.ones(L, H)}, "it must be torch.bool [3, 4]"),
    ({"heads": torch.ones(L, KV, dtype=torch.bool)}, "heads is torch.bool [3, 2]"),
    ({"heads": [(0, 0)], "sink_size": -1}, "sink_size=-1"),
    ({"heads": [(0, 0)], "window_size": 0}, "window_size=0"),
    ({"heads": [(0, 0)], "window_size": 2.5}, "window_size=2.5"),
    ({"heads": [(0, 0)], "sink_size": True}, "sink_size=True"),
    ({"heads": [(0, 0)], "backend": "cudnn"}, "backend 'cudnn' was asked for"),
]
MAP_BAD = [({"keep": keep}, str(keep)) for keep in (0, -1, 13, 0.0, 1.5, -0.1, float("nan"), 1e-6)]


@pytest.mark.parametrize("options, message", BAD + MAP_BAD, ids=str)
def test_enable_hybrid_refuses(model, options, message):
    """And what was in force before stays in force."""
    model.enable_hybrid(heads=[(1, 1)], **SIZES)
    before = model.hybrid
    if "keep" in options and options not in [bad for bad, _ in BAD]:
        model.load_head_map(head_map_of(model))
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        model.enable_hybrid(**options)
    assert model.hybrid is before and len(model.core_state.modes) == 1


def test_models_with_native_sliding_layers_are_refused_for_hybrid():
    layers = ["full_attention", "sliding_attention", "sliding_attention"]
    native = build("internvl_qwen2")
    native.config.get_text_config().layer_types = layers
    model = AutoCoReModel.from_model(native)
    with pytest.raises(ValueError, match="this one has 2 natively sliding layers"):
        model.enable_hybrid(heads=[(0, 0)])


def test_prefill_of_a_batch_is_the_backbone(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5])
    with torch.no_grad():
        expected = wrapped.model(**inputs, use_cache=False).last_hidden_state
    assert torch.equal(wrapped.prefill(**inputs).last_hidden_state, expected)
    assert wrapped.prefill(**inputs, use_cache=True).past_key_values is not None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_modes_nest_in_any_order(model, order):
    from contextlib import ExitStack

    inputs = inputs_for(model, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    plain = logits(model, **inputs)
    model.enable_hybrid(heads=[(0, 0), (2, 2)], **SIZES)
    with model.ablate_heads([(1, 1)]):
        expected = logits(model, **inputs)
    contexts = (
        lambda: model.record_attention(question, evidence),
        lambda: model.ablate_heads([(1, 1)]),
        lambda: model.record_outputs(),
    )
    with ExitStack() as stack:
        for index in order:
            stack.enter_context(contexts[index]())
        assert torch.equal(logits(model, **inputs), expected)
        model.disable_hybrid()
    assert model.core_state.modes == []
    assert torch.equal(logits(model, **inputs), plain)


def test_hybrid_may_be_switched_inside_a_block(model):
    inputs = inputs_for(model)
    with model.ablate_heads([(1, 1)]):
        alone = logits(model, **inputs)
        model.enable_hybrid(heads=[(0, 0)], **SIZES)
    hybrid = logits(model, **inputs)
    model.disable_hybrid()
    assert not torch.equal(alone, hybrid)
    assert model.core_state.modes == []


@pytest.mark.compatibility("Training and adapters", "LoRA: record, ablate, hybrid")
def test_the_methods_work_through_a_peft_wrapper(variant):
    """Wrapped first, then adapted: PEFT forwards the methods; adapted first: they are its own."""
    inputs = inputs_for(build(variant))
    question, evidence, _ = masks_for(inputs)
    first = add_lora(AutoCoReModel.from_model(build(variant)))
    second = AutoCoReModel.from_model(add_lora(build(variant)))
    rams, outputs = [], []
    for model in (first, second):
        with model.record_attention(question, evidence) as recording:
            model.prefill(**inputs)
        model.load_head_map(head_map_of(model))
        model.enable_hybrid(keep=0.25, **SIZES)
        assert model.hybrid.window_size == 4
        rams.append(recording.ram)
        outputs.append((logits(model, **inputs), generate(model, inputs)))
        model.disable_hybrid()
        assert not torch.equal(logits(model, **inputs), outputs[-1][0])
    assert torch.equal(*rams)
    assert torch.equal(outputs[0][0], outputs[1][0]) and torch.equal(outputs[0][1], outputs[1][1])


def test_prefill_under_autograd_keeps_no_graph(model):
    assert not model.prefill(**text_inputs(5)).last_hidden_state.requires_grad
