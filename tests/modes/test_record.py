"""RecordAttention and RecordOutputs: they watch exactly, and change nothing."""

import pytest
import torch
from tiny_models import (
    IMAGE,
    VARIANTS,
    D,
    H,
    L,
    LargestTensor,
    attentions,
    build,
    causal,
    generate,
    inputs_for,
    logits,
    masks_for,
    one_of,
    probabilities64,
    static_cache,
    text_inputs,
    watch,
)
from transformers import DynamicCache

from corehead_hf import AutoCoReModel
from corehead_hf.modes import RecordAttention

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


def eager_rows(model, inputs, question):
    """The question-averaged rows from transformers' own output_attentions, float32 [B, L, Hq, T]."""
    with torch.no_grad():
        found = torch.stack(model(**inputs, output_attentions=True).attentions, dim=1)
    return torch.stack([found[b][:, :, question[b]].mean(dim=2) for b in range(len(found))])


def uneven(question):
    """The same question rows, one more for the last sequence."""
    question = question.clone()
    question[-1, -7] = True
    return question


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_recording_equals_output_attentions_of_the_same_eager_run(variant, left_pad):
    model = AutoCoReModel.from_model(build(variant, "eager"))
    inputs = inputs_for(model, 2, left_pad)
    question, evidence, visual = masks_for(inputs)
    question = uneven(question)
    with model.record_attention(question, evidence, visual_mask=visual, keep_rows=True) as recording:
        rows = eager_rows(model, inputs, question)
    assert recording.rows.dtype == recording.ram.dtype == torch.float32
    assert recording.ram.shape == (2, L, H) and recording.rows.shape == rows.shape
    torch.testing.assert_close(recording.rows, rows, atol=1e-6, rtol=0)
    ram, mass = ((rows * mask[:, None, None]).sum(dim=-1) for mask in (evidence, visual))
    torch.testing.assert_close(recording.ram, ram, atol=1e-6, rtol=0)
    torch.testing.assert_close(recording.vision_mass, mass, atol=1e-6, rtol=0)
    assert float(ram.std()) > 0.02, "the rows are so flat that a wrong column would not show"
    assert recording.num_columns.tolist() == inputs["attention_mask"].sum(dim=1).tolist()


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
def test_recording_under_sdpa_equals_a_separate_eager_run(variant, left_pad):
    """The two runs round differently, which these sharp layers amplify; hence 5e-6 for RAM and not 1e-6."""
    model = AutoCoReModel.from_model(build(variant))
    inputs = inputs_for(model, 2, left_pad)
    question, evidence, _ = masks_for(inputs)
    question = uneven(question)
    with model.record_attention(question, evidence, keep_rows=True) as recording:
        model.prefill(**inputs)
    rows = eager_rows(build(variant, "eager"), inputs, question)
    torch.testing.assert_close(recording.rows, rows, atol=2e-5, rtol=0)
    torch.testing.assert_close(recording.ram, (rows * evidence[:, None, None]).sum(dim=-1), atol=5e-6, rtol=0)


@pytest.mark.compatibility("Batches and inputs", "left-padded batches of unequal length")
def test_a_padded_batch_is_its_sequences_one_by_one(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    with wrapped.record_attention(question, evidence) as batch:
        wrapped.prefill(**inputs)
    for row in range(2):
        alone, real = one_of(inputs, row), inputs["attention_mask"][row].bool()
        with wrapped.record_attention(question[row : row + 1, real], evidence[row : row + 1, real]) as single:
            wrapped.prefill(**alone)
        torch.testing.assert_close(batch.ram[row], single.ram[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.chance[row], single.chance[0])


def test_recording_changes_no_bit(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5])
    question, evidence, visual = masks_for(inputs)
    plain, tokens = logits(wrapped, **inputs), generate(wrapped, inputs)
    options = {"visual_mask": visual, "keep_rows": True, "measure_key_tokens": True}
    with wrapped.record_attention(question, evidence, **options), wrapped.record_outputs():
        assert torch.equal(logits(wrapped, **inputs), plain)
    with wrapped.record_attention(question, evidence) as recording, wrapped.record_outputs():
        assert torch.equal(generate(wrapped, inputs), tokens)
    with wrapped.record_attention(question, evidence) as prefill:
        wrapped.prefill(**inputs)
    torch.testing.assert_close(recording.ram, prefill.ram, atol=1e-5, rtol=0)
    assert torch.equal(logits(wrapped, **inputs), plain)


def test_bfloat16_against_float64_on_the_same_query_and_key(variant):
    model = AutoCoReModel.from_model(build(variant).to(torch.bfloat16))
    inputs = inputs_for(model)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    question, evidence, _ = masks_for(inputs)
    with watch(model) as seen, model.record_attention(question, evidence, keep_rows=True) as recording:
        model.prefill(**inputs)
    length = question.shape[1]
    for call, rows, ram in zip(seen.calls, recording.rows[0], recording.ram[0], strict=True):
        assert call.query.dtype == torch.bfloat16
        truth = probabilities64(call.query, call.key, causal(length, length), D**-0.5)[0][:, question[0]].mean(dim=1)
        torch.testing.assert_close(rows.double(), truth, atol=2e-6, rtol=0)
        torch.testing.assert_close(ram.double(), truth[:, evidence[0]].sum(dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_recording_with_a_cache(wrapped, kind):
    inputs = inputs_for(wrapped, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    length = question.shape[1]
    with wrapped.record_attention(question, evidence, keep_rows=True) as plain:
        wrapped.prefill(**inputs)
    text = wrapped.config.get_text_config()
    cache = static_cache(wrapped, length + 9, 2) if kind == "static" else DynamicCache(config=text)
    with wrapped.record_attention(question, evidence, keep_rows=True) as cached:
        wrapped.prefill(**inputs, past_key_values=cache)
    assert cached.rows.shape == plain.rows.shape
    torch.testing.assert_close(cached.rows, plain.rows, atol=2e-5, rtol=0)
    assert cached.num_columns.tolist() == plain.num_columns.tolist()
    implementation = {"cache_implementation": "static"} if kind == "static" else {}
    with wrapped.record_attention(question, evidence) as generated:
        generate(wrapped, inputs, 3, **implementation)
    torch.testing.assert_close(generated.ram, plain.ram, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cuts", [[12], [6, 13], [3, 17]], ids=str)
@pytest.mark.parametrize("left_pad", [[0, 0], [0, 7]], ids=["unpadded", "left padding"])
def test_recording_over_chunks(model, cuts, left_pad):
    """Question rows lie in several chunks; one chunk may be nothing but padding for a sequence."""
    inputs = text_inputs(20, 2, left_pad)
    question, evidence = torch.zeros(2, 20, dtype=torch.bool), torch.zeros(2, 20, dtype=torch.bool)
    question[0, [4, 5, 11, 14, 18]] = question[1, [9, 16, 19]] = True
    evidence[0, 1:4] = evidence[1, 8:10] = True
    with model.record_attention(question, evidence, keep_rows=True) as whole:
        model.prefill(**inputs)
    options = {"keep_rows": True, "measure_key_tokens": True}
    with model.record_attention(question, evidence, **options) as chunked:
        run_in_chunks(model, inputs, cuts)
    torch.testing.assert_close(chunked.rows, whole.rows, atol=2e-5, rtol=0)
    torch.testing.assert_close(chunked.ram, whole.ram, atol=1e-5, rtol=0)
    assert chunked.num_columns.tolist() == [20 - pad for pad in left_pad]


def run_in_chunks(model, inputs, cuts):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config())
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    for start, stop in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        with torch.no_grad():
            model.model.language_model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                past_key_values=cache,
                cache_position=torch.arange(start, stop),
            )


def test_chance_by_hand(model):
    """Left padding 2, evidence columns 3 and 4; question rows 5 and 7 see 4 and 6 columns."""
    inputs = text_inputs(8, 1, [2])
    question, evidence = torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1, 8, dtype=torch.bool)
    question[0, [5, 7]] = evidence[0, [3, 4]] = True
    with model.record_attention(question, evidence) as recording:
        model.prefill(**inputs)
    torch.testing.assert_close(recording.chance, torch.tensor([(2 / 4 + 2 / 6) / 2]))


def test_chance_is_the_ram_of_a_uniform_head(model):
    for module in attentions(model):
        module.q_norm.weight.data.zero_()  # all logits 0
    inputs = inputs_for(model, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    with model.record_attention(uneven(question), evidence) as recording:
        model.prefill(**inputs)
    expected = recording.chance[:, None, None].expand(2, L, H)
    torch.testing.assert_close(recording.ram, expected, atol=1e-6, rtol=0)


def test_key_tokens_of_the_recorded_rows(wrapped):
    inputs = inputs_for(wrapped, 2, [0, 5], text=40)
    question, evidence, _ = masks_for(inputs)
    with wrapped.record_attention(question, evidence, keep_rows=True, measure_key_tokens=True) as recording:
        wrapped.prefill(**inputs)
    tokens, expected = recording.key_tokens, torch.zeros(2, L, H, 3, dtype=torch.bool)
    for b, real in enumerate(recording.num_columns.tolist()):
        columns = evidence[b].nonzero().flatten().tolist()
        for layer in range(L):
            for head in range(H):
                row = recording.rows[b, layer, head].tolist()
                best = sorted(range(len(row)), key=lambda j: -row[j])[: -(-real // 20)]
                expected[b, layer, head] = torch.tensor([column in best for column in columns])
    assert torch.equal(tokens.found, expected) and bool(expected.any())
    assert tokens.num_columns.tolist() == inputs["attention_mask"].sum(dim=1).tolist()
    everything = torch.ones(L, H, dtype=torch.bool)
    covered = expected.any(dim=2).any(dim=1).sum(dim=-1) / 3
    torch.testing.assert_close(tokens.coverage(everything), covered)
    assert tokens.hits.shape == tokens.ratio.shape == (2, L, H)


def test_what_is_recorded_is_dense_attention_under_other_modes(model):
    """Layer 0 has the same q and k whatever the modes do to its output."""
    inputs = inputs_for(model, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    with model.record_attention(question, evidence) as plain:
        model.prefill(**inputs)
    model.enable_hybrid(heads=[], sink_size=0, window_size=2, dense_below=0)
    with model.ablate_heads(HEADS), model.record_attention(question, evidence) as nested:
        model.prefill(**inputs)
    torch.testing.assert_close(nested.ram[:, 0], plain.ram[:, 0], atol=1e-6, rtol=0)
    assert float((nested.ram[:, 1:] - plain.ram[:, 1:]).abs().max()) > 0.01, "later layers see the changed states"
    assert nested.num_columns.tolist() == plain.num_columns.tolist()


def test_two_recordings_at_once(model):
    inputs = inputs_for(model)
    question, evidence, visual = masks_for(inputs)
    with (
        model.record_attention(question, evidence) as first,
        model.record_attention(question, visual) as second,
    ):
        model.prefill(**inputs)
    assert float((second.ram - first.ram).min()) > -1e-6 and float((second.ram - first.ram).max()) > 0


def test_recording_keeps_no_graph_and_leaves_gradients_alone(wrapped):
    inputs = inputs_for(wrapped)
    question, evidence, _ = masks_for(inputs)
    weight, gradients = attentions(wrapped)[0].q_proj.weight, []
    wrapped(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients.append(weight.grad.clone())
    wrapped.zero_grad()
    with wrapped.record_attention(question, evidence) as recording, wrapped.record_outputs() as outputs:
        wrapped(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients.append(weight.grad)
    assert not recording.ram.requires_grad and not outputs.mean.requires_grad
    assert torch.equal(*gradients)


def test_an_exception_turns_recording_off(model):
    inputs = inputs_for(model)
    question, evidence, _ = masks_for(inputs)
    with pytest.raises(KeyError), model.record_attention(question, evidence), model.record_outputs():
        raise KeyError("the user's own")
    assert model.core_state.modes == []


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_recording_allocates_rows_of_one_layer(variant, padded):
    """Nothing of T x S elements by us: the largest tensor is the native model's own."""
    length, num_question = 2048, 4
    model = AutoCoReModel.from_model(build(variant))
    inputs = text_inputs(length, 2, [0, 9] if padded else None)
    question, evidence = torch.zeros(2, length, dtype=torch.bool), torch.zeros(2, length, dtype=torch.bool)
    question[:, -num_question:] = evidence[:, 20:30] = True
    model.prefill(**inputs)
    with LargestTensor() as native:
        model.prefill(**inputs)
    recording = model.record_attention(question, evidence, measure_key_tokens=True)
    with recording, LargestTensor() as recorded:
        model.prefill(**inputs)
    assert recorded.elements == native.elements, "recording allocates more than the native model does"
    assert (native.elements >= length * length) == padded, "sdpa builds its own [B, 1, T, S] with padding, only then"


def test_recording_allocates_rows_of_one_layer_beyond_the_native_model(model):
    """With many question rows these are the largest tensor: those of one layer."""
    length, num_question = 512, 200
    inputs = text_inputs(length)
    question, evidence = torch.zeros(1, length, dtype=torch.bool), torch.zeros(1, length, dtype=torch.bool)
    question[:, -num_question:] = evidence[:, 20:30] = True
    with model.record_attention(question, evidence), LargestTensor() as recorded:
        model.prefill(**inputs)
    assert recorded.elements <= num_question * length * H


def mask_of(length, *true):
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, list(true)] = True
    return mask


@pytest.mark.parametrize(
    "question, evidence, options, message",
    [
        (mask_of(8), mask_of(8, 1), {}, "row 0 of question_mask has no True.*Mark at least one"),
        (mask_of(8, 5), mask_of(8), {}, "row 0 of evidence_mask has no True"),
        (
            mask_of(8, 5),
            mask_of(8, 1, 6),
            {},
            "evidence reaches to column 6, the question ends at row 5.*Put the question",
        ),
        (mask_of(8, 5), mask_of(9, 1), {}, r"evidence_mask has shape \[1, 9\]; it must be bool \[1, 8\]"),
        (mask_of(8, 5)[0], mask_of(8, 1), {}, r"question_mask has shape \[8\]; it must be bool \[B, T\]"),
        (mask_of(8, 5), mask_of(8, 1), {"visual_mask": mask_of(7, 1)}, r"visual_mask has shape \[1, 7\]"),
    ],
)
def test_bad_masks_are_refused(model, question, evidence, options, message):
    with pytest.raises(ValueError, match=message), model.record_attention(question, evidence, **options):
        raise AssertionError("the block must not be entered")
    assert model.core_state.modes == []


def test_masks_of_another_prompt_are_refused(model):
    recording = model.record_attention(mask_of(8, 5), mask_of(8, 1))
    with recording, pytest.raises(ValueError, match=r"masks of shape \(1, 8\).*1 sequences of 9 tokens"):
        model.prefill(**text_inputs(9))
    recording = model.record_attention(mask_of(8, 5), mask_of(8, 1))
    with recording, pytest.raises(ValueError, match=r"masks of shape \(1, 8\).*2 sequences of 8 tokens"):
        model.prefill(**text_inputs(8, 2))


@pytest.mark.parametrize("which", ["question", "evidence"])
def test_masks_on_padding_are_refused(model, which):
    """Padding rows attend nothing and padding columns are never attended: RAM would be NaN or too small."""
    question, evidence = mask_of(8, 6), mask_of(8, 4)
    (question if which == "question" else evidence)[0, 1] = True
    recording = model.record_attention(question, evidence)
    with recording, pytest.raises(ValueError, match=f"{which}_mask.*padding"):
        model.prefill(**text_inputs(8, 1, [3]))


def test_a_second_prefill_in_one_block_is_refused(model):
    with model.record_attention(mask_of(8, 5), mask_of(8, 1)) as recording:
        model.prefill(**text_inputs(8))
        kept = recording.ram
        with pytest.raises(RuntimeError, match="one recording holds one prefill; open another"):
            model.prefill(**text_inputs(8))
    assert torch.equal(recording.ram, kept)


def test_reading_what_was_not_recorded_is_refused(model):
    with model.record_attention(mask_of(8, 5), mask_of(8, 1)) as recording:
        with pytest.raises(RuntimeError, match="nothing complete was recorded.*run one prefill"):
            recording.ram  # noqa: B018
        with pytest.raises(RuntimeError, match="nothing was recorded yet"):
            recording.num_columns  # noqa: B018
        model.prefill(**text_inputs(8))
    for name, option in (
        ("rows", "keep_rows=True"),
        ("vision_mass", "visual_mask=..."),
        ("key_tokens", "measure_key_tokens=True"),
    ):
        with pytest.raises(RuntimeError, match=option):
            getattr(recording, name)


def test_a_prefill_that_stops_before_the_last_question_row_is_incomplete(model):
    inputs = text_inputs(8)
    with model.record_attention(mask_of(12, 5, 10), mask_of(12, 1)) as recording:
        model.prefill(**inputs)
        with pytest.raises(RuntimeError, match=rf"\(0 layers done, {L} begun\)"):
            recording.ram  # noqa: B018


def test_packed_calls_are_refused():
    mode = RecordAttention(mask_of(8, 5), mask_of(8, 1))

    class Packed:
        def refuse_packed(self, what):
            raise ValueError(what)

    with pytest.raises(ValueError, match="recording"):
        mode.attend(Packed(), None)


def test_record_outputs_is_the_mean_over_real_tokens(wrapped):
    """Over the prefill of a left-padded batch and its decode steps, by hand on the captured outputs."""
    inputs = inputs_for(wrapped, 2, [0, 5])
    with watch(wrapped) as seen, wrapped.record_outputs() as recording:
        generate(wrapped, inputs, 3)
    real = inputs["attention_mask"].bool()
    for layer in range(L):
        steps = [out for call, out in zip(seen.calls, seen.outputs, strict=True) if call.layer == layer]
        tokens = [steps[0][real], *(step[:, 0] for step in steps[1:])]
        expected = torch.cat(tokens).double().mean(dim=0)
        assert expected.shape == (H, D)
        torch.testing.assert_close(recording.mean[layer].double(), expected, atol=1e-6, rtol=0)
    assert recording.mean.dtype == torch.float32


def test_record_outputs_before_any_run(model):
    with model.record_outputs() as recording, pytest.raises(RuntimeError, match="no output was recorded"):
        recording.mean  # noqa: B018


def test_prefill_computes_no_vocabulary_logits(wrapped):
    called = []
    wrapped.lm_head.register_forward_hook(lambda *args: called.append(1))
    out = wrapped.prefill(**inputs_for(wrapped))
    assert called == [] and not hasattr(out, "logits")
    assert out.past_key_values is None
    assert not out.last_hidden_state.requires_grad
    assert bool((inputs_for(wrapped)["input_ids"] == IMAGE).any())
