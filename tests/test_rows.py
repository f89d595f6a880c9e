"""question_row_sums against float64 attention written out in full, for every form of mask and cache."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import LargestTensor, causal, probabilities64

from corehead_hf.attention_call import AttentionCall
from corehead_hf.rows import question_row_sums, visible_keys

B, HQ, HKV, T, DIM = 2, 6, 2, 12, 8
SCALING = 0.7
PAD = 4
LOWEST = torch.finfo(torch.float32).min
MODULE = SimpleNamespace(layer_idx=0)


def random_qk(num_queries=T, num_keys=T, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(B, HQ, num_queries, DIM, generator=generator)
    key = torch.randn(B, HKV, num_keys, DIM, generator=generator)
    return query.to(dtype), key.to(dtype)


def call_of(query, key, mask=None, past=0, **kwargs):
    return AttentionCall(MODULE, query, key, key, mask, past, {"scaling": SCALING, **kwargs})


def question(*rows_of_each, length=T):
    mask = torch.zeros(len(rows_of_each), length, dtype=torch.bool)
    for b, rows in enumerate(rows_of_each):
        mask[b, list(rows)] = True
    return mask


def truth(query, key, visible, mask):
    probabilities = probabilities64(query, key, visible, SCALING)
    return torch.stack([probabilities[b][:, mask[b]].sum(dim=1) for b in range(len(query))]).float()


PADDED = causal(T, T) & torch.tensor([[True] * T, [False] * PAD + [True] * (T - PAD)])[:, None, None]
FORMS = {
    "none": (None, causal(T, T)[None, None]),
    "bool 4-D": (PADDED, PADDED),
    "additive 4-D": (torch.where(PADDED, 0.0, LOWEST), PADDED),
    "2-D": (PADDED[:, 0, -1], PADDED),
    "2-D integer": (PADDED[:, 0, -1].long(), PADDED),
    "padding row": (PADDED[:, :, -1:], PADDED),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mask(form):
    mask, visible = FORMS[form]
    query, key = random_qk()
    asked = question([3, 7, 11], [5, 6, 8, 9, 10])  # different counts, gaps, first and last rows
    found = question_row_sums(call_of(query, key, mask), asked)
    assert found.shape == (B, HQ, T) and found.dtype == torch.float32
    torch.testing.assert_close(found, truth(query, key, visible, asked), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.sum(-1), asked.sum(1)[:, None].expand(B, HQ).float(), atol=1e-5, rtol=0)


def test_bfloat16_is_computed_in_float32():
    query, key = random_qk(dtype=torch.bfloat16)
    asked = question([3, 7], [8, 9])
    found = question_row_sums(call_of(query, key), asked)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, truth(query, key, causal(T, T), asked), atol=2e-6, rtol=0)


def test_a_filled_cache_shifts_the_rows():
    query, key = random_qk(num_queries=5)
    asked = question([2, 8, 11], [7, 9])  # row 2 stands in an earlier call
    here = question([1, 4], [0, 2], length=5)
    found = question_row_sums(call_of(query, key, past=7), asked)
    torch.testing.assert_close(found, truth(query, key, causal(5, T), here), atol=2e-6, rtol=0)


def test_chunks_add_up_to_the_whole():
    query, key = random_qk()
    asked = question([3, 7, 11], [5, 6, 8])
    total = torch.zeros(B, HQ, T)
    for start, stop in ((0, 5), (5, 9), (9, 12)):
        part = question_row_sums(call_of(query[:, :, start:stop], key[:, :, :stop], past=start), asked)
        total[..., :stop] += part
    torch.testing.assert_close(total, truth(query, key, causal(T, T), asked), atol=2e-6, rtol=0)


def test_a_chunk_that_is_all_padding_for_one_sequence():
    """Its spare rows attend nothing; their NaN must not reach the sums."""
    query, key = random_qk(num_queries=PAD, num_keys=PAD)
    mask = PADDED[:, :, :PAD, :PAD]
    asked = question([1, 3], [9])
    found = question_row_sums(call_of(query, key, mask), asked)
    expected = truth(query, key, mask, question([1, 3], [], length=PAD))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert bool((found[1] == 0).all())


def test_empty_slots_of_a_static_cache_are_invisible():
    query, key = random_qk(num_keys=T + 6)
    asked = question([3], [11])
    expected = truth(query, key[:, :, :T], causal(T, T), asked)
    longer = torch.nn.functional.pad(PADDED[:1], (0, 6)).expand(B, 1, T, T + 6)
    for mask in (None, longer):
        found = question_row_sums(call_of(query, key, mask), asked)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_a_sliding_layer_whose_cache_dropped_its_oldest_keys():
    query, key = random_qk(num_queries=1, num_keys=5)
    asked = question([11], [11])
    found = question_row_sums(call_of(query, key, past=11, sliding_window=4), asked)
    seen = torch.tensor([False, True, True, True, True])  # the window of 4 includes the query itself
    expected = truth(query, key, seen, question([0], [0], length=1))
    assert bool((found[..., :7] == 0).all())
    torch.testing.assert_close(found[..., 7:], expected, atol=2e-6, rtol=0)


def test_no_question_row_in_the_call_gives_zero():
    query, key = random_qk(num_queries=3, num_keys=10)
    found = question_row_sums(call_of(query, key, past=7), question([1], [2]))
    assert found.shape == (B, HQ, 10) and bool((found == 0).all())


def test_masks_that_are_not_understood_are_refused():
    query, key = random_qk()
    rows = torch.zeros(B, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="mask of type str was given"):
        visible_keys(call_of(query, key, "mask"), rows)
    for shape in ((B, 1, 3, T), (B, T - 1)):
        with pytest.raises(ValueError, match=r"mask of shape .* was given for 12 keys"):
            visible_keys(call_of(query, key, torch.ones(shape, dtype=torch.bool)), rows)


def test_memory_is_that_of_one_kv_heads_rows():
    length, rows = 4096, 4
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, length, DIM, generator=generator) for heads in (HQ, HKV))
    asked = question(range(length - rows, length), length=length)
    with LargestTensor() as largest:
        question_row_sums(call_of(query, key), asked)
    assert largest.elements <= rows * length * (HQ // HKV)


@pytest.mark.parametrize("most", [1, 150, 10**9])
def test_many_question_rows_are_taken_in_parts(most, monkeypatch):
    monkeypatch.setattr("corehead_hf.rows.MAX_LOGITS", most)  # one row a part, two rows, all eight
    query, key = random_qk()
    mask, asked = PADDED[:, 0, -1], question(range(4, 12), [5, 8, 11])
    with LargestTensor() as seen:
        found = question_row_sums(call_of(query, key, mask), asked)
    torch.testing.assert_close(found, truth(query, key, PADDED, asked), atol=2e-6, rtol=0)
    assert (seen.elements > 2 * 3 * 4 * 12) == (most == 10**9), "logits of more rows than asked for stood at once"
