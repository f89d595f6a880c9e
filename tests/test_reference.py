"""The slow forms against hand-drawn masks, hand-counted numbers and torch's own attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference

BOTH = torch.tensor([True, False])  # head 0 dense, head 1 streaming


def drawn(*rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "1" for mark in row.split()] for row in rows])


def random_qkv(B: int, Hq: int, Hkv: int, T: int, S: int, D: int = 16, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, Hq, T, D), (B, Hkv, S, D), (B, Hkv, S, D))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def test_hybrid_mask_is_the_one_drawn_in_the_docstring():
    mask = reference.hybrid_mask(BOTH, T=5, S=5, sink_size=1, window_size=2)
    dense = drawn("1 . . . .", "1 1 . . .", "1 1 1 . .", "1 1 1 1 .", "1 1 1 1 1")
    streaming = drawn("1 . . . .", "1 1 . . .", "1 1 1 . .", "1 . 1 1 .", "1 . . 1 1")
    assert mask.shape == (1, 2, 5, 5)
    assert torch.equal(mask[0, 0], dense)
    assert torch.equal(mask[0, 1], streaming)


def test_hybrid_mask_of_a_later_chunk_keeps_absolute_positions():
    mask = reference.hybrid_mask(BOTH, T=3, S=7, sink_size=2, window_size=2)
    assert torch.equal(mask[0, 0], drawn("1 1 1 1 1 . .", "1 1 1 1 1 1 .", "1 1 1 1 1 1 1"))
    assert torch.equal(mask[0, 1], drawn("1 1 . 1 1 . .", "1 1 . . 1 1 .", "1 1 . . . 1 1"))


def test_hybrid_mask_counts_sinks_from_the_first_real_token():
    mask = reference.hybrid_mask(BOTH, 6, 6, sink_size=1, window_size=2, first_token=torch.tensor([2, 6]))
    nothing = ". . . . . ."
    dense = drawn(nothing, nothing, ". . 1 . . .", ". . 1 1 . .", ". . 1 1 1 .", ". . 1 1 1 1")
    streaming = drawn(nothing, nothing, ". . 1 . . .", ". . 1 1 . .", ". . 1 1 1 .", ". . 1 . 1 1")
    assert torch.equal(mask[0, 0], dense)
    assert torch.equal(mask[0, 1], streaming)
    assert not mask[1].any()


@pytest.mark.parametrize("sink_size, window_size, row", [(0, 1, ". . . 1"), (0, 3, ". 1 1 1"), (3, 1, "1 1 1 1")])
def test_hybrid_mask_extremes(sink_size, window_size, row):
    mask = reference.hybrid_mask(torch.tensor([False]), 4, 4, sink_size, window_size)
    assert torch.equal(mask[0, 0, 3], drawn(row)[0])


@pytest.mark.parametrize("first_token", [None, torch.tensor([0, 3])])
def test_hybrid_attention_is_torch_attention_with_the_mask(first_token):
    query, key, value = random_qkv(B=2, Hq=4, Hkv=2, T=9, S=13)
    heads = torch.tensor([True, False, False, True])
    mask = reference.hybrid_mask(heads, 9, 13, 2, 3, first_token)
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    result = reference.hybrid_attention(
        query, key, value, heads, sink_size=2, window_size=3, scaling=0.3, first_token=first_token
    )
    torch.testing.assert_close(result, expected.transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_hybrid_attention_computes_in_the_dtype_asked_for():
    query, key, value = random_qkv(1, 2, 1, 5, 5, dtype=torch.float32)
    settings = {"sink_size": 1, "window_size": 2, "scaling": 0.25}
    double = reference.hybrid_attention(query, key, value, BOTH, **settings)
    single = reference.hybrid_attention(query, key, value, BOTH, **settings, dtype=torch.float32)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert 0 < (double - single).abs().max() < 1e-5


def test_probabilities_sum_to_one_and_rows_without_a_key_are_zero():
    query, key, _ = random_qkv(B=1, Hq=4, Hkv=2, T=3, S=3)
    mask = drawn(". . .", "1 1 .", "1 1 1")
    probabilities = reference.attention_probabilities(query, key, 0.5, mask)
    sums = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).expand(1, 4, 3)
    torch.testing.assert_close(probabilities.sum(dim=-1), sums)
    assert not probabilities[0, :, 1, 2].any()
    assert not torch.equal(probabilities[:, 1], probabilities[:, 2])  # heads of different kv heads


def test_question_averaged_row_by_hand():
    # A query of zeros looks evenly at what it may see: rows 1/2 1/2 0 and 1/3 1/3 1/3.
    query, key = torch.zeros(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    both = reference.question_averaged_row(query, key, torch.tensor([[True, True]]), 1.0)
    torch.testing.assert_close(both[0, 0], torch.tensor([5, 5, 2], dtype=torch.float64) / 12)
    last = reference.question_averaged_row(query, key, torch.tensor([[False, True]]), 1.0)
    torch.testing.assert_close(last[0, 0], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_question_averaged_row_follows_its_mask_and_each_sequence_its_question():
    query, key, _ = random_qkv(B=2, Hq=2, Hkv=1, T=3, S=3)
    question = torch.tensor([[False, True, True], [True, False, False]])
    mask = drawn("1 . .", "1 1 .", ". 1 1").expand(2, 1, 3, 3)
    row = reference.question_averaged_row(query, key, question, 0.5, mask)
    probabilities = reference.attention_probabilities(query, key, 0.5, mask)
    torch.testing.assert_close(row[0], (probabilities[0, :, 1] + probabilities[0, :, 2]) / 2)
    torch.testing.assert_close(row[1], probabilities[1, :, 0])


def test_question_averaged_row_refuses_a_sequence_without_question():
    query, key, _ = random_qkv(B=2, Hq=1, Hkv=1, T=2, S=2)
    with pytest.raises(ValueError, match=r"have \[1, 0\] of them"):
        reference.question_averaged_row(query, key, torch.tensor([[True, False], [False, False]]), 1.0)


def test_retrieval_attention_mass_by_hand():
    row = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    ram = reference.retrieval_attention_mass(row, torch.tensor([[True, False, True]]))
    torch.testing.assert_close(ram, torch.tensor([[0.4, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("num_columns, expected", [(20, 0.0), (21, 0.5), (40, 0.5), (41, 1.0), (60, 1.0)])
def test_key_token_ratio_takes_the_ceiling_of_five_percent(num_columns, expected):
    row = torch.zeros(1, 1, 60, dtype=torch.float64)
    row[0, 0, [7, 30, 59]] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # ranks 1, 2, 3
    evidence = torch.zeros(1, 60, dtype=torch.bool)
    evidence[0, [30, 59]] = True
    assert reference.key_token_ratio(row, evidence, num_columns).item() == expected


def test_key_token_ratio_counts_columns_per_sequence_and_breaks_ties_by_order():
    row = torch.full((2, 1, 40), 1 / 40, dtype=torch.float64)
    evidence = torch.zeros(2, 40, dtype=torch.bool)
    evidence[:, 1] = True
    ratio = reference.key_token_ratio(row, evidence, torch.tensor([20, 40]))  # top 1 and top 2 columns
    assert ratio.tolist() == [[0.0], [1.0]]


def test_key_token_ratio_refuses_no_evidence():
    with pytest.raises(ValueError, match="sequence 0"):
        reference.key_token_ratio(torch.zeros(1, 1, 4), torch.zeros(1, 4, dtype=torch.bool), 4)
