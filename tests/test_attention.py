"""The one attention function: what it passes to the user's dense backend, and what it refuses."""

import contextlib

import pytest
import torch
from tiny_models import (
    KV,
    VARIANTS,
    D,
    H,
    L,
    attentions,
    build,
    explicit_masks,
    generate,
    inputs_for,
    logits,
    text_inputs,
    watch,
    zero_o_proj,
)
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from corehead_hf import AutoCoReModel
from corehead_hf.attention import NAME, core_attention
from corehead_hf.attention_call import AttentionCall

FLASH = "flash_like"  # for flash_attention_2, which needs a GPU: same 2-D mask, same use of module.config
HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


@pytest.fixture
def flash():
    """The names under which a flash-like backend saw itself in module.config, and the masks it got."""
    seen = []

    def attend(module, query, key, value, attention_mask, **kwargs):
        seen.append((module.config._attn_implementation, module.layer_idx, attention_mask))
        num_queries, num_keys = query.shape[2], key.shape[2]
        visible = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)[None, None]
        if attention_mask is not None:
            assert attention_mask.dim() == 2
            visible = visible & attention_mask[:, None, None, :num_keys].bool()
        visible = visible | ~visible.any(dim=-1, keepdim=True)  # padding rows: anything finite
        kwargs = {"scaling": kwargs["scaling"]}
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, visible, **kwargs)

    def mask(batch_size, *args, attention_mask=None, **kwargs):
        return attention_mask if attention_mask is not None and not attention_mask.all() else None

    AttentionInterface.register(FLASH, attend)
    AttentionMaskInterface.register(FLASH, mask)
    return seen


def use_flash(model):
    model.config.get_text_config()._attn_implementation = FLASH
    return model


@pytest.mark.parametrize("attn", ["sdpa", "eager", FLASH])
def test_the_users_backend_is_the_dense_path(variant, attn, flash):
    native = use_flash(build(variant)) if attn == FLASH else build(variant, attn)
    inputs = inputs_for(native, 2, [0, 5])
    before, tokens = logits(native, **inputs), generate(native, inputs)
    oracle = logits(zero_o_proj(native, HEADS), **inputs)
    model = AutoCoReModel.from_model(native)
    assert torch.equal(logits(model, **inputs), before)
    assert torch.equal(generate(model, inputs), tokens)
    real = inputs["attention_mask"].bool()
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs)[real], oracle[real], atol=1e-4, rtol=0)
    if attn == FLASH:
        assert {name for name, _, _ in flash} == {FLASH}, "a dense backend must see its own name in module.config"
        assert any(mask is not None for *_, mask in flash)


def test_set_attn_implementation_after_install_changes_the_dense_path(variant):
    model = AutoCoReModel.from_model(build(variant))
    inputs = inputs_for(model)
    eager = build(variant, "eager")
    model.set_attn_implementation("eager")
    assert torch.equal(logits(model, **inputs), logits(eager, **inputs))
    with torch.no_grad():
        assert len(model(**inputs, output_attentions=True).attentions) == L
    with model.ablate_heads(HEADS):
        oracle = logits(zero_o_proj(eager, HEADS), **inputs)
        torch.testing.assert_close(logits(model, **inputs), oracle, atol=1e-4, rtol=0)
    for each in (model, eager):
        each.set_attn_implementation({"text_config": "sdpa"})
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert torch.equal(logits(model, **inputs), logits(eager, **inputs))


@contextlib.contextmanager
def native_forward_that(act, model, monkeypatch):
    """Inside the block the layers' native forward calls act(self) first."""
    native_class = type(attentions(model)[0]).native_class
    forward = native_class.forward

    def acting(self, *args, **kwargs):
        act(self)
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(native_class, "forward", acting)
        yield


def test_a_native_forward_reads_and_writes_the_module(model, monkeypatch):
    config, modules = model.config.get_text_config(), attentions(model)
    names = []

    def act(view):
        names.append(view.config._attn_implementation)
        assert view.config.num_attention_heads == H
        assert view.q_proj is modules[view.layer_idx].q_proj
        view.config.attention_dropout = 0.25
        view.noted = 2 * view.layer_idx
        for missing in (view, view.config):
            with pytest.raises(AttributeError):
                missing.no_such_field  # noqa: B018

    with native_forward_that(act, model, monkeypatch):
        logits(model, **text_inputs(4))
        assert names == ["sdpa"] * L
        with model.record_outputs():
            logits(model, **text_inputs(4))
    assert names == ["sdpa"] * L + [NAME] * L
    assert config.attention_dropout == 0.25
    assert [module.noted for module in modules] == [2 * layer for layer in range(L)]


def test_config_of_a_module_is_the_real_one_in_every_mode(model):
    config = model.config.get_text_config()
    with model.record_outputs():
        assert all(module.config is config for module in attentions(model))
        seen = []
        hooks = [m.register_forward_hook(lambda m, *_: seen.append(m.config)) for m in attentions(model)]
        logits(model, **text_inputs(4))
        assert [found is config for found in seen] == [True] * L
        for hook in hooks:
            hook.remove()


def test_corehead_is_not_a_backend(model):
    model.set_attn_implementation({"text_config": NAME})
    with pytest.raises(RuntimeError, match="attn_implementation='corehead' was asked of a CoRe.*from_model"):
        logits(model, **text_inputs(4))
    with model.record_outputs(), pytest.raises(RuntimeError, match="attn_implementation='corehead' was asked"):
        logits(model, **text_inputs(4))


def test_only_the_text_decoder_enters_and_only_while_a_mode_is_on(wrapped):
    layers = []

    def spy(view, *args, **kwargs):
        layers.append(view.module)
        return core_attention(view, *args, **kwargs)

    AttentionInterface.register(NAME, spy)
    try:
        logits(wrapped, **inputs_for(wrapped))
        assert layers == []
        with wrapped.record_outputs():
            logits(wrapped, **inputs_for(wrapped))
    finally:
        AttentionInterface.register(NAME, core_attention)
    assert layers == attentions(wrapped)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_forward_that_passes_the_interface_by_fails_closed(variant, monkeypatch):
    model = AutoCoReModel.from_model(build(variant))
    native_class = type(attentions(model)[0]).native_class
    hidden = lambda self, hidden_states, *args, **kwargs: (hidden_states, None)  # noqa: E731
    monkeypatch.setattr(native_class, "forward", hidden)
    logits(model, **text_inputs(4))  # no mode is on: nothing is lost
    with model.ablate_heads(HEADS), pytest.raises(RuntimeError, match="layer 0 answered without.*use a version"):
        logits(model, **text_inputs(4))


def test_an_instance_that_kept_the_native_forward_fails_closed(model):
    plain = logits(model, **text_inputs(4))
    module = attentions(model)[1]
    module.forward = type(module).native_class.forward.__get__(module)
    assert torch.equal(logits(model, **text_inputs(4)), plain)
    with model.ablate_heads(HEADS), pytest.raises(RuntimeError, match="layer 1 answered.*does not call CoRe's"):
        logits(model, **text_inputs(4))


def test_split_heads_are_refused_while_a_mode_is_on(model):
    model.config.get_text_config().num_attention_heads = 2 * H  # as a rank of tensor parallelism sees it
    inputs = text_inputs(4)
    logits(model, **inputs)
    with (
        model.record_outputs(),
        pytest.raises(RuntimeError, match=f"layer 0 got {H} of {2 * H} heads.*device_map"),
    ):
        logits(model, **inputs)


def test_modes_wrap_each_other_by_their_order(model):
    class Probe:
        def __init__(self, order, log):
            self.order, self.log = order, log

        def attend(self, call, inner):
            self.log.append(("in", self.order, call.layer))
            answer = inner(call)
            self.log.append(("out", self.order, call.layer))
            return answer

    log, state = [], model.core_state
    probes = [Probe(order, log) for order in (3, 1, 2)]
    for probe in probes:
        state.add(probe)
    logits(model, **text_inputs(4))
    one_layer = [("in", 1), ("in", 2), ("in", 3), ("out", 3), ("out", 2), ("out", 1)]
    assert log == [(*step, layer) for layer in range(L) for step in one_layer]
    state.remove(probes[0])
    assert [probe.order for probe in state.modes] == [1, 2]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_what_a_mode_sees(wrapped, kind):
    inputs = inputs_for(wrapped, 2, [0, 5])
    length = inputs["input_ids"].shape[1]
    with watch(wrapped) as seen:
        generate(wrapped, inputs, 3, **({"cache_implementation": "static"} if kind == "static" else {}))
    first, last = seen.calls[0], seen.calls[-1]
    assert [call.layer for call in seen.calls] == list(range(L)) * 3
    assert (first.past_length, first.num_queries, first.end) == (0, length, length)
    assert (last.past_length, last.num_queries, last.end) == (length + 1, 1, length + 2)
    assert first.query.shape == (2, H, length, D)
    trimmed = last.without_empty_slots()
    assert trimmed.key.shape == trimmed.value.shape == (2, KV, length + 2, D)
    assert first.scaling == D**-0.5
    for call in (first, last, trimmed):
        assert call.first_token().tolist() == [0, 5]


@pytest.mark.parametrize(
    "mask, expected",
    [
        (None, None),
        (torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]), [0, 2]),
        (torch.tensor([[[[True] * 4]], [[[False, True, True, True]]]]), [0, 1]),
        (torch.tensor([[[[0.0] * 4]], [[[torch.finfo(torch.float32).min] * 3 + [0.0]]]]), [0, 3]),
        (torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]]), [0, 1]),  # a static cache's mask is longer
    ],
    ids=["none", "2-D", "bool 4-D", "additive 4-D", "longer than the tokens"],
)
def test_first_token_of_every_mask_form(mask, expected):
    call = AttentionCall(None, torch.zeros(2, 1, 4, 2), None, None, mask, 0, {})
    found = call.first_token()
    assert (found if found is None else found.tolist()) == expected


def test_first_token_refuses_other_masks():
    call = AttentionCall(None, torch.zeros(1, 1, 4, 2), None, None, object(), 0, {})
    with pytest.raises(ValueError, match="mask of type object.*use the sdpa, eager or flash"):
        call.first_token()


@pytest.mark.parametrize("packed", [{"cache": object()}, {"cu_seq_lens_q": torch.tensor([0, 2])}])
def test_packed_calls_are_refused(packed):
    call = AttentionCall(None, None, None, None, None, 0, packed)
    with pytest.raises(ValueError, match="recording was asked in a packed"):
        call.refuse_packed("recording")


def test_the_oracle_of_these_tests_is_the_native_model(variant):
    """explicit_masks with the native mask is the model itself: later tests may trust it."""
    native = build(variant)
    inputs = inputs_for(native, 2, [0, 5])
    real = inputs["attention_mask"].bool()
    with explicit_masks(build(variant), lambda layer, mask: mask) as oracle:
        expected = logits(oracle, **inputs)
    torch.testing.assert_close(logits(native, **inputs)[real], expected[real], atol=1e-4, rtol=0)
