"""When a layer of a hybrid prefill runs plain dense attention: by the rule, by request, never unsaid."""

import pytest
import torch
from tiny_models import H, L, build, explicit_masks, generate, inputs_for, logits, text_inputs, watch

from corehead_hf import AutoCoReModel
from corehead_hf.kernels import cost
from corehead_hf.modes import hybrid as hybrid_module

DENSE = [(0, 1), (1, 0), (1, 3), (2, 2)]
SIZES = {"sink_size": 2, "window_size": 4}
# every pair costs the same in every way, and calls cost nothing: hybrid wins wherever it computes fewer pairs
FAIR = cost.Rates(1, 1, 1, 1, 1, 0, 0, "test")
SLOW = cost.Rates(1000, 1, 1, 1, 1, 0, 0, "test")


@pytest.fixture
def rates(monkeypatch):
    """rates(...) makes models that turn hybrid prefill on after it believe in a machine."""
    from corehead_hf import model

    return lambda given: monkeypatch.setattr(model, "rates_of", lambda device, dtype: given)


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_a_short_prompt_on_this_machine_runs_native_bit_for_bit(wrapped, left_pad):
    inputs = inputs_for(wrapped, 2, left_pad)
    plain, tokens = logits(wrapped, **inputs), generate(wrapped, inputs)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)  # the real rates: twenty tokens are never worth it
    assert torch.equal(logits(wrapped, **inputs), plain)
    wrapped.enable_hybrid(heads=DENSE, **SIZES, dense_below=plain.shape[1] + 1)
    assert torch.equal(logits(wrapped, **inputs), plain)
    assert torch.equal(generate(wrapped, inputs), tokens)
    wrapped.enable_hybrid(heads=DENSE, **SIZES, dense_below=plain.shape[1])
    assert not torch.equal(logits(wrapped, **inputs), plain)


def test_the_rule_decides_by_the_rates(model, rates):
    inputs = text_inputs(20, 2)
    plain = logits(model, **inputs)
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0)
    streamed = logits(model, **inputs)
    rates(SLOW)
    model.enable_hybrid(heads=DENSE, **SIZES)
    assert torch.equal(logits(model, **inputs), plain)
    rates(FAIR)
    model.enable_hybrid(heads=DENSE, **SIZES)
    assert torch.equal(logits(model, **inputs), streamed)
    assert not torch.equal(streamed, plain)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_layers_decide_one_by_one(variant, attn, left_pad, monkeypatch):
    """A layer the rule leaves dense attends to everything, its neighbours stream: the explicit masks say which."""
    model = AutoCoReModel.from_model(build(variant, attn))
    inputs = inputs_for(model, 2, left_pad)
    real, first = inputs["attention_mask"].bool(), (inputs["attention_mask"] == 0).sum(dim=1)[:, None, None, None]
    chosen = (False, True, False)
    monkeypatch.setattr(hybrid_module, "_slower_layers", lambda *args: chosen)

    def visible(layer, mask):
        query, key = torch.arange(mask.shape[-1])[:, None], torch.arange(mask.shape[-1])[None]
        streaming = mask & ((key - first < 2) | (query - key < 4))
        return mask.expand(-1, H, -1, -1) if chosen[layer] else streaming.expand(-1, H, -1, -1)

    with explicit_masks(build(variant), visible) as oracle:
        expected = logits(oracle, **inputs)
    model.enable_hybrid(heads=[], **SIZES)
    torch.testing.assert_close(logits(model, **inputs)[real], expected[real], atol=2e-4, rtol=0)


def test_a_layer_left_dense_without_padding_runs_the_users_backend(model, monkeypatch):
    monkeypatch.setattr(hybrid_module, "_slower_layers", lambda *args: (True, False, True))
    inputs = text_inputs(20, 2)
    with watch(model) as plain:
        logits(model, **inputs)
    model.enable_hybrid(heads=[], **SIZES)
    with watch(model) as seen:
        logits(model, **inputs)
    assert torch.equal(seen.outputs[0], plain.outputs[0])
    assert not torch.equal(seen.outputs[1], plain.outputs[1])


def test_it_is_said_once(model, caplog):
    inputs = text_inputs(20, 2)
    model.enable_hybrid(heads=DENSE, **SIZES)
    generate(model, inputs)
    generate(model, inputs)
    said = [r.getMessage() for r in caplog.records if "run dense attention" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{L} of {L} layers run dense attention in a prefill of 20 tokens")
    assert "not estimated to be faster" in said[0] and "dense_below=0" in said[0]
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=100)
    logits(model, **inputs)
    assert "dense_below asks for it" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "settings",
    [
        {"heads": DENSE, "dense_below": 0},
        {"heads": DENSE, "dense_below": 20},
        {"heads": torch.ones(L, H, dtype=torch.bool)},  # dense was asked for
    ],
)
def test_nothing_is_said_where_nothing_was_changed(model, settings, caplog):
    model.enable_hybrid(**settings, **SIZES)
    generate(model, text_inputs(20, 2))
    model.enable_hybrid(heads=DENSE, sink_size=2, window_size=20)  # a streaming head would see everything
    logits(model, **text_inputs(20, 2))
    assert [r for r in caplog.records if "dense attention" in r.getMessage()] == []


def test_decode_and_a_cached_turn_are_no_prefill(model):
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0)
    assert model.hybrid.dense_layers(20, 0) == (False,) * L
    assert model.hybrid.dense_layers(1, 19) == (True,) * L
    assert model.hybrid.dense_layers(5, 15) == (True,) * L
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0, chunked=True)
    assert model.hybrid.dense_layers(5, 15) == (False,) * L


@pytest.mark.parametrize("given", [-1, 0.5, "always", None])
def test_nonsense_is_refused(model, given):
    with pytest.raises(ValueError, match="dense_below="):
        model.enable_hybrid(heads=DENSE, dense_below=given)


@pytest.mark.parametrize("backend", ["triton_one_launch", "triton"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_the_triton_kernel_gives_the_model_what_banded_gives(variant, backend, left_pad):
    """Interpreted here; on a device the gpu tests of the modes run it."""
    if torch.cuda.is_available():
        pytest.skip("triton's interpreter is off where there is CUDA")
    model = AutoCoReModel.from_model(build(variant))
    inputs = inputs_for(model, 2, left_pad)
    real = inputs["attention_mask"].bool()
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0)
    expected = logits(model, **inputs)
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0, backend=backend)
    assert model.hybrid_backend == backend
    with torch.no_grad():
        found = logits(model, **inputs)
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=0)
    assert not torch.equal(found, expected), "another kernel: equal bits would mean that it did not run"


def test_triton_where_gradients_flow():
    if torch.cuda.is_available():
        pytest.skip("triton's interpreter is off where there is CUDA")
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    inputs = text_inputs(20)
    for backend in ("banded", "triton"):
        model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0, backend=backend)
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        gradient = model.model.language_model.layers[0].self_attn.q_proj.weight.grad
        assert bool(gradient.isfinite().all()) and bool((gradient != 0).any())
    model.enable_hybrid(heads=DENSE, **SIZES, dense_below=0, backend="triton_one_launch")
    with pytest.raises(RuntimeError, match="no backward pass"):
        model(**inputs, labels=inputs["input_ids"], use_cache=False)
