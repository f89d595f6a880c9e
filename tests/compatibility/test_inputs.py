"""Batches and inputs: padding on either side, embeddings, mixed media; each row is its run by itself."""

import pytest
import torch
from generating import DENSE, NEW, SIZES, asked, check_generating, new_tokens, same, streamed
from prompts import prompt_inputs
from tiny_models import build, explicit_masks, inputs_for, logits, text_inputs, zero_o_proj

from corehead_hf import AutoCoReModel

SCORED = [[3, "image", 14], [3, "image", 8], [2, "image", 11]]
MIXED = [[3, "image", 2, "video", 7], [2, "video", 1, "image", 4, "image", 9]]
COUNTS = [[2, "image", 3, "image", 9], [4, "image", 8], [12]]


def check_rows(family, prompts, side="left"):
    """Logits of every real token: native without modes; hybrid prefill and ablation as oracles say of single rows."""
    native, oracle = build(family), build(family)
    batch, singles = prompt_inputs(native, prompts, side), singles_of(native, prompts)
    plain = logits(native, **batch)
    with explicit_masks(oracle, streamed):
        hybrid = [logits(oracle, **single)[0] for single in singles]
    ablated = [logits(zero_o_proj(native, DENSE), **single)[0] for single in singles]
    real = batch["attention_mask"].bool()
    model = AutoCoReModel.from_model(native)
    assert torch.equal(logits(model, **batch), plain)
    model.enable_hybrid(heads=DENSE, **SIZES)
    check_each(logits(model, **batch), real, hybrid)
    assert float((logits(model, **batch)[real] - plain[real]).abs().max()) > 0.1, "hybrid prefill changed nothing"
    model.disable_hybrid()
    with model.ablate_heads(DENSE):
        check_each(logits(model, **batch), real, ablated)
    return model


def singles_of(model, prompts):
    return [prompt_inputs(model, prompts, only=row) for row in range(len(prompts))]


def check_each(found, real, expected):
    assert bool(found.isfinite().all())
    for row, alone in enumerate(expected):
        torch.testing.assert_close(found[row, real[row]], alone, atol=2e-4, rtol=0)


def check_recording(model, prompts, side="left"):
    """RAM, chance, key tokens and mean outputs of a batch are those of its sequences one by one."""
    batch = prompt_inputs(model, prompts, side)
    options = {"keep_rows": True, "measure_key_tokens": True}
    with model.record_attention(*asked(batch), **options) as together, model.record_outputs() as outputs:
        model.prefill(**batch)
    total, sums = 0, 0
    for row, single in enumerate(singles_of(model, prompts)):
        with model.record_attention(*asked(single), **options) as alone, model.record_outputs() as own:
            model.prefill(**single)
        real, length = batch["attention_mask"][row].bool(), single["input_ids"].shape[1]
        torch.testing.assert_close(together.rows[row, :, :, real], alone.rows[0], atol=2e-5, rtol=0)
        assert not bool(together.rows[row, :, :, ~real].any())
        torch.testing.assert_close(together.ram[row], alone.ram[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.chance[row], alone.chance[0])
        assert int(together.num_columns[row]) == length
        width = int(alone.key_tokens.num_evidence)
        assert torch.equal(together.key_tokens.found[row, :, :, :width], alone.key_tokens.found[0])
        total, sums = total + length, sums + own.mean.double() * length
    torch.testing.assert_close(outputs.mean.double(), sums / total, atol=1e-5, rtol=0)
    assert float(together.ram.std()) > 0.02, "RAM is so flat that a wrong column would not show"


@pytest.mark.compatibility("Batches and inputs", "right padding in scoring")
def test_right_padding(family):
    model = check_rows(family, SCORED, "right")
    check_recording(model, SCORED, "right")


@pytest.mark.compatibility("Batches and inputs", "right padding in scoring")
def test_the_loss_of_a_right_padded_batch(family):
    """The mean over all labels, as from the sequences one by one in float64 attention under the explicit mask."""
    model = build(family)
    batch, total, count = prompt_inputs(model, SCORED, "right"), 0.0, 0
    with explicit_masks(build(family), streamed) as oracle, torch.no_grad():
        for single in singles_of(model, SCORED):
            labels = single["input_ids"].shape[1] - 1
            total += float(oracle(**single, labels=single["input_ids"]).loss) * labels
            count += labels
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        plain = model(**batch, labels=labels).loss
        AutoCoReModel.from_model(model)
        assert torch.equal(model(**batch, labels=labels).loss, plain)
        model.enable_hybrid(heads=DENSE, **SIZES)
        hybrid = model(**batch, labels=labels).loss
    assert abs(float(hybrid) - total / count) < 1e-4 < abs(float(plain) - total / count)


@pytest.mark.compatibility("Batches and inputs", "images and video in one prompt")
def test_images_and_video_in_one_prompt(family):
    model = check_rows(family, MIXED)
    check_recording(model, MIXED)
    check_generating(family, prompt_inputs(model, MIXED), {})


@pytest.mark.compatibility("Batches and inputs", "a batch of different image counts")
def test_a_batch_of_different_image_counts(family):
    """Two pictures, one, none."""
    model = check_rows(family, COUNTS)
    check_recording(model, COUNTS)


@pytest.mark.compatibility("Batches and inputs", "inputs_embeds")
@pytest.mark.parametrize("what", ["text", "picture"])
def test_inputs_embeds(family, what):
    """Native itself places a picture's tokens by their ids (Qwen3-VL), so the oracle gets embeddings as well."""
    native, oracle = build(family), build(family)
    inputs = text_inputs(20, 2, [0, 5]) if what == "text" else inputs_for(native, 2, [0, 5])
    embedded = {name: value for name, value in inputs.items() if name != "input_ids"}
    embedded["inputs_embeds"] = native.get_input_embeddings()(inputs["input_ids"]).detach()
    real = inputs["attention_mask"].bool()
    plain = logits(native, **embedded)
    with explicit_masks(oracle, streamed):
        hybrid = logits(oracle, **embedded)
    ablated = logits(zero_o_proj(native, DENSE), **embedded)
    model = AutoCoReModel.from_model(native)
    assert torch.equal(logits(model, **embedded), plain)
    with model.ablate_heads(DENSE):
        torch.testing.assert_close(logits(model, **embedded)[real], ablated[real], atol=1e-4, rtol=0)
    model.enable_hybrid(heads=DENSE, **SIZES)
    torch.testing.assert_close(logits(model, **embedded)[real], hybrid[real], atol=2e-4, rtol=0)
    if what == "text":
        found = model.generate(**embedded, max_new_tokens=NEW, do_sample=False)
        assert same(found, new_tokens(model, inputs))


@pytest.mark.compatibility("Batches and inputs", "packed sequences without a mask, hybrid prefill")
def test_packed_sequences(family, cell):
    """Positions restart inside a row: transformers masks the sequences apart. Without modes nothing changes."""
    native = build(family)
    ids = text_inputs(20)["input_ids"]
    positions = torch.cat([torch.arange(8), torch.arange(12)])[None]
    packed = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    with torch.no_grad():
        plain = native.model.language_model(**packed).last_hidden_state
        model = AutoCoReModel.from_model(native)
        assert torch.equal(model.model.language_model(**packed).last_hidden_state, plain)
        model.enable_hybrid(heads=DENSE, **SIZES)
        with cell.refused(ValueError, match="packed sequences"):
            model.model.language_model(**packed)


@pytest.mark.compatibility("Batches and inputs", "padding between the tokens of a sequence, hybrid prefill")
def test_a_mask_with_holes(family, cell):
    native = build(family)
    inputs = text_inputs(20, 2)
    inputs["attention_mask"][1, 7:10] = 0
    plain = logits(native, **inputs)
    model = AutoCoReModel.from_model(native)
    assert torch.equal(logits(model, **inputs), plain)
    model.enable_hybrid(heads=DENSE, **SIZES)
    with cell.refused(ValueError, match="one run of real tokens per sequence.*disable_hybrid"):
        logits(model, **inputs)
