"""Every fact about native layers that fusion/ relies on; see test_seam_contract.py.

Where one of these fails nothing breaks: install_fusion compares before it replaces, and leaves native what differs.
But then fuse=True saves nothing there, and these tests say so instead of a warning in a user's log.
"""

import inspect
import sys

import pytest
import torch
from tiny_models import D, H, L, attentions, build, inputs_for
from transformers import DynamicCache

from corehead_hf.fusion import checks
from corehead_hf.fusion.last_token import _TENSORS, ASKED
from corehead_hf.fusion.modules import ROPE

DENSE = ["qwen3_vl", "llava_onevision", "internvl_qwen3", "internvl_qwen2"]  # of the mixtures only attention is fused


def names_in(module):
    return set(inspect.unwrap(type(module).forward).__code__.co_names)


def layers_of(model):
    return list(model.model.language_model.layers)


def test_attention_forwards_have_no_unknown_step(native):
    new = names_in(attentions(native)[0]) - checks._ATTENTION
    assert new == set(), (
        f"{type(attentions(native)[0]).__name__}.forward names {sorted(new)} now; decide whether that is a new step of "
        "the maths, then add it to _ATTENTION in fusion/checks.py"
    )


def test_rotary_positions_are_a_global_of_the_attention(native):
    module = attentions(native)[0]
    assert ROPE in names_in(module), (
        f"{type(module).__name__}.forward no longer calls {ROPE}; FusedAttention in fusion/modules.py puts its kernel "
        "under that name"
    )
    rotate = vars(sys.modules[type(module).__module__])[ROPE]
    query, key, table = torch.randn(1, H, 3, D), torch.randn(1, 2, 3, D), torch.randn(1, 3, D)
    found = rotate(query, key, table, table)
    assert [tuple(x.shape) for x in found] == [tuple(query.shape), tuple(key.shape)], (
        f"{ROPE}(query, key, cos, sin) no longer gives (query, key); fusion/modules.py and fusion/last_token.py call it"
    )


def test_norms_have_one_weight_and_an_epsilon(native):
    layer = layers_of(native)[0]
    norms = [layer.input_layernorm, layer.post_attention_layernorm, native.model.language_model.norm]
    norms += [n for name in ("q_norm", "k_norm") if (n := getattr(layer.self_attn, name, None)) is not None]
    for norm in norms:
        assert list(norm._parameters) == ["weight"] and hasattr(norm, "variance_epsilon"), (
            f"{type(norm).__name__} has the parameters {list(norm._parameters)} and other attributes now; FusedNorm in "
            "fusion/modules.py reads weight and variance_epsilon"
        )
        assert checks.norm_differs(norm) is None, (
            f"fusion leaves {type(norm).__name__} native: {checks.norm_differs(norm)}"
        )


@pytest.mark.parametrize("variant", DENSE)
def test_mlps_are_gated_with_silu(variant):
    model = build(variant)
    mlp = layers_of(model)[0].mlp
    assert names_in(mlp) == checks._MLP, (
        f"{type(mlp).__name__}.forward names {sorted(names_in(mlp))}; FusedMLP in fusion/modules.py computes "
        f"{sorted(checks._MLP)}"
    )
    device, dtype = checks.place_of(model.model.language_model.norm)
    assert checks.mlp_differs(mlp, device, dtype) is None, "fusion leaves the MLP native; see checks.mlp_differs"


def test_the_last_layer_has_no_unknown_step(native):
    layer = layers_of(native)[-1]
    new = names_in(layer) - checks._LAYER
    assert new == set(), (
        f"{type(layer).__name__}.forward names {sorted(new)} now; fusion/last_token.py trims the layer to one token, "
        "which a new step may not allow: decide, then add it to _LAYER in fusion/checks.py"
    )


def test_what_a_decoder_layer_is_called_with(native):
    seen = []
    layers_of(native)[-1].register_forward_pre_hook(
        lambda m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    native.generate(**inputs_for(native, 2, [0, 5]), max_new_tokens=2, do_sample=False)
    (args, kwargs), *_ = seen
    assert len(args) == 1 and args[0].dim() == 3, (
        f"a decoder layer gets {len(args)} positional arguments; LastLayer in fusion/last_token.py expects the hidden "
        "states [B, T, .] alone"
    )
    T = args[0].shape[1]
    cos, sin = kwargs["position_embeddings"]
    assert cos.shape[1:] == sin.shape[1:] == (T, D), (
        f"position_embeddings are tables of {tuple(cos.shape)}, no longer (cos, sin) of [B, T, D]; "
        "fusion/last_token.py cuts them at axis 1"
    )
    tensors = {name for name, value in kwargs.items() if isinstance(value, torch.Tensor)} - _TENSORS
    assert tensors == set(), (
        f"a decoder layer gets {sorted(tensors)} as well; LastLayer in fusion/last_token.py does not know how to cut "
        "these to one token and leaves the layer whole"
    )
    assert type(kwargs["past_key_values"]) is DynamicCache, (
        f"generate() gives layers a {type(kwargs['past_key_values']).__name__} by default; LastLayer in "
        "fusion/last_token.py writes to DynamicCache and StaticCache only"
    )


def test_generate_asks_for_the_last_logits_only(native):
    seen = []
    native.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    native.generate(**inputs_for(native), max_new_tokens=2, do_sample=False)
    found = seen[0].get("logits_to_keep")
    assert type(found) is int and found == 1, (
        f"generate() asks its prefill for logits_to_keep={found!r}, no longer for 1; ask_for_last_token in "
        "fusion/last_token.py waits for that"
    )


def test_own_keyword_arguments_travel_to_the_last_layer(native):
    seen = []
    last = layers_of(native)[-1]
    last.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        native(**inputs_for(native), **{ASKED: True})
    assert seen[0].get(ASKED) is True, (
        "a keyword of the model's forward no longer reaches its decoder layers; ask_for_last_token in "
        "fusion/last_token.py hands its request down that way"
    )


def test_a_cache_takes_keys_and_values_by_layer(native):
    cache = DynamicCache(config=native.config.get_text_config())
    key = torch.randn(1, 2, 3, D)
    for layer in range(L):
        found, _ = cache.update(key, key, layer)
        assert torch.equal(found, key), "cache.update(key, value, layer) no longer gives all keys of the layer"
    assert not getattr(cache, "offloading", False), (
        "a plain cache says that it offloads; LastLayer in fusion/last_token.py would never trim"
    )


def test_deepstack_layers_stand_in_the_vision_config():
    config = build("qwen3_vl").config
    assert list(config.vision_config.deepstack_visual_indexes) == [0, 1], (
        "Qwen3-VL's config names its deepstack layers otherwise; last_layer_differs in fusion/checks.py counts them to "
        "know whether pictures are added to the last layer's output"
    )


def test_pictures_are_added_to_as_many_layers_as_deepstack_has():
    """Deepstack features go to the outputs of the first layers, one each: the last one's stay untouched."""
    model = build("qwen3_vl")
    text = model.model.language_model
    seen = []
    text.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        model(**inputs_for(model))
    features = seen[0].get("deepstack_visual_embeds")
    assert features is not None and len(features) == 2, (
        "the text model no longer gets deepstack_visual_embeds, one tensor per layer; last_layer_differs in "
        "fusion/checks.py takes their number from the vision config"
    )
