"""Every fact about transformers, accelerate and PEFT that the seam relies on. Each message names what moved.

These tests use the native libraries only; when one fails after an upgrade, read attention.py, patching.py and
modes/hybrid.py with its message in hand before changing anything else.
"""

import copy
import inspect
import sys

import pytest
import torch
from tiny_models import (
    KV,
    VERSION,
    D,
    H,
    L,
    add_lora,
    attentions,
    build,
    inputs_for,
    logits,
    static_cache,
    text_inputs,
)
from transformers import AttentionInterface, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SPY = "seam_contract_spy"
# What may arrive beside query, key, value and mask. A new name may change the maths (softcap, say): decide.
KNOWN_KWARGS = {
    "cache_position",
    "dropout",
    "image_sizes",
    "is_causal",
    "logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "return_dict",
    "scaling",
    "sliding_window",
    "use_cache",
    "vision_feature_layer",
    "vision_feature_select_strategy",
}


@pytest.fixture
def spied(native):
    """A native model whose text tower calls a recording copy of sdpa, and what it saw."""
    return native, _spy_on(native)


def _spy_on(model):
    calls = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        output, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
        calls.append((module, query, key, attention_mask, kwargs, output))
        return output, weights

    AttentionInterface.register(SPY, spy)
    for module in attentions(model):  # only the attention sees the name; masks stay those of sdpa or eager
        real = module.config
        module.config = copy.copy(real)
        module.config._attn_implementation = SPY
    return calls


def test_decoder_attentions_stand_where_they_are_looked_for(native):
    found = attentions(native)
    assert [module.layer_idx for module in found] == list(range(L)), "layer_idx no longer counts the decoder layers"
    for module in found:
        assert module.is_causal is True, "decoder attention is no longer marked is_causal"
        assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(dict(module.named_children())), "projections renamed"
        assert (module.head_dim, module.num_key_value_groups) == (D, H // KV), "head attributes renamed"
        assert module.scaling == D**-0.5, "scaling is no longer 1 / sqrt(head_dim)"


def test_attention_forward_reaches_the_interface_by_its_config(native):
    cls = type(attentions(native)[0])
    signature = inspect.signature(cls.forward)
    wanted = {"hidden_states", "position_embeddings", "attention_mask", "past_key_values"}
    assert wanted <= set(signature.parameters), f"{cls.__name__}.forward lost {wanted - set(signature.parameters)}"
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD in kinds, "keyword arguments no longer travel to the attention function"
    names = set(inspect.unwrap(cls.forward).__code__.co_names)
    wanted = {"ALL_ATTENTION_FUNCTIONS", "config", "_attn_implementation"}
    assert wanted <= names, f"{cls.__name__}.forward no longer reads {wanted - names}"
    eager = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
    assert callable(eager), f"{cls.__module__} has no module-level eager_attention_forward"


def test_text_attention_shares_the_text_config_and_vision_does_not(native):
    config = native.config.get_text_config()
    assert all(m.config is config for m in attentions(native)), "text attention no longer holds the text config object"
    assert native.config.vision_config is not config, "text and vision share one config object"


def test_vision_attention_is_told_apart_by_is_causal(native):
    text = {id(module) for module in attentions(native)}
    causal = [n for n, m in native.named_modules() if getattr(m, "is_causal", False) and id(m) not in text]
    assert causal == [], f"modules outside the text decoder call themselves causal: {causal}"


def test_interface_call(spied):
    model, calls = spied
    inputs = inputs_for(model)
    length = inputs["input_ids"].shape[1]
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    order = [module.layer_idx for module, *_ in calls]
    assert order == list(range(L)) * 2, f"layers are no longer called once each and in order: {order}"
    for index, num_queries in ((0, length), (L, 1)):
        _, query, key, _, kwargs, output = calls[index]
        keys = length + index // L
        assert query.shape == (1, H, num_queries, D), f"query is {tuple(query.shape)}, no longer [B, Hq, T, D]"
        assert key.shape == (1, KV, keys, D), f"key is {tuple(key.shape)}, no longer the whole cache [B, Hkv, S, D]"
        assert output.shape == (1, num_queries, H, D), "the attention function no longer returns [B, T, Hq, D]"
        assert kwargs["scaling"] == D**-0.5, "scaling is no longer passed to the attention function"
    new = set().union(*(set(kwargs) for *_, kwargs, _ in calls)) - KNOWN_KWARGS
    assert not new, f"new keyword arguments reach the attention function: {new}; decide whether they change the maths"


def test_own_keyword_arguments_travel_to_the_attention_function(spied):
    model, calls = spied
    module = attentions(model)[0]
    rope = (torch.ones(1, 4, D), torch.zeros(1, 4, D))
    module(torch.zeros(1, 4, 64), position_embeddings=rope, attention_mask=None, our_own=7)
    assert calls[0][4].get("our_own") == 7, "a keyword of attention.forward no longer reaches the attention function"


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_masks_of_a_prefill(variant, attn, padded):
    model = build(variant, attn)
    calls = _spy_on(model)
    inputs = inputs_for(model, 2, [0, 5] if padded else None)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        model.model(**inputs)
    mask = calls[0][3]
    if attn == "sdpa" and not padded:
        assert mask is None, f"sdpa without padding gets a mask now: {mask.dtype} {tuple(mask.shape)}"
        return
    assert mask.shape == (2, 1, length, length), f"the mask is {tuple(mask.shape)}, no longer [B, 1, T, S]"
    if attn == "sdpa":
        assert mask.dtype == torch.bool, f"the sdpa mask is {mask.dtype}, no longer bool"
        visible = mask
    else:
        assert mask.is_floating_point(), f"the eager mask is {mask.dtype}, no longer additive"
        visible = mask == 0
        assert bool((mask[~visible] == torch.finfo(mask.dtype).min).all()), "eager no longer hides with finfo.min"
    pad = 5 if padded else 0
    assert visible[1, 0, -1].tolist() == [False] * pad + [True] * (length - pad), "the last mask row is not the padding"


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_masks_of_a_static_cache(attn):
    model = build("qwen3_vl", attn)
    calls = _spy_on(model)
    with torch.no_grad():
        model.model(**text_inputs(9), past_key_values=static_cache(model, 16))
    _, query, key, mask, *_ = calls[0]
    assert (query.shape[2], key.shape[2]) == (9, 16), "a static cache no longer hands out its whole buffer"
    if mask is not None:  # >= 5.17: none for sdpa, upper-left causal
        visible = mask if mask.dtype == torch.bool else mask == 0
        assert visible.shape[-2:] == (9, 16), f"static-cache mask of shape {tuple(mask.shape)}"
        assert not bool(visible[..., 9:].any()), "empty slots of a static cache are attended"


def test_a_padding_row_passes_through_the_mask_builder(spied):
    """Hybrid prefill hands the text model [B, 1, 1, S] so that no [B, 1, T, S] is built from it."""
    model, calls = spied
    row = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    with torch.no_grad():
        model.model.language_model(input_ids=text_inputs(9)["input_ids"], attention_mask=row)
    got = calls[0][3]
    assert got is row or torch.equal(got, row), "a 4-D mask is no longer passed on to the attention as it is"


def test_the_text_model_is_called_with_keywords(native):
    """The pre-hook of the text model reads embeddings, mask and cache by name."""
    seen = {}
    text_model = native.model.language_model
    text_model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, args=args), with_kwargs=True)
    with torch.no_grad():
        native.model(**inputs_for(native), use_cache=True)
    assert seen.pop("args") == (), "the text model is called with positional arguments now"
    missing = {"attention_mask", "inputs_embeds", "past_key_values"} - set(seen)
    assert not missing, f"the text model is no longer given {missing} by name"
    assert seen["inputs_embeds"].shape[1] == inputs_for(native)["input_ids"].shape[1], "inputs_embeds is not [B, T, .]"


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cache_length_is_asked_before_the_update(native, kind):
    cache = static_cache(native, 16) if kind == "static" else DynamicCache(config=native.config.get_text_config())
    assert all(int(cache.get_seq_length(i)) == 0 for i in range(L)), "an empty cache has no length 0"
    with torch.no_grad():
        native.model(**text_inputs(9), past_key_values=cache)
    lengths = [int(cache.get_seq_length(i)) for i in range(L)]
    assert lengths == [9] * L, f"get_seq_length(layer) is no longer the absolute length: {lengths} after 9 tokens"


def test_attention_gets_the_cache_by_keyword(native):
    seen = {}
    module = attentions(native)[0]
    module.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        native.model(**text_inputs(4), use_cache=True)
    assert seen.get("past_key_values") is not None, "decoder layers no longer pass past_key_values by name"


def test_registered_names_are_matched_by_substring():
    from corehead_hf.attention import NAME

    assert not any(word in NAME for word in ("sdpa", "flash", "flex", "eager", "paged")), (
        "transformers matches on these"
    )


def test_a_name_without_a_mask_function_gets_no_padding_mask():
    """Why config._attn_implementation keeps the user's backend: the mask is built from that name."""
    model = build("qwen3_vl")
    masks = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(SPY, spy)
    model.config.get_text_config()._attn_implementation = SPY
    with torch.no_grad():
        model.model(**text_inputs(9, 2, [0, 3]))
    assert masks == [None] * L, "a custom attention name now gets a mask by itself; the config view may be simplified"


def test_output_attentions_are_recorded_from_subclasses(native):
    model = build("qwen3_vl", "eager")
    for module in attentions(model):
        module.__class__ = type("Sub" + type(module).__name__, (type(module),), {})
    with torch.no_grad():
        found = model(**inputs_for(model), output_attentions=True).attentions
    assert found is not None and len(found) == L, "output_attentions is lost for a subclass of the attention class"


def test_architectures_are_written_from_the_class_name(native, tmp_path):
    name = type(native).__name__
    native.__class__ = type(name, (type(native),), {"__module__": type(native).__module__})
    native.save_pretrained(tmp_path)
    assert f'"{name}"' in (tmp_path / "config.json").read_text(), "config.json architectures is not the class name"


def test_accelerate_keeps_a_bound_forward_on_the_module():
    hooks = pytest.importorskip("accelerate.hooks", exc_type=ImportError)
    module = attentions(build("qwen3_vl"))[0]
    hooks.add_hook_to_module(module, hooks.ModelHook())
    assert {"forward", "_old_forward"} <= set(module.__dict__), "accelerate no longer binds forward on the instance"
    assert module._old_forward.__func__ is type(module).forward, "_old_forward is no longer the class's bound forward"


def test_peft_keeps_the_attention_module():
    model = build("qwen3_vl")
    before = attentions(model)
    adapted = add_lora(model)
    assert attentions(adapted) == before, "PEFT replaces attention modules now"
    assert adapted.get_base_model() is model, "get_base_model no longer gives the wrapped model"


@pytest.mark.skipif(VERSION < (5, 3), reason="the argument appeared in transformers 5.3")
def test_qwen_needs_token_types_with_pictures():
    model = build("qwen3_vl")
    inputs = inputs_for(model)
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        logits(model, **inputs)


def test_a_custom_mask_contract_reaches_every_layer(spied):
    """No supported tower mixes full and sliding layers by default: all layers get one mask."""
    model, calls = spied
    with torch.no_grad():
        model.model(**text_inputs(9, 2, [0, 3]))
    masks = [mask for *_, mask, _, _ in calls]
    assert all(torch.equal(mask, masks[0]) for mask in masks), "layers get different masks"
    windows = {kwargs.get("sliding_window") for *_, kwargs, _ in calls}
    assert windows == {None}, f"a supported tower slides by default: {windows}"


def test_every_supported_type_is_an_image_text_to_text_model():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as names

    from corehead_hf.families import FAMILIES

    assert set(FAMILIES) == {"qwen3_vl", "qwen3_vl_moe", "llava_onevision", "internvl"}
    assert set(FAMILIES) <= set(names), (
        f"no longer loadable with AutoModelForImageTextToText: {set(FAMILIES) - set(names)}"
    )
