"""AblateHeads: the four variants against oracles that know nothing of it, in prefill and decode."""

import copy

import pytest
import torch
from tiny_models import (
    D,
    H,
    L,
    attend64,
    build,
    causal,
    explicit_masks,
    generate,
    inputs_for,
    logits,
    masks_for,
    streaming,
    text_inputs,
    watch,
    zero_o_proj,
)

from corehead_hf import AutoCoReModel
from corehead_hf.modes import ABLATION_VARIANTS

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]
MASK = torch.zeros(L, H, dtype=torch.bool)
MASK[tuple(torch.tensor(HEADS).T)] = True
ALL = torch.ones(L, H, dtype=torch.bool)


def options_for(variant, inputs):
    generator = torch.Generator().manual_seed(5)
    return {
        "zero": {},
        "mean": {"mean_output": torch.randn(L, H, D, generator=generator)},
        "visual": {"visual_mask": masks_for(inputs)[2]},
        "stream": {"sink_size": 1, "window_size": 3},
    }[variant]


@pytest.mark.parametrize("ablation", ABLATION_VARIANTS)
def test_ablating_nothing_changes_no_bit(wrapped, ablation):
    inputs = inputs_for(wrapped, 2, [0, 5])
    plain, tokens = logits(wrapped, **inputs), generate(wrapped, inputs)
    with wrapped.ablate_heads(torch.zeros(L, H, dtype=torch.bool), ablation, **options_for(ablation, inputs)):
        assert torch.equal(logits(wrapped, **inputs), plain)
        assert torch.equal(generate(wrapped, inputs), tokens)


@pytest.mark.parametrize("ablation", ABLATION_VARIANTS)
def test_afterwards_the_model_is_the_native_one(wrapped, ablation):
    inputs = inputs_for(wrapped, 2, [0, 5])
    plain = logits(wrapped, **inputs)
    with wrapped.ablate_heads(HEADS, ablation, **options_for(ablation, inputs)):
        assert float((logits(wrapped, **inputs) - plain).abs().max()) > 0.1
    assert torch.equal(logits(wrapped, **inputs), plain)
    assert wrapped.core_state.modes == []


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_zero_equals_zeroed_o_proj_columns(variant, left_pad, static):
    native = build(variant)
    inputs = inputs_for(native, 2, left_pad)
    options = {"cache_implementation": "static"} if static else {}
    oracle = zero_o_proj(native, HEADS)
    expected, tokens = logits(oracle, **inputs), generate(oracle, inputs, 8, **options)
    model = AutoCoReModel.from_model(native)
    assert not torch.equal(generate(model, inputs, 8, **options), tokens), "ablation would not show in these tokens"
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)
        assert torch.equal(generate(model, inputs, 8, **options), tokens)


def test_zero_takes_each_single_head(model):
    """Every (layer, head) by itself: no index is off by one or counted in kv heads."""
    inputs = inputs_for(model)
    native = build("qwen3_vl")
    for layer in range(L):
        for head in range(H):
            expected = logits(zero_o_proj(native, [(layer, head)]), **inputs)
            with model.ablate_heads([(layer, head)]):
                torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)


def test_zero_keeps_gradients_of_the_other_heads(wrapped):
    inputs = inputs_for(wrapped)
    with wrapped.ablate_heads(HEADS):
        wrapped(**inputs, labels=inputs["input_ids"]).loss.backward()
    for layer, module in enumerate(wrapped.model.language_model.layers):
        gradient = module.self_attn.q_proj.weight.grad.view(H, D, -1).abs().amax(dim=(1, 2))
        assert [bool(g == 0) for g in gradient] == MASK[layer].tolist()


def test_heads_may_be_a_mask_or_pairs(model):
    inputs = inputs_for(model)
    with model.ablate_heads(HEADS):
        pairs = logits(model, **inputs)
    with model.ablate_heads(MASK):
        assert torch.equal(logits(model, **inputs), pairs)


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_mean_by_hand(wrapped, left_pad):
    """Outputs of the ablated heads are the given means at every token, those of all others are untouched."""
    inputs = inputs_for(wrapped, 2, left_pad)
    mean = options_for("mean", inputs)["mean_output"]
    with watch(wrapped) as plain:
        generate(wrapped, inputs, 2)
    with watch(wrapped) as seen, wrapped.ablate_heads(HEADS, "mean", mean_output=mean):
        generate(wrapped, inputs, 2)
    for layer, output in enumerate(seen.outputs[:L]):
        assert torch.equal(output[:, :, MASK[layer]], mean[layer][MASK[layer]].expand(*output.shape[:2], -1, -1))
    assert torch.equal(seen.outputs[0][:, :, ~MASK[0]], plain.outputs[0][:, :, ~MASK[0]])
    for layer, output in enumerate(seen.outputs[L:]):  # decode
        assert torch.equal(output[:, 0, MASK[layer]], mean[layer][MASK[layer]].expand(2, -1, -1))


def test_mean_of_recorded_outputs_through_o_proj(wrapped):
    """By hand in weights: zero the heads and add o_proj(mean) to the layer's output."""
    inputs = inputs_for(wrapped)
    with wrapped.record_outputs() as reference:
        wrapped.prefill(**inputs)
    oracle = zero_o_proj(native_copy(wrapped), HEADS)
    for layer, module in enumerate(oracle.model.language_model.layers):
        mean = torch.where(MASK[layer][:, None], reference.mean[layer], 0.0).flatten()
        shift = wrapped.model.language_model.layers[layer].self_attn.o_proj.weight @ mean
        module.self_attn.o_proj.register_forward_hook(lambda m, args, out, shift=shift: out + shift)
    with wrapped.ablate_heads(HEADS, "mean", mean_output=reference.mean):
        found = logits(wrapped, **inputs)
    torch.testing.assert_close(found, logits(oracle, **inputs), atol=2e-4, rtol=0)


def native_copy(wrapped):
    native = copy.deepcopy(wrapped)
    native.uninstall_core()
    return native


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_visual_equals_attention_with_those_columns_masked(variant, left_pad, attn):
    native = build(variant, attn)
    inputs = inputs_for(native, 2, left_pad)
    visual, real = masks_for(inputs)[2], inputs["attention_mask"].bool()

    def visible(layer, mask):
        blind = MASK[layer][None, :, None, None] & visual[:, None, None]
        return mask & ~blind

    with explicit_masks(build(variant), visible) as oracle:
        expected = logits(oracle, **inputs)
    model = AutoCoReModel.from_model(native)
    with model.ablate_heads(HEADS, "visual", visual_mask=visual):
        torch.testing.assert_close(logits(model, **inputs)[real], expected[real], atol=2e-4, rtol=0)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("ablation", ["visual", "stream"])
def test_decode_against_float64_on_captured_query_and_key(wrapped, ablation, static):
    """Generated columns are never visual; sink and window count over the whole cache."""
    inputs = inputs_for(wrapped)
    visual = masks_for(inputs)[2][0]
    options = {"cache_implementation": "static"} if static else {}
    with watch(wrapped) as seen, wrapped.ablate_heads(ALL, ablation, **options_for(ablation, inputs)):
        generate(wrapped, inputs, 4, **options)
    assert len(seen.calls) == 4 * L
    for call, output in zip(seen.calls, seen.outputs, strict=True):
        query, (key, value) = call.query, (x[:, :, : call.end] for x in (call.key, call.value))
        seen_columns = causal(call.num_queries, call.end)
        if ablation == "visual":
            seen_columns = seen_columns & ~torch.nn.functional.pad(visual, (0, call.end - len(visual)))
        else:
            seen_columns = streaming(call.num_queries, call.end, 1, 3)
        expected = attend64(query, key, value, seen_columns, D**-0.5).float()
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_visual_gives_zero_where_only_visual_columns_are_seen(attn):
    """Not the average over hidden columns that an additive mask would leave: a row never sees the future."""
    model = AutoCoReModel.from_model(build("qwen3_vl", attn))
    inputs = text_inputs(8, 2, [0, 3])
    visual = torch.zeros(2, 8, dtype=torch.bool)
    visual[0, :2] = visual[1, 3:5] = True
    with watch(model) as seen, model.ablate_heads(ALL, "visual", visual_mask=visual):
        logits(model, **inputs)
    for output in seen.outputs:
        assert bool((output[0, :2] == 0).all()) and bool((output[1, 3:5] == 0).all())
        assert bool((output[0, 2:] != 0).any()) and bool((output[1, 5:] != 0).any())


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_stream_equals_attention_under_the_explicit_mask(variant, left_pad):
    native = build(variant)
    inputs = inputs_for(native, 2, left_pad)
    real = inputs["attention_mask"].bool()
    first = (~real).sum(dim=1)

    def visible(layer, mask):
        length = mask.shape[-1]
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        near = (key - first[:, None, None, None] < 1) | (query - key < 3)
        return torch.where(MASK[layer][None, :, None, None], mask & near, mask)

    with explicit_masks(build(variant), visible) as oracle:
        expected = logits(oracle, **inputs)
    model = AutoCoReModel.from_model(native)
    with model.ablate_heads(HEADS, "stream", sink_size=1, window_size=3):
        torch.testing.assert_close(logits(model, **inputs)[real], expected[real], atol=2e-4, rtol=0)


def test_stream_with_a_window_over_everything_is_dense(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5])
    real = inputs["attention_mask"].bool()
    plain = logits(wrapped, **inputs)
    with wrapped.ablate_heads(ALL, "stream", sink_size=0, window_size=inputs["input_ids"].shape[1]):
        torch.testing.assert_close(logits(wrapped, **inputs)[real], plain[real], atol=1e-4, rtol=0)


def test_attention_weights_of_zeroed_heads_are_zero_and_unknown_otherwise():
    model = AutoCoReModel.from_model(build("internvl_qwen3", "eager"))
    inputs = inputs_for(model)
    with torch.no_grad(), model.ablate_heads(HEADS):
        found = model(**inputs, output_attentions=True).attentions
    for layer, weights in enumerate(found):
        assert weights.abs().amax(dim=(0, 2, 3)).eq(0).tolist() == MASK[layer].tolist()


def test_ablations_nest_and_survive_exceptions(wrapped):
    inputs = inputs_for(wrapped)
    plain = logits(wrapped, **inputs)
    with wrapped.ablate_heads(HEADS):
        both = logits(wrapped, **inputs)
    with wrapped.ablate_heads(HEADS[:2]):
        outer = logits(wrapped, **inputs)
        with pytest.raises(KeyError), wrapped.ablate_heads(HEADS[2:]):
            torch.testing.assert_close(logits(wrapped, **inputs), both, atol=1e-5, rtol=0)
            raise KeyError("the user's own")
        assert torch.equal(logits(wrapped, **inputs), outer)
    assert torch.equal(logits(wrapped, **inputs), plain)


def test_ablation_on_top_of_hybrid_and_recording(model):
    """zero takes the head out after the hybrid kernel; the order of the with statements does not matter."""
    inputs = inputs_for(model, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    settings = {"heads": [(0, 0), (2, 1)], "sink_size": 1, "window_size": 3, "dense_below": 0}
    oracle = AutoCoReModel.from_model(zero_o_proj(build("qwen3_vl"), HEADS))
    oracle.enable_hybrid(**settings)
    expected, tokens = logits(oracle, **inputs), generate(oracle, inputs)
    with model.ablate_heads(HEADS):
        model.enable_hybrid(**settings)
        with model.record_attention(question, evidence):
            torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)
    with model.ablate_heads(HEADS):
        assert torch.equal(generate(model, inputs), tokens)
    model.disable_hybrid()
    assert model.core_state.modes == []


@pytest.mark.parametrize(
    "heads, ablation, options, message",
    [
        (HEADS, "dim", {}, "variant 'dim' is unknown; choose one of zero, mean, visual, stream"),
        (HEADS, "mean", {}, r"needs mean_output float \[L, Hq, D\].*got None; record it with"),
        (HEADS, "mean", {"mean_output": torch.zeros(L, H)}, r"got \(3, 4\)"),
        (HEADS, "visual", {}, "needs visual_mask.*got None"),
        (HEADS, "visual", {"visual_mask": torch.ones(7)}, r"visual_mask has shape \[7\]"),
        ([(L, 0)], "zero", {}, rf"head \({L}, 0\) was asked; the model has {L} layers x {H} heads"),
        ([(0, -1)], "zero", {}, r"head \(0, -1\) was asked"),
        (torch.ones(L, H), "zero", {}, r"heads is torch.float32 \[3, 4\]; it must be torch.bool \[3, 4\]"),
        (torch.ones(H, L, dtype=torch.bool), "zero", {}, r"heads is torch.bool \[4, 3\]"),
    ],
)
def test_bad_input_is_refused(model, heads, ablation, options, message):
    with pytest.raises(ValueError, match=message), model.ablate_heads(heads, ablation, **options):
        raise AssertionError("the block must not be entered")
    assert model.core_state.modes == []


def test_a_visual_mask_of_another_batch_is_refused(model):
    visual = torch.ones(3, 8, dtype=torch.bool)
    with (
        model.ablate_heads(HEADS, "visual", visual_mask=visual),
        pytest.raises(ValueError, match="3 rows, the batch 2"),
    ):
        logits(model, **text_inputs(8, 2))


@pytest.mark.parametrize("ablation", ["visual", "stream"])
def test_attention_dropout_is_refused_where_it_would_be_left_out(ablation):
    model = AutoCoReModel.from_model(build("qwen3_vl", attention_dropout=0.4))
    inputs = inputs_for(model)
    with model.ablate_heads(HEADS, ablation, **options_for(ablation, inputs)):
        logits(model, **inputs)
        model.train()
        with pytest.raises(ValueError, match="asked with attention_dropout=0.4 in training"):
            model(**inputs)
