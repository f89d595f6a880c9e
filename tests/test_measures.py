"""The measures against numbers counted by hand, and against the slow forms."""

import pytest
import torch

from corehead_hf import reference
from corehead_hf.measures import KeyTokens, attention_mass, key_tokens


def columns(length, *true):
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, list(true)] = True
    return mask


def test_attention_mass_by_hand():
    row = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.3, 0.0]]])
    torch.testing.assert_close(attention_mass(row, columns(4, 1, 3)), torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(attention_mass(row, columns(2, 0)), torch.tensor([[0.1, 0.7]]))
    torch.testing.assert_close(attention_mass(row, columns(4, 0, 1, 2, 3)), torch.ones(1, 2))


def test_attention_mass_is_the_reference():
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(3, 5, 17, generator=generator).softmax(dim=-1)
    evidence = torch.rand(3, 15, generator=generator) < 0.4
    torch.testing.assert_close(attention_mass(row, evidence), reference.retrieval_attention_mass(row, evidence))


@pytest.mark.parametrize("num_columns, k", [(1, 1), (19, 1), (20, 1), (21, 2), (40, 2), (41, 3), (100, 5)])
def test_top_columns_are_five_percent_rounded_up(num_columns, k):
    row = torch.arange(num_columns, 0, -1.0)[None, None] / num_columns  # column 0 is the largest
    everything = torch.ones(1, num_columns, dtype=torch.bool)
    found = key_tokens(row, everything, torch.tensor([num_columns])).found
    assert found[0, 0].tolist() == [True] * k + [False] * (num_columns - k)


def test_key_tokens_by_hand():
    row = torch.zeros(1, 3, 40)  # k = 2
    row[0, 0, [10, 11]] = 0.5  # head 0: both of its top columns are evidence
    row[0, 1, [11, 30]] = 0.5  # head 1: one of them
    row[0, 2, [30, 31]] = 0.5  # head 2: none
    tokens = key_tokens(row, columns(40, 10, 11, 12), torch.tensor([40]))
    assert tokens.found.tolist() == [[[True, True, False], [False, True, False], [False, False, False]]]
    torch.testing.assert_close(tokens.ratio, torch.tensor([[2 / 3, 1 / 3, 0.0]]))
    assert tokens.hits.tolist() == [[True, False, False]]


def test_a_hit_begins_at_one_half():
    row = torch.zeros(1, 1, 20)
    row[0, 0, 4] = 1
    assert key_tokens(row, columns(20, 4, 5), torch.tensor([20])).hits.tolist() == [[True]]
    assert key_tokens(row, columns(20, 4, 5, 6), torch.tensor([20])).hits.tolist() == [[False]]


def test_equal_entries_are_taken_in_column_order():
    uniform = torch.full((1, 1, 40), 1 / 40)
    found = key_tokens(uniform, torch.ones(1, 40, dtype=torch.bool), torch.tensor([40])).found
    assert found[0, 0].nonzero().flatten().tolist() == [0, 1]


def test_a_uniform_head_has_five_percent():
    uniform = torch.full((1, 1, 200), 1 / 200)
    ratio = key_tokens(uniform, torch.ones(1, 200, dtype=torch.bool), torch.tensor([200])).ratio
    torch.testing.assert_close(ratio, torch.tensor([[0.05]]))


def test_columns_and_top_columns_are_told():
    tokens = key_tokens(torch.rand(4, 2, 41), torch.ones(4, 41, dtype=torch.bool), torch.tensor([1, 20, 21, 41]))
    assert tokens.num_columns.tolist() == [1, 20, 21, 41] and tokens.num_top.tolist() == [1, 1, 2, 3]


def test_sequences_of_different_length_and_evidence():
    row = torch.zeros(2, 1, 40)
    row[0, 0, [20, 21]] = 0.5
    row[1, 0, [39, 38]] = 0.5  # 18 real columns: k = 1, and the earlier of two equals
    evidence = torch.cat((columns(40, 20, 21, 22), columns(40, 38)))
    tokens = key_tokens(row, evidence, torch.tensor([40, 18]))
    assert tokens.num_evidence.tolist() == [3, 1]
    assert tokens.found.tolist() == [[[True, True, False]], [[True, False, False]]]
    torch.testing.assert_close(tokens.ratio, torch.tensor([[2 / 3], [1.0]]))


def test_key_token_ratio_is_the_reference():
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(3, 5, 97, generator=generator).round(decimals=1)  # many ties
    evidence = torch.rand(3, 97, generator=generator) < 0.2
    real = torch.tensor([97, 60, 40])
    found = key_tokens(row, evidence, real).ratio
    torch.testing.assert_close(found.double(), reference.key_token_ratio(row, evidence, real), atol=1e-6, rtol=0)


def test_coverage_by_hand():
    found = torch.zeros(2, 2, 2, 4, dtype=torch.bool)  # [B, L, Hq, E]
    found[0, 0, 0, :2] = True
    found[0, 1, 1, 1:3] = True
    found[1, 0, 0, 0] = True
    tokens = KeyTokens(found, torch.tensor([4, 2]), torch.tensor([40, 20]))
    both = torch.tensor([[True, False], [False, True]])
    torch.testing.assert_close(tokens.coverage(both), torch.tensor([0.75, 0.5]))
    first = torch.tensor([[True, False], [False, False]])
    torch.testing.assert_close(tokens.coverage(first), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(tokens.coverage(torch.zeros(2, 2, dtype=torch.bool)), torch.zeros(2))
    assert tokens.ratio.shape == (2, 2, 2)


def test_coverage_refuses_heads_of_another_model():
    tokens = KeyTokens(torch.zeros(1, 2, 2, 4, dtype=torch.bool), torch.tensor([4]), torch.tensor([40]))
    with pytest.raises(ValueError, match=r"heads of shape \(3, 2\).*give bool \[L, Hq\]"):
        tokens.coverage(torch.zeros(3, 2, dtype=torch.bool))
