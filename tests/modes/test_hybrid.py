"""HybridPrefill: dense heads native, the others sink + window, decode untouched, nothing quadratic."""

import pytest
import torch
from tiny_models import (
    D,
    H,
    L,
    LargestTensor,
    attend64,
    attentions,
    build,
    causal,
    explicit_masks,
    generate,
    inputs_for,
    logits,
    masks_for,
    one_of,
    static_cache,
    streaming,
    text_inputs,
    watch,
)
from transformers import DynamicCache

from corehead_hf import AutoCoReModel

DENSE = [(0, 1), (1, 0), (1, 3), (2, 2)]
MASK = torch.zeros(L, H, dtype=torch.bool)
MASK[tuple(torch.tensor(DENSE).T)] = True
SIZES = {"sink_size": 2, "window_size": 4, "dense_below": 0}


def explicit(inputs, sink, window):
    """visible() of explicit_masks: the hybrid mask over the native one, sinks from the first real token."""
    first = (inputs["attention_mask"] == 0).sum(dim=1)[:, None, None, None]

    def visible(layer, mask):
        length = mask.shape[-1]
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        near = (key - first < sink) | (query - key < window)
        return torch.where(MASK[layer][None, :, None, None], mask, mask & near)

    return visible


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_all_dense_and_wide_windows_change_no_bit(wrapped, left_pad):
    inputs = inputs_for(wrapped, 2, left_pad)
    plain, tokens = logits(wrapped, **inputs), generate(wrapped, inputs)
    length = plain.shape[1]
    for settings in (
        {"heads": torch.ones(L, H, dtype=torch.bool), "sink_size": 0, "window_size": 1, "dense_below": 0},
        {"heads": DENSE, "sink_size": 0, "window_size": length, "dense_below": 0},
        {"heads": [], "sink_size": 3, "window_size": length + 100, "dense_below": 0},
    ):
        wrapped.enable_hybrid(**settings)
        assert torch.equal(logits(wrapped, **inputs), plain)
        wrapped.disable_hybrid()
        assert torch.equal(generate(wrapped, inputs), tokens)
    wrapped.enable_hybrid(heads=DENSE, sink_size=0, window_size=length - 1, dense_below=0)
    assert not torch.equal(logits(wrapped, **inputs), plain), "a window one token short already differs"


def test_layers_that_are_all_dense_equal_the_native_ones(wrapped):
    """Hybrid runs, but the first layers keep every head: their outputs are the native ones."""
    inputs = inputs_for(wrapped)
    heads = torch.ones(L, H, dtype=torch.bool)
    heads[L - 1] = False
    with watch(wrapped) as plain:
        logits(wrapped, **inputs)
    wrapped.enable_hybrid(heads=heads, **SIZES)
    with watch(wrapped) as seen:
        logits(wrapped, **inputs)
    for layer in range(L - 1):
        torch.testing.assert_close(seen.outputs[layer], plain.outputs[layer], atol=1e-5, rtol=0)
    assert float((seen.outputs[-1] - plain.outputs[-1]).abs().max()) > 0.1


def test_disable_restores_every_bit(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5])
    plain, tokens = logits(wrapped, **inputs), generate(wrapped, inputs)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    assert float((logits(wrapped, **inputs) - plain).abs().max()) > 0.1
    wrapped.disable_hybrid()
    wrapped.disable_hybrid()
    assert torch.equal(logits(wrapped, **inputs), plain)
    assert torch.equal(generate(wrapped, inputs), tokens)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_equals_attention_under_the_explicit_mask(variant, left_pad, attn, backend):
    model = AutoCoReModel.from_model(build(variant, attn))
    inputs = inputs_for(model, 2, left_pad)
    real = inputs["attention_mask"].bool()
    with explicit_masks(build(variant), explicit(inputs, 2, 4)) as oracle:
        expected = logits(oracle, **inputs)
    model.enable_hybrid(heads=DENSE, backend=backend, **SIZES)
    found = logits(model, **inputs)
    torch.testing.assert_close(found[real], expected[real], atol=2e-4, rtol=0)
    assert bool(found.isfinite().all())


@pytest.mark.compatibility("Batches and inputs", "left-padded batches of unequal length")
def test_a_padded_batch_is_its_sequences_one_by_one(wrapped):
    inputs = inputs_for(wrapped, 3, [0, 7, 2])
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    batch = logits(wrapped, **inputs)
    for row in range(3):
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(batch[row, real], logits(wrapped, **one_of(inputs, row))[0], atol=1e-4, rtol=0)


def test_no_mask_at_all_is_no_padding(wrapped):
    inputs = text_inputs(20, 2)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    expected = logits(wrapped, **inputs)
    del inputs["attention_mask"]
    assert torch.equal(logits(wrapped, **inputs), expected)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_decode_is_native_over_the_full_cache(wrapped, left_pad, static):
    inputs = inputs_for(wrapped, 2, left_pad)
    options = {"cache_implementation": "static"} if static else {}
    with watch(wrapped) as plain:
        generate(wrapped, inputs, 4, **options)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    with watch(wrapped) as seen:
        generate(wrapped, inputs, 4, **options)
    pads = torch.tensor(left_pad or [0, 0])
    for call, native, output in zip(seen.calls, plain.calls, seen.outputs, strict=True):
        length = call.end
        query, (key, value) = call.query, (x[:, :, :length] for x in (call.key, call.value))
        real = torch.arange(length) >= pads[:, None]
        dense = causal(call.num_queries, length) & real[:, None, None]
        if call.num_queries > 1:
            assert call.attention_mask.shape[2] == 1, "prefill carries the padding row"
            near = [streaming(length, length, 2 + pad, 4) for pad in pads.tolist()]
            visible = torch.where(MASK[call.layer][None, :, None, None], dense, dense & torch.stack(near)[:, None])
        else:
            visible = dense
            assert type(call.attention_mask) is type(native.attention_mask)
            if call.attention_mask is not None:
                assert torch.equal(call.attention_mask, native.attention_mask)
        expected = attend64(query, key, value, visible, D**-0.5).float()
        rows = real[:, -call.num_queries :]
        torch.testing.assert_close(output[rows], expected[rows], atol=1e-5, rtol=0)


def test_decode_calls_the_dense_backend_itself(model):
    inputs = inputs_for(model)
    model.enable_hybrid(heads=DENSE, **SIZES)
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        following = {"input_ids": torch.tensor([[7]]), "past_key_values": cache}
        with watch(model) as seen:
            model.model.language_model(**following, cache_position=torch.tensor([inputs["input_ids"].shape[1]]))
    for call, output in zip(seen.calls, seen.outputs, strict=True):
        native = torch.nn.functional.scaled_dot_product_attention(
            call.query, call.key, call.value, scale=D**-0.5, enable_gqa=True
        )
        assert torch.equal(output, native.transpose(1, 2))


def prefill_in_chunks(model, inputs, cuts, cache=None):
    """Hidden states of all tokens; the text model called chunk by chunk on one cache."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config()) if cache is None else cache
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    states = []
    for start, stop in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        with torch.no_grad():
            out = model.model.language_model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                past_key_values=cache,
                cache_position=torch.arange(start, stop),
            )
        states.append(out.last_hidden_state)
    return torch.cat(states, dim=1)


@pytest.mark.compatibility("Caches", "chunked prefill on a live cache")
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("left_pad", [[0, 0], [0, 5]], ids=["unpadded", "left padding"])
@pytest.mark.parametrize("cuts", [[7], [3, 8, 15]], ids=str)
def test_chunked_prefill_equals_the_whole(wrapped, left_pad, cuts, static):
    inputs = text_inputs(20, 2, left_pad)
    real = inputs["attention_mask"].bool()
    wrapped.enable_hybrid(heads=DENSE, chunked=True, **SIZES)
    whole = prefill_in_chunks(wrapped, inputs, [])
    cache = static_cache(wrapped, 25, 2) if static else None
    chunked = prefill_in_chunks(wrapped, inputs, cuts, cache)
    torch.testing.assert_close(chunked[real], whole[real], atol=1e-4, rtol=0)
    wrapped.disable_hybrid()
    dense = prefill_in_chunks(wrapped, inputs, [])
    assert float((whole[real] - dense[real]).abs().max()) > 0.05


def test_later_calls_stay_dense_unless_chunked_is_asked(wrapped):
    """A verification step of speculative decoding: T > 1 on a filled cache."""
    inputs = text_inputs(20, 2)
    for chunked in (False, True):
        wrapped.enable_hybrid(heads=DENSE, chunked=chunked, **SIZES)
        with watch(wrapped) as seen:
            prefill_in_chunks(wrapped, inputs, [14])
        for call, output in zip(seen.calls[L:], seen.outputs[L:], strict=True):
            assert (call.num_queries, call.past_length) == (6, 14)
            visible = causal(6, 20)
            if chunked:
                visible = torch.where(MASK[call.layer][None, :, None, None], visible, streaming(6, 20, 2, 4))
            expected = attend64(call.query, call.key, call.value, visible, D**-0.5).float()
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_verification_steps_of_prompt_lookup_stay_dense(wrapped):
    ids = text_inputs(12)["input_ids"].repeat(1, 3)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    with watch(wrapped) as seen:
        generate(wrapped, inputs, 10, prompt_lookup_num_tokens=3)
    steps = [(c, out) for c, out in zip(seen.calls, seen.outputs, strict=True) if c.past_length > 0]
    assert any(call.num_queries > 1 for call, _ in steps), "no verification step ran"
    for call, output in steps:
        visible = causal(call.num_queries, call.end)
        expected = attend64(call.query, call.key, call.value, visible, D**-0.5).float()
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_generate_equals_a_hand_written_loop(wrapped, static):
    """Prefill under the explicit mask of the oracle, then dense greedy decoding."""
    inputs = inputs_for(wrapped)
    length = inputs["input_ids"].shape[1]
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    options = {"cache_implementation": "static"} if static else {}
    found = generate(wrapped, inputs, 5, **options)[0, length:].tolist()
    wrapped.uninstall_core()

    def visible(layer, mask):
        rows = mask.shape[2]
        if rows == 1:
            return mask
        near = streaming(length, length, 2, 4)
        return torch.where(MASK[layer][None, :, None, None], mask, mask & near)

    with explicit_masks(wrapped, visible) as oracle:
        assert generate(oracle, inputs, 5)[0, length:].tolist() == found


def test_gradients_flow_through_hybrid(wrapped):
    inputs = inputs_for(wrapped)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    wrapped(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    gradients = [m.q_proj.weight.grad for m in attentions(wrapped)]
    assert all(bool(g.isfinite().all()) and bool((g != 0).any()) for g in gradients)


def test_nothing_quadratic_is_allocated_with_padding(wrapped):
    length = 2048
    inputs = text_inputs(length, 2, [0, 9])
    inputs["logits_to_keep"] = 1
    with LargestTensor() as dense:
        logits(wrapped, **inputs)
    assert dense.elements >= length * length, (
        "transformers no longer builds [B, 1, T, S]; this test cannot fail any more"
    )
    wrapped.enable_hybrid(heads=DENSE, sink_size=16, window_size=64, dense_below=0)
    with LargestTensor() as hybrid:
        found = logits(wrapped, **inputs)
    assert hybrid.elements < length * length / 2
    assert bool(found.isfinite().all())
    with LargestTensor() as chunked:
        wrapped.enable_hybrid(heads=DENSE, sink_size=16, window_size=64, dense_below=0, chunked=True)
        prefill_in_chunks(wrapped, {k: inputs[k] for k in ("input_ids", "attention_mask")}, [1024])
    assert chunked.elements < length * length / 2


def test_recording_with_hybrid_and_padding_allocates_nothing_quadratic(model):
    length = 2048
    inputs = text_inputs(length, 2, [0, 9])
    question, evidence = torch.zeros(2, length, dtype=torch.bool), torch.zeros(2, length, dtype=torch.bool)
    question[:, -4:] = evidence[:, 20:30] = True
    model.enable_hybrid(heads=DENSE, sink_size=16, window_size=64, dense_below=0)
    with model.record_attention(question, evidence) as recording, LargestTensor() as largest:
        model.prefill(**inputs)
    assert largest.elements < length * length / 8
    assert recording.num_columns.tolist() == [length, length - 9]


def test_settings_are_replaced_and_reported(model):
    assert model.hybrid is None and model.hybrid_backend is None
    model.enable_hybrid(heads=DENSE, **SIZES)
    model.enable_hybrid(heads=[(0, 0)], sink_size=1, window_size=3, dense_below=0, chunked=True, backend="reference")
    assert len(model.core_state.modes) == 1
    hybrid = model.hybrid
    assert (hybrid.sink_size, hybrid.window_size, hybrid.chunked) == (1, 3, True)
    assert hybrid.heads.nonzero().tolist() == [[0, 0]]
    assert model.hybrid_backend == "reference"
    model.disable_hybrid()
    assert model.hybrid is None and model.hybrid_backend is None


def test_hybrid_survives_exceptions_and_nested_modes(wrapped):
    inputs = inputs_for(wrapped)
    question, evidence, _ = masks_for(inputs)
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    expected = logits(wrapped, **inputs)
    with pytest.raises(KeyError), wrapped.record_attention(question, evidence), wrapped.ablate_heads(DENSE):
        raise KeyError("the user's own")
    assert torch.equal(logits(wrapped, **inputs), expected)
    with (
        wrapped.record_attention(question, evidence) as recording,
        wrapped.ablate_heads([]),
        wrapped.record_outputs(),
    ):
        assert torch.equal(logits(wrapped, **inputs), expected)
    assert recording.ram.shape == (1, L, H)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[1] * 5 + [0] * 3 + [1] * 12]),  # a hole
        torch.ones(1, 1, 20, 20, dtype=torch.bool).tril().triu(-10),  # the user's own pattern
    ],
    ids=["hole", "own pattern"],
)
def test_masks_that_are_not_causal_over_one_run_of_tokens_are_refused(model, mask):
    ids = text_inputs(20)["input_ids"]
    model.enable_hybrid(heads=DENSE, **SIZES)
    with (
        pytest.raises(ValueError, match="understands causal attention over one run of real tokens.*at their ends only"),
        torch.no_grad(),
    ):
        model.model.language_model(input_ids=ids, attention_mask=mask)


def test_a_causal_four_dimensional_mask_is_understood(model):
    """generate() builds one itself for static caches."""
    inputs = text_inputs(20, 2, [0, 5])
    full = causal(20, 20)[None, None] & inputs["attention_mask"].bool()[:, None, None]
    model.enable_hybrid(heads=DENSE, **SIZES)
    text_model = model.model.language_model
    with torch.no_grad():
        expected = text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        lowest = torch.finfo(torch.float32).min
        for mask in (full, torch.where(full, 0.0, lowest)):
            found = text_model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
            assert torch.equal(found, expected)


def test_a_layer_called_by_itself_is_refused(model):
    model.enable_hybrid(heads=DENSE, **SIZES)
    rope = (torch.ones(1, 9, D), torch.zeros(1, 9, D))
    with pytest.raises(RuntimeError, match="got no mask. Call the model, not its layers"):
        attentions(model)[0](torch.zeros(1, 9, 64), position_embeddings=rope, attention_mask=None)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_against_the_explicit_mask(variant, dtype):
    native = build(variant).to("cuda", dtype)
    inputs = {
        k: v.to("cuda", dtype if v.is_floating_point() else None) for k, v in inputs_for(native, 2, [0, 5]).items()
    }
    model = AutoCoReModel.from_model(native)
    model.enable_hybrid(heads=DENSE, **SIZES)
    with watch(model) as seen:
        assert bool(logits(model, **inputs).isfinite().all())
    for call, output in zip(seen.calls, seen.outputs, strict=True):
        query, key, value = (x.cpu() for x in (call.query, call.key, call.value))
        for row, pad in enumerate((0, 5)):
            length = query.shape[2] - pad
            near = torch.where(MASK[call.layer][:, None, None], causal(length, length), streaming(length, length, 2, 4))
            q, k, v = (x[row : row + 1, :, pad:] for x in (query, key, value))
            expected = attend64(q, k, v, near, D**-0.5).float()
            tolerance = 1e-4 if dtype == torch.float32 else 5e-2
            torch.testing.assert_close(
                output[row : row + 1, pad:].float().cpu(), expected, atol=tolerance, rtol=tolerance
            )


def test_packed_sequences_are_refused(wrapped):
    ids = torch.arange(10)[None] + 3
    restarting = torch.cat([torch.arange(5), torch.arange(5)])[None]
    text_model = wrapped.model.language_model
    wrapped.enable_hybrid(heads=DENSE, **SIZES)
    try:
        text_model(input_ids=ids, position_ids=torch.arange(10)[None])
        with pytest.raises(ValueError, match="packed sequences"):
            text_model(input_ids=ids, position_ids=restarting)
    finally:
        wrapped.disable_hybrid()


def test_attention_weights_cannot_be_had(wrapped):
    """Asked for in the call, or in the configuration: the kernels compute none."""
    inputs = text_inputs(20)
    wrapped.set_attn_implementation("eager")
    wrapped.enable_hybrid(heads=[(0, 0)], sink_size=1, window_size=4, dense_below=0)
    with pytest.raises(ValueError, match="output_attentions=True was asked in a hybrid prefill"):
        wrapped(**inputs, output_attentions=True)
    wrapped.disable_hybrid()
    assert len(wrapped(**inputs, output_attentions=True).attentions) == L


def test_attention_dropout_is_refused():
    """It would be left out silently; in eval mode there is none."""
    model = AutoCoReModel.from_model(build("qwen3_vl", attention_dropout=0.4))
    model.enable_hybrid(heads=[(0, 0)], sink_size=1, window_size=4, dense_below=0)
    logits(model, **text_inputs(20))
    model.train()
    with pytest.raises(ValueError, match="asked with attention_dropout=0.4 in training"):
        model(**text_inputs(20))
