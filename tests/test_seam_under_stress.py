"""The seam under what others do to models: modes that end inside a call, compiled copies, replicas, FSDP, patches."""

import copy
import functools
import pickle
import sys

import pytest
import torch
from tiny_models import L, attentions, build, inputs_for, logits, text_inputs

from corehead_hf import AutoCoReModel
from corehead_hf.attention import CoReAttention
from corehead_hf.patching import decoder_attentions

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]
HYBRID = {"heads": [(0, 0), (1, 2)], "sink_size": 2, "window_size": 4, "dense_below": 0}


@pytest.fixture
def model(variant):
    return AutoCoReModel.from_model(build(variant))


def ended_inside(model, **inputs):
    """Logits of a call during which another thread turns every mode off, between two layers."""
    state = model.core_state
    modes = state.modes
    hook = attentions(model)[1].register_forward_pre_hook(lambda *_: setattr(state, "modes", []))
    try:
        return logits(model, **inputs)
    finally:
        hook.remove()
        state.modes = modes


def test_a_call_keeps_the_modes_that_it_began_with(model):
    inputs = text_inputs(20, 2, [0, 5])
    with model.ablate_heads(HEADS):
        assert torch.equal(ended_inside(model, **inputs), logits(model, **inputs))
    model.enable_hybrid(**HYBRID)
    found = ended_inside(model, **inputs)
    assert torch.equal(found, logits(model, **inputs))
    inputs["input_ids"][:, -1] += 1
    assert torch.equal(ended_inside(model, **inputs)[:, :-1], found[:, :-1]), "tokens see the future"


@pytest.mark.parametrize("reentrant", [True, False])
def test_backward_outside_the_block_recomputes_what_was_ablated(reentrant):
    inputs = text_inputs(12)

    def gradients(checkpointing):
        model = AutoCoReModel.from_model(build("qwen3_vl")).train()
        if checkpointing:
            renamed = getattr(model, "activation_checkpointing_enable", None)  # transformers >= 5.23
            (renamed or model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with model.ablate_heads(HEADS):
            loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients(False), gradients(True)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_mode_that_is_left_after_uninstalling(model):
    with model.ablate_heads(HEADS):
        model.uninstall_core()
    assert not any(isinstance(module, CoReAttention) for module in model.modules())


@pytest.mark.parametrize("variant", ["qwen3_vl", "llava_onevision", "internvl_qwen3"])
@pytest.mark.parametrize("what", ["model", "attention"])
def test_a_copy_of_a_compiled_model_has_weights_and_modes_of_its_own(what, model):
    compiled = model if what == "model" else attentions(model)[1]
    compiled.compile(backend="eager")
    inputs = text_inputs(8)
    plain = logits(model, **inputs)
    twin = copy.deepcopy(model)
    with twin.ablate_heads(HEADS):
        assert not torch.equal(logits(twin, **inputs), plain)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(logits(twin, **inputs), torch.zeros_like(plain))
    torch._dynamo.reset()


def test_a_compiled_attention_can_be_pickled():
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    expected = logits(model, **text_inputs(8))
    attentions(model)[0].compile(backend="eager")
    assert torch.equal(logits(pickle.loads(pickle.dumps(model)), **text_inputs(8)), expected)


def test_core_in_a_model_that_torch_compile_wraps(model):
    native = copy.deepcopy(model)
    native.uninstall_core()
    expected = logits(native, **text_inputs(20))
    wrapper = torch.compile(native, backend="eager")
    wrapped = AutoCoReModel.from_model(wrapper)
    wrapped.enable_hybrid(**HYBRID)
    assert float((logits(native, **text_inputs(20)) - expected).abs().max()) > 0.1
    wrapped.uninstall_core()
    assert torch.equal(logits(native, **text_inputs(20)), expected)
    assert not any(isinstance(module, CoReAttention) for module in native.modules())
    torch._dynamo.reset()


def test_a_replica_as_data_parallel_makes_it(model):
    replica = model._replicate_for_data_parallel()
    assert type(replica) is type(model) and replica.core_state is model.core_state
    with pytest.raises(TypeError):
        type(model)(unknown=1)


@pytest.mark.parametrize("variant", ["qwen3_vl"])
def test_eager_attention_of_a_class_from_another_module(variant, monkeypatch):
    native = build(variant, "eager")
    expected = logits(AutoCoReModel.from_model(build(variant, "eager")), **text_inputs(8))
    own = type("Own", (type(attentions(native)[0]),), {"__module__": "a_module_of_ones_own"})
    monkeypatch.setitem(sys.modules, "a_module_of_ones_own", sys)
    for module in attentions(native):
        module.__class__ = own
    model = AutoCoReModel.from_model(native)
    with model.record_outputs():
        assert torch.equal(logits(model, **text_inputs(8)), expected)


def test_a_forward_that_was_replaced_before_is_refused(variant):
    native = build(variant)
    module = decoder_attentions(native)[1]
    module.forward = functools.partial(type(module).forward, module)
    with pytest.raises(RuntimeError, match="the forward of layer 1's .* was replaced.*Install CoRe first"):
        AutoCoReModel.from_model(native)
    assert not any(isinstance(m, CoReAttention) for m in native.modules())


def test_a_class_in_front_of_cores_is_not_lost(model):
    """As FSDP's fully_shard puts it there."""
    module = attentions(model)[0]
    module.__class__ = type("FSDP" + type(module).__name__, (type(module),), {})
    before = [type(m) for m in model.modules()]
    with pytest.raises(RuntimeError, match="FSDPCoRe.* stands in front of CoRe's class.*before the model is sharded"):
        model.uninstall_core()
    with pytest.raises(RuntimeError, match="FSDPCoRe.* stands in front"):
        model.enable_hybrid(**HYBRID, fuse=True)
    assert [type(m) for m in model.modules()] == before and len(attentions(model)) == L


def test_a_hook_may_replay_the_arguments_of_an_earlier_call(model):
    seen = {}
    module = attentions(model)[0]
    hook = module.register_forward_pre_hook(lambda m, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with model.ablate_heads(HEADS):
        logits(model, **inputs_for(model))
        hook.remove()
        assert torch.isfinite(module(**seen)[0]).all()
