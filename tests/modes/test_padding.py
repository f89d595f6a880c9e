"""Padding after, before and around the real tokens, whole and in chunks: every mode, each row as if alone."""

import pytest
import torch
from tiny_models import H, L, build, causal, explicit_masks, logits, streaming, text_inputs, watch
from transformers import DynamicCache

from corehead_hf import AutoCoReModel

DENSE = [(0, 1), (1, 0), (1, 3), (2, 2)]
MASK = torch.zeros(L, H, dtype=torch.bool)
MASK[tuple(torch.tensor(DENSE).T)] = True
SIZES = {"sink_size": 2, "window_size": 4, "dense_below": 0}
LENGTH = 20
RUNS = {  # [first real token, end) of each sequence
    "right": [(0, 20), (0, 13)],
    "around": [(0, 20), (4, 15)],
    "all three": [(6, 20), (0, 12), (3, 17)],
}


def padded(runs):
    inputs = text_inputs(LENGTH, len(runs))
    column = torch.arange(LENGTH)
    mask = torch.stack([(column >= first) & (column < end) for first, end in runs])
    return {"input_ids": inputs["input_ids"] * mask, "attention_mask": mask.long()}


def streamed(layer, mask):
    rows, keys = mask.shape[-2:]
    return torch.where(MASK[layer][None, :, None, None], mask, mask & streaming(rows, keys, 2, 4))


def alone(inputs, row):
    real = inputs["attention_mask"][row].bool()
    return {name: value[row : row + 1, real] for name, value in inputs.items()}


def in_chunks(model, inputs, cuts):
    """Hidden states of all tokens, prefilled chunk by chunk on one cache."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache, states = DynamicCache(config=model.config.get_text_config()), []
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
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


@pytest.mark.compatibility("Batches and inputs", "right padding in scoring")
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("attn, backend", [("sdpa", "banded"), ("eager", "banded"), ("sdpa", "reference")])
def test_hybrid_rows_are_their_runs_alone_under_the_explicit_mask(family, runs, attn, backend):
    inputs, expected = padded(runs), []
    with explicit_masks(build(family), streamed) as oracle:
        expected = [logits(oracle, **alone(inputs, row))[0] for row in range(len(runs))]
    model = AutoCoReModel.from_model(build(family, attn))
    model.enable_hybrid(heads=DENSE, backend=backend, **SIZES)
    found = logits(model, **inputs)
    assert bool(found.isfinite().all())
    for row, (first, end) in enumerate(runs):
        torch.testing.assert_close(found[row, first:end], expected[row], atol=2e-4, rtol=0)


@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_a_four_dimensional_mask_says_the_same(model, runs):
    """As transformers builds it for a static cache, bool or additive."""
    inputs = padded(runs)
    full = causal(LENGTH, LENGTH)[None, None] & inputs["attention_mask"].bool()[:, None, None]
    model.enable_hybrid(heads=DENSE, **SIZES)
    text_model = model.model.language_model
    with torch.no_grad():
        expected = text_model(**inputs).last_hidden_state
        for mask in (full, torch.where(full, 0.0, torch.finfo(torch.float32).min)):
            found = text_model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
            assert torch.equal(found, expected)
        full[0, 0, 9, 7] = False
        with pytest.raises(ValueError, match="holes or its own pattern"):
            text_model(input_ids=inputs["input_ids"], attention_mask=full)


@pytest.mark.parametrize("runs", [*RUNS.values(), [(0, 20), (9, 20)]], ids=[*RUNS, "left"])
@pytest.mark.parametrize("cuts", [[6, 13], [8]], ids=str)
def test_chunks_equal_the_whole(model, runs, cuts):
    """A chunk may be nothing but padding for a sequence, before its first token or after its last."""
    inputs = padded(runs)
    real = inputs["attention_mask"].bool()
    dense = in_chunks(model, inputs, cuts)
    model.enable_hybrid(heads=DENSE, chunked=True, **SIZES)
    whole, chunked = in_chunks(model, inputs, []), in_chunks(model, inputs, cuts)
    torch.testing.assert_close(chunked[real], whole[real], atol=1e-4, rtol=0)
    assert bool(chunked.isfinite().all())
    assert float((chunked[real] - dense[real]).abs().max()) > 0.05


@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_ablation_rows_are_their_runs_alone(model, runs):
    """The variant that counts columns: sink and window from each sequence's own first token."""
    inputs = padded(runs)
    with model.ablate_heads(DENSE, "stream", sink_size=1, window_size=3):
        found = logits(model, **inputs)
        for row, (first, end) in enumerate(runs):
            expected = logits(model, **alone(inputs, row))[0]
            torch.testing.assert_close(found[row, first:end], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("hybrid", [False, True], ids=["dense", "hybrid"])
@pytest.mark.parametrize("cuts", [[], [6, 13]], ids=["whole", "in chunks"])
def test_mean_outputs_count_real_tokens_only(model, cuts, hybrid):
    inputs = padded(RUNS["all three"] + [(9, 20)])
    if hybrid:
        model.enable_hybrid(heads=DENSE, chunked=True, **SIZES)
    with watch(model) as seen, model.record_outputs() as recording:
        in_chunks(model, inputs, cuts)
    real = inputs["attention_mask"].bool()
    for layer in range(L):
        outputs = torch.cat([o for c, o in zip(seen.calls, seen.outputs, strict=True) if c.layer == layer], dim=1)
        torch.testing.assert_close(recording.mean[layer], outputs[real].mean(dim=0), atol=1e-6, rtol=0)


def masks_of(runs):
    """Question: each sequence's last three real tokens; evidence: its second and third."""
    question, evidence = torch.zeros(len(runs), LENGTH, dtype=torch.bool), torch.zeros(len(runs), LENGTH).bool()
    for row, (first, end) in enumerate(runs):
        question[row, end - 3 : end] = evidence[row, first + 1 : first + 3] = True
    return question, evidence


@pytest.mark.parametrize("hybrid", [False, True], ids=["dense", "hybrid"])
@pytest.mark.parametrize("cuts", [[], [6, 13], [16]], ids=str)
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_recorded_rows_are_their_runs_alone(model, runs, cuts, hybrid):
    inputs = padded(runs)
    question, evidence = masks_of(runs)
    if hybrid:
        model.enable_hybrid(heads=DENSE, chunked=True, **SIZES)
    with model.record_attention(question, evidence, keep_rows=True, measure_key_tokens=True) as batch:
        in_chunks(model, inputs, cuts)
    assert batch.num_columns.tolist() == [end - first for first, end in runs]
    for row, (first, end) in enumerate(runs):
        masks = (mask[row : row + 1, first:end] for mask in (question, evidence))
        with model.record_attention(*masks, keep_rows=True, measure_key_tokens=True) as single:
            model.prefill(**alone(inputs, row))
        torch.testing.assert_close(batch.rows[row, ..., first:end], single.rows[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(batch.chance[row], single.chance[0])
        assert torch.equal(batch.key_tokens.found[row], single.key_tokens.found[0])
        assert int(batch.key_tokens.num_top[row]) == int(single.key_tokens.num_top[0])


def test_marks_after_the_last_real_token_are_refused(model):
    """Evidence cannot lie there: it ends before the question does."""
    question, evidence = masks_of(RUNS["right"])
    question[1, 15] = True
    message = "row 1 of question_mask marks padding: of this sequence's 20 tokens 13 are real"
    with model.record_attention(question, evidence), pytest.raises(ValueError, match=message):
        model.prefill(**padded(RUNS["right"]))


def test_padding_that_comes_after_a_complete_recording_is_refused(model):
    """All question tokens seen, and the rest of the prompt turns out to be padding: the columns were counted wrong."""
    runs = [(0, 20), (0, 13)]
    question, evidence = masks_of([(0, 12), (0, 12)])
    with (
        model.record_attention(question, evidence) as recording,
        pytest.raises(ValueError, match="padding among tokens 12 to 19 came after the recording was complete"),
    ):
        in_chunks(model, padded(runs), [12])
    assert recording.num_columns.tolist() == [20, 20]


def test_question_tokens_that_were_never_seen_are_refused(model):
    """In a cache from before: the mean over all question rows would be of some of them only."""
    inputs = text_inputs(LENGTH)
    question, evidence = masks_of([(0, LENGTH)])
    question[0, 4] = True
    cache = DynamicCache(config=model.config.get_text_config())
    text_model = model.model.language_model
    with torch.no_grad():
        text_model(input_ids=inputs["input_ids"][:, :8], past_key_values=cache)
        late = {"input_ids": inputs["input_ids"][:, 8:], "past_key_values": cache}
        with (
            model.record_attention(question, evidence),
            pytest.raises(ValueError, match="marks tokens among the first 8, which were in the cache before"),
        ):
            text_model(**late, cache_position=torch.arange(8, LENGTH))


def test_a_prefill_begun_again_in_one_recording_is_refused(model):
    """Its question rows would count twice."""
    inputs = text_inputs(LENGTH)
    question, evidence = masks_of([(0, LENGTH)])
    question[0, 4] = True
    with model.record_attention(question, evidence):
        model.prefill(input_ids=inputs["input_ids"][:, :8])
        with pytest.raises(RuntimeError, match="8 tokens were seen, and a call begins at token 0. Open another"):
            model.prefill(**inputs)
