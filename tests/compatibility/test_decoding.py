"""Every way of decoding: bit-equal without modes; under them the tokens that independent oracles choose."""

import pytest
import torch
from generating import DENSE, NEW, SIZES, asked, check_generating, check_modes, new_tokens, same, streamed
from tiny_models import VERSION, H, L, build, explicit_masks, inputs_for, text_inputs, watch, zero_o_proj
from transformers import GenerationConfig

from corehead_hf import AutoCoReModel

PROMPTS = [text_inputs(20, seed=seed) for seed in (1, 2)]


def way(feature, copies=1, **options):
    return pytest.param(options, copies, id=feature, marks=pytest.mark.compatibility("Decoding", feature))


@pytest.mark.parametrize(
    "options, copies",
    [
        way("greedy"),
        way("sampling", do_sample=True, temperature=0.9, top_p=0.95),
        way("several sequences of one prompt", copies=2, do_sample=True, num_return_sequences=2),
        way("beam search", copies=3, num_beams=3),
    ],
)
def test_a_left_padded_batch(family, options, copies):
    check_generating(family, inputs_for(build(family), 2, [0, 5]), options, copies=copies)


@pytest.mark.compatibility("Decoding", "assisted decoding")
def test_assisted_decoding(family):
    """Drafts change no token: the oracles decode greedily. The assistant has the model's own weights, native."""
    inputs = inputs_for(build(family))
    check_drafts(family, inputs, {"assistant_model": build(family)})


@pytest.mark.compatibility("Decoding", "prompt lookup")
def test_prompt_lookup(family):
    """A prompt that repeats itself, so that its n-grams are drafted."""
    check_drafts(family, repeating(), {"prompt_lookup_num_tokens": 3})


def repeating():
    ids = text_inputs(12)["input_ids"].repeat(1, 3)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def check_drafts(family, inputs, options):
    plain = check_modes(family, inputs, {**options, "max_new_tokens": 10}, {"max_new_tokens": 10})
    assert same(plain, new_tokens(build(family), inputs, max_new_tokens=10))
    model = AutoCoReModel.from_model(build(family))
    model.enable_hybrid(heads=DENSE, **SIZES)
    with watch(model) as seen:
        new_tokens(model, inputs, **options, max_new_tokens=10)
    verified = [call for call in seen.calls[L:] if call.num_queries > 1]
    assert verified and all(call.past_length > 0 for call in verified), "no drafts were verified on a filled cache"


@pytest.mark.compatibility("Decoding", "assisted decoding")
def test_a_wrapped_assistant_with_hybrid_prefill(family):
    """Its drafts come from a streamed prefill; the tokens are the main model's."""
    inputs = inputs_for(build(family))
    with explicit_masks(build(family), streamed) as oracle:
        drafted = new_tokens(oracle, inputs)
    expected = new_tokens(build(family), inputs)
    assistant = AutoCoReModel.from_model(build(family))
    assistant.enable_hybrid(heads=DENSE, **SIZES)
    assert same(new_tokens(assistant, inputs), drafted) and not same(drafted, expected)
    with watch(assistant) as seen:
        assert same(new_tokens(build(family), inputs, assistant_model=assistant), expected)
    assert any(call.num_queries > SIZES["window_size"] for call in seen.calls), "the assistant ran no hybrid prefill"


@pytest.mark.compatibility("Decoding", "recording while drafts are verified")
@pytest.mark.parametrize("drafts", ["assistant", "prompt lookup"])
def test_recording_while_drafts_are_verified(family, drafts, cell):
    """Their first step runs prompt and drafts in one call: longer than the masks, as a wrong prompt would be."""
    inputs = repeating()
    options = {"prompt_lookup_num_tokens": 3} if drafts == "prompt lookup" else {"assistant_model": build(family)}
    model = AutoCoReModel.from_model(build(family))
    with (
        model.record_attention(*asked(inputs)),
        cell.refused(ValueError, match="Assisted decoding adds drafts"),
    ):
        new_tokens(model, inputs, **options)
    with model.record_attention(*asked(inputs)) as recording:
        model.prefill(**inputs)
    assert recording.ram.shape == (1, L, H)


def batched(model):
    """New tokens of two prompts by continuous batching, which hands errors back in its outputs."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig  # transformers > 5.0

    greedy = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=119, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=32, block_size=16, max_batch_tokens=64)
    options = {"generation_config": greedy, "continuous_batching_config": small, "progress_bar": False}
    outputs = model.generate_batch([prompt["input_ids"][0].tolist() for prompt in PROMPTS], **options).values()
    for output in outputs:
        if output.error is not None:
            raise ValueError(output.error)
    return [output.generated_tokens for output in outputs]


def one_by_one(model):
    return [new_tokens(model, prompt)[0].tolist() for prompt in PROMPTS]


@pytest.mark.compatibility("Decoding", "continuous batching")
def test_continuous_batching(family, cell):
    native = build(family)
    if VERSION <= (5, 0):
        cell.unsupported("generate_batch() reads num_attention_heads from the whole model's configuration")
        assert not hasattr(native.config, "num_attention_heads")
        return
    expected, ablated = one_by_one(native), one_by_one(zero_o_proj(native, DENSE))
    assert expected != ablated
    model = AutoCoReModel.from_model(native)
    assert batched(model) == expected
    with model.ablate_heads(DENSE):
        assert batched(model) == ablated


@pytest.mark.compatibility("Decoding", "continuous batching, hybrid prefill")
def test_hybrid_prefill_in_continuous_batching(family, cell):
    if VERSION <= (5, 0):
        cell.unsupported("generate_batch() reads num_attention_heads from the whole model's configuration")
        return
    model = AutoCoReModel.from_model(build(family))
    model.enable_hybrid(heads=DENSE, **SIZES)
    with cell.refused(ValueError, match="hybrid prefill was asked in a packed or continuous-batching call"):
        batched(model)
