"""Every fact about transformers' models that the seam relies on. Each message says what moved and who relies on it.

These tests use native models only; when one fails after an upgrade, read the file that its message names before
changing anything else. What the package takes from elsewhere: test_seam_contract_libraries.py (loading, processors,
accelerate, PEFT) and test_seam_contract_fusion.py (what the fused modules assume of the native ones).
"""

import copy
import inspect
import sys
import types

import pytest
import torch
from tiny_models import (
    HIDDEN,
    KV,
    VERSION,
    D,
    H,
    L,
    attend64,
    attentions,
    build,
    causal,
    config_for,
    inputs_for,
    logits,
    static_cache,
    text_inputs,
)
from transformers import AttentionInterface, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from corehead_hf.attention import NAME
from corehead_hf.model import CoReModelMixin

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
    assert [module.layer_idx for module in found] == list(range(L)), (
        "layer_idx no longer counts the decoder layers; decoder_attentions in patching.py sorts by it"
    )
    for module in found:
        assert module.is_causal is True, "decoder attention is not is_causal; see _find_attentions, patching.py"
        assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(dict(module.named_children())), (
            "projections renamed; see patching.py"
        )
        assert (module.head_dim, module.num_key_value_groups) == (D, H // KV), (
            "head attributes renamed; see attention.py"
        )
        assert module.scaling == D**-0.5, "scaling is no longer 1 / sqrt(head_dim)"


def test_another_backend_reaches_a_live_attention(native):
    native.set_attn_implementation("eager")
    found = {module.config._attn_implementation for module in attentions(native)}
    assert found == {"eager"}, (
        f"set_attn_implementation('eager') leaves {found} in the attentions' config; AttentionCall.implementation "
        "reads the user's backend there"
    )


def test_registered_functions_are_found_by_their_name():
    def ours():
        """Nothing calls it."""

    AttentionInterface.register("seam_contract_name", ours)
    assert ALL_ATTENTION_FUNCTIONS["seam_contract_name"] is ours, (
        "AttentionInterface.register no longer fills ALL_ATTENTION_FUNCTIONS, the table that attention forwards read; "
        "patching.py registers core_attention with it"
    )
    assert "sdpa" in ALL_ATTENTION_FUNCTIONS, "sdpa left the table; _dense_attention in attention.py looks it up there"
    assert "eager" not in ALL_ATTENTION_FUNCTIONS, (
        "eager stands in the table now; _dense_attention in attention.py takes it from the model's own module"
    )


def test_eager_attention_answers_as_the_interface_does(native):
    module = attentions(native)[0]
    eager = sys.modules[type(module).__module__].eager_attention_forward
    query, key = torch.randn(1, H, 5, D), torch.randn(1, KV, 5, D)
    output, weights = eager(module, query, key, key, None, scaling=1.0, dropout=0.0)
    assert output.shape == (1, 5, H, D), f"eager attention gives {tuple(output.shape)}, no longer [B, T, Hq, D]"
    assert weights.shape == (1, H, 5, 5), f"eager weights are {tuple(weights.shape)}, no longer [B, Hq, T, S]"


def test_sdpa_without_a_mask_is_causal(native):
    """Where nothing is padded, hybrid prefill hands dense layers no mask at all (HybridPrefill.attend)."""
    module = attentions(native)[0]
    torch.manual_seed(0)
    query, key, value = torch.randn(1, H, 7, D), torch.randn(1, KV, 7, D), torch.randn(1, KV, 7, D)
    output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, scaling=D**-0.5, dropout=0.0)
    expected = attend64(query, key, value, causal(7, 7), D**-0.5)
    assert torch.allclose(output.double(), expected, atol=1e-5), (
        "sdpa without a mask is no longer causal over T = S; HybridPrefill.attend and fusion/last_token.py rely on it"
    )


def test_attention_forward_reaches_the_interface_by_its_config(native):
    cls = type(attentions(native)[0])
    signature = inspect.signature(cls.forward)
    wanted = {"hidden_states", "position_embeddings", "attention_mask", "past_key_values"}
    assert wanted <= set(signature.parameters), (
        f"{cls.__name__}.forward lost {wanted - set(signature.parameters)}; CoReAttention.forward in attention.py and "
        "fusion/last_token.py pass these"
    )
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD in kinds, (
        "keyword arguments no longer travel to the attention function; PREFILL_QUERIES in fusion/last_token.py does"
    )
    names = set(inspect.unwrap(cls.forward).__code__.co_names)
    wanted = {"ALL_ATTENTION_FUNCTIONS", "config", "_attn_implementation"}
    assert wanted <= names, (
        f"{cls.__name__}.forward no longer reads {wanted - names}; without these core_attention (attention.py) is "
        "never reached, and _find_attentions in patching.py finds no module"
    )
    eager = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
    assert callable(eager), (
        f"{cls.__module__} has no module-level eager_attention_forward; _dense_attention in attention.py calls it"
    )


def test_attention_forward_takes_any_object_for_self(native):
    """It runs on a view of the module (_ModuleView in attention.py) while a mode is on."""
    module = attentions(native)[0]
    forward = type(module).forward
    code = inspect.unwrap(forward).__code__
    assert "__class__" not in code.co_freevars, (
        f"{type(module).__name__}.forward calls super(), which no view of a module can; see _ModuleView in attention.py"
    )

    class View:
        def __getattr__(self, name):
            return getattr(module, name)

    view, given = View(), []
    name = "seam_contract_view"
    view.config = types.SimpleNamespace(**{**vars(module.config), "_attn_implementation": name})

    def attend(first, query, key, value, mask, **kwargs):
        given.append(first)
        return query.transpose(1, 2), None

    AttentionInterface.register(name, attend)
    rope = (torch.ones(1, 4, D), torch.zeros(1, 4, D))
    forward(view, torch.zeros(1, 4, 64), position_embeddings=rope, attention_mask=None)
    assert given == [view], (
        f"{type(module).__name__}.forward no longer hands the attention function what it was given for self; "
        "core_attention in attention.py finds the module and the call's past by it"
    )


def test_text_attention_shares_the_text_config_and_vision_does_not(native):
    config = native.config.get_text_config()
    assert all(m.config is config for m in attentions(native)), (
        "text attention no longer holds the text config object; the user's backend is read from it (attention.py)"
    )
    assert native.config.vision_config is not config, "text and vision share one config object"


def test_vision_attention_is_told_apart_by_is_causal(native):
    text = {id(module) for module in attentions(native)}
    causal = [n for n, m in native.named_modules() if getattr(m, "is_causal", False) and id(m) not in text]
    assert causal == [], (
        f"modules outside the text decoder call themselves causal: {causal}; _find_attentions in "
        "patching.py would take them"
    )


def test_interface_call(spied):
    model, calls = spied
    inputs = inputs_for(model)
    length = inputs["input_ids"].shape[1]
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    order = [module.layer_idx for module, *_ in calls]
    assert order == list(range(L)) * 2, (
        f"layers are no longer called once each and in order: {order}; modes/record.py holds one call a layer"
    )
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
    assert calls[0][4].get("our_own") == 7, (
        "a keyword of attention.forward no longer reaches the attention function; PREFILL_QUERIES in "
        "fusion/last_token.py travels so"
    )


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
        assert mask is None, (
            f"sdpa without padding gets a mask now: {mask.dtype} {tuple(mask.shape)}; real_tokens in attention_call.py "
            "takes no mask for no padding"
        )
        return
    assert mask.shape == (2, 1, length, length), (
        f"the mask is {tuple(mask.shape)}, no longer [B, 1, T, S]; real_tokens in attention_call.py reads its last row"
    )
    if attn == "sdpa":
        assert mask.dtype == torch.bool, f"the sdpa mask is {mask.dtype}, no longer bool; see may_attend"
        visible = mask
    else:
        assert mask.is_floating_point(), f"the eager mask is {mask.dtype}, not additive; see may_attend"
        visible = mask == 0
        assert bool((mask[~visible] == torch.finfo(mask.dtype).min).all()), (
            "eager no longer hides with finfo.min; may_attend in attention_call.py tells hidden from visible by it"
        )
    pad = 5 if padded else 0
    assert visible[1, 0, -1].tolist() == [False] * pad + [True] * (length - pad), (
        "the mask's last row is not the padding; real_tokens in attention_call.py reads it there"
    )


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_masks_of_a_static_cache(attn):
    model = build("qwen3_vl", attn)
    calls = _spy_on(model)
    with torch.no_grad():
        model.model(**text_inputs(9), past_key_values=static_cache(model, 16))
    _, query, key, mask, *_ = calls[0]
    assert (query.shape[2], key.shape[2]) == (9, 16), (
        "a static cache no longer hands out its whole buffer; see without_empty_slots in attention_call.py"
    )
    if mask is not None:  # >= 5.17: none for sdpa, upper-left causal
        visible = mask if mask.dtype == torch.bool else mask == 0
        assert visible.shape[-2:] == (9, 16), f"static-cache mask of shape {tuple(mask.shape)}"
        assert not bool(visible[..., 9:].any()), (
            "empty slots of a static cache are attended; without_empty_slots in attention_call.py cuts them off"
        )


def test_a_padding_row_passes_through_the_mask_builder(spied):
    """Hybrid prefill hands the text model [B, 1, 1, S] so that no [B, 1, T, S] is built from it."""
    model, calls = spied
    row = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    with torch.no_grad():
        model.model.language_model(input_ids=text_inputs(9)["input_ids"], attention_mask=row)
    got = calls[0][3]
    assert got is row or (isinstance(got, torch.Tensor) and torch.equal(got, row)), (
        "a 4-D mask is no longer passed on to the attention as it is; prepare in modes/hybrid.py hands one in"
    )


def test_the_text_model_is_called_with_keywords(native):
    """The pre-hook of the text model reads embeddings, mask and cache by name."""
    seen = {}
    text_model = native.model.language_model
    text_model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, args=args), with_kwargs=True)
    with torch.no_grad():
        native.model(**inputs_for(native), use_cache=True)
    assert seen.pop("args") == (), (
        "the text model is called with positional arguments now; _prepare_text_call in patching.py shows modes "
        "its keywords"
    )
    missing = {"attention_mask", "inputs_embeds", "past_key_values"} - set(seen)
    assert not missing, f"the text model is no longer given {missing} by name; prepare in modes/hybrid.py reads them"
    assert seen["inputs_embeds"].shape[1] == inputs_for(native)["input_ids"].shape[1], (
        "inputs_embeds is not [B, T, .]; modes/hybrid.py"
    )


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cache_length_is_asked_before_the_update(native, kind):
    cache = static_cache(native, 16) if kind == "static" else DynamicCache(config=native.config.get_text_config())
    assert all(int(cache.get_seq_length(i)) == 0 for i in range(L)), (
        "an empty cache has no length 0; CoReAttention.forward takes it for the position of the first query"
    )
    with torch.no_grad():
        native.model(**text_inputs(9), past_key_values=cache)
    lengths = [int(cache.get_seq_length(i)) for i in range(L)]
    assert lengths == [9] * L, (
        f"get_seq_length(layer) is no longer the absolute length: {lengths} after 9 tokens; CoReAttention.forward in "
        "attention.py asks it before the update"
    )


def test_attention_gets_the_cache_by_keyword(native):
    seen = {}
    module = attentions(native)[0]
    module.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        native.model(**text_inputs(4), use_cache=True)
    assert seen.get("past_key_values") is not None, (
        "decoder layers no longer pass past_key_values by name; CoReAttention.forward in attention.py reads it there"
    )


def test_all_of_a_cache_has_one_length(native):
    """Hybrid prefill and recordings ask the cache once, without a layer."""
    cache = DynamicCache(config=native.config.get_text_config())
    with torch.no_grad():
        native.model(**text_inputs(9), past_key_values=cache)
    assert int(cache.get_seq_length()) == 9, (
        f"get_seq_length() without a layer is {int(cache.get_seq_length())} after 9 tokens; HybridPrefill.prepare in "
        "modes/hybrid.py takes the number of cached tokens from it"
    )


def test_the_mask_of_generate_on_a_static_cache(native):
    """HybridPrefill.prepare reads three forms: none, a tensor, and a dict of them by layer type."""
    seen = []
    text_model = native.model.language_model
    text_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    native.generate(**text_inputs(9), max_new_tokens=2, do_sample=False, cache_implementation="static")
    mask = seen[0]["attention_mask"]
    if isinstance(mask, dict):
        assert "full_attention" in mask, (
            f"generate() with a static cache makes masks for {sorted(mask)}, no longer for full_attention; see "
            "HybridPrefill.prepare in modes/hybrid.py"
        )
        mask = mask["full_attention"]
    if mask is not None:
        assert mask.dim() in (2, 4) and mask.shape[-1] >= 9, (
            f"generate() with a static cache hands the text model a mask {tuple(mask.shape)}; prepare in "
            "modes/hybrid.py reads [B, S] and [B, 1, T, S]"
        )


def test_the_forms_of_position_ids(native):
    """Packed sequences are recognised by positions that restart (modes/hybrid.py, _refuse_packed_positions)."""
    seen = []
    text_model = native.model.language_model
    text_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    inputs = inputs_for(native, 2)
    native.generate(**inputs, max_new_tokens=2, do_sample=False)
    length = inputs["input_ids"].shape[1]
    for kwargs, T in zip(seen, (length, 1), strict=True):
        positions = kwargs.get("position_ids")
        if positions is None:
            continue
        known = {(1, T), (2, T), (3, 1, T), (3, 2, T), (4, 1, T), (4, 2, T)}
        assert tuple(positions.shape) in known, (
            f"position_ids are {tuple(positions.shape)} now; _refuse_packed_positions in modes/hybrid.py knows [B, T] "
            "and, of Qwen3-VL, [3, B, T] and [4, B, T] with the text's own first"
        )
        text = positions[0] if positions.dim() == 3 and positions.shape[0] == 4 else positions
        if text.dim() == 2:
            assert bool((text.diff(dim=-1) == 1).all()), (
                "the text's position_ids no longer rise by one over an unpadded prompt; hybrid prefill would take it "
                "for packed sequences (_refuse_packed_positions in modes/hybrid.py)"
            )


def test_sliding_layers_are_named_in_the_text_config():
    """enable_hybrid refuses models whose layers slide natively."""
    config = config_for("internvl_gpt_oss").get_text_config()
    assert "sliding_attention" in (getattr(config, "layer_types", None) or []), (
        "a tower with sliding layers no longer lists 'sliding_attention' in config.layer_types; enable_hybrid in "
        "model.py would run hybrid prefill on it"
    )


def test_names_of_sizes_in_the_text_config(native):
    text = native.config.get_text_config()
    found = (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads)
    assert found == (L, H, KV), f"the text config's sizes read {found}; model_shape in head_map/fields.py takes them"
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert head_dim == D, f"head_dim reads {head_dim}; model_shape in head_map/fields.py takes it from the text config"
    assert native.config._name_or_path == "", (
        "a model built from a configuration has a name now; measure and stability refuse models without one "
        "(detection.py, analysis/result.py)"
    )


def test_the_backbone_gives_no_vocabulary_logits(native):
    """CoReModelMixin.prefill runs model.model: the logits of 100K tokens would not fit."""
    called = []
    native.lm_head.register_forward_hook(lambda *_: called.append(True))
    with torch.no_grad():
        output = native.model(**inputs_for(native), use_cache=False)
    assert not called and output.last_hidden_state.shape[-1] == HIDDEN, (
        "model.model no longer stops before the vocabulary; prefill in model.py would compute all logits"
    )
    assert native.get_input_embeddings().weight.device == native.device, (
        "get_input_embeddings() has no weight on the model's device; input_device in measuring/batch.py asks it"
    )


def test_registered_names_are_matched_by_substring():
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
    assert found is not None and len(found) == L, (
        "output_attentions is lost for a subclass of the attention class; core_class in attention.py makes one"
    )


def test_output_recording_leaves_nothing_or_a_bound_forward(native):
    """Up to transformers 5.0 recording binds forward on the instance; swap_class in attention.py moves that one too."""
    with torch.no_grad():
        native.model(**text_inputs(4), output_hidden_states=True)
    for module in [*attentions(native), *native.model.language_model.layers]:
        bound = module.__dict__.get("forward")
        assert bound is None or getattr(bound, "__func__", None) is type(module).forward, (
            f"recording outputs leaves {bound!r} on {type(module).__name__}; swap_class in attention.py would not "
            "reach it, and CoRe would be off"
        )


def test_output_recording_knows_a_class_by_module_and_name(native):
    """Why a mixed class keeps both: the recorders of a model are looked up by str(type(model))."""
    text_model = native.model.language_model
    names = {"__module__": type(text_model).__module__, "__qualname__": type(text_model).__qualname__}
    text_model.__class__ = type(type(text_model).__name__, (type(text_model),), names)
    with torch.no_grad():
        found = native.model(**text_inputs(4), output_hidden_states=True).hidden_states
    assert found is not None and len(found) == L + 1, (
        "hidden states are lost for a subclass of the same module and name; _mixed_class in patching.py copies both"
    )


def test_a_native_model_has_none_of_the_names_that_core_uses(native):
    taken = [name for name in ("get_base_model", "core_state", *vars(CoReModelMixin)) if not name.startswith("__")]
    taken = [name for name in taken if hasattr(native, name)]
    assert taken == [], (
        f"transformers' models have {taken} now: native_model in patching.py takes get_base_model for a sign of PEFT, "
        "and CoReModelMixin in model.py would hide the others"
    )


def test_architectures_are_written_from_the_class_name(native, tmp_path):
    name = type(native).__name__
    native.__class__ = type(name, (type(native),), {"__module__": type(native).__module__})
    native.save_pretrained(tmp_path)
    assert f'"{name}"' in (tmp_path / "config.json").read_text(), (
        "config.json's architectures is not the class name; _mixed_class in patching.py keeps the native one for it"
    )


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
    assert all(torch.equal(mask, masks[0]) for mask in masks), (
        "layers get different masks; prepare in modes/hybrid.py makes one for all"
    )
    windows = {kwargs.get("sliding_window") for *_, kwargs, _ in calls}
    assert windows == {None}, (
        f"a supported tower slides by default: {windows}; enable_hybrid in model.py refuses sliding layers"
    )
