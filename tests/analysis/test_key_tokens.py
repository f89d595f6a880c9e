"""The key token study by hand, its chance levels against simulated heads, and on a model that retrieves."""

import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hand import hand_map

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.analysis import Estimate, key_tokens, observe
from corehead_hf.data import glyphs
from corehead_hf.families import family_of
from corehead_hf.measures import KeyTokens
from corehead_hf.measures import key_tokens as find

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
SCORES = [[0.8, 0.1, 0.5, 0.2], [0.7, 0.3, 0.6, 0.4]]  # ranking: 00 10 12 02 13 11 03 01


def tokens(found, num_evidence, num_columns):
    """KeyTokens of `found`, per example a dict (layer, head) -> the evidence tokens it finds."""
    tensor = torch.zeros(len(found), 2, 4, max(num_evidence), dtype=torch.bool)
    for b, heads in enumerate(found):
        for (layer, head), which in heads.items():
            tensor[b, layer, head, list(which)] = True
    return KeyTokens(tensor, torch.tensor(num_evidence), torch.tensor(num_columns))


@pytest.fixture
def by_hand():
    """Three examples in two batches of unequal evidence."""
    return [
        tokens([{(0, 0): (0, 1, 2), (1, 0): (3,), (0, 1): (0,)}, {(0, 0): (0,), (0, 3): (1,)}], [4, 2], [100, 30]),
        tokens([{(1, 0): (0,), (1, 2): (0,)}], [1], [20]),
    ]


def test_ratio_hits_and_coverage_by_hand(by_hand):
    found = key_tokens(by_hand, hand_map(SCORES), k=2, group_sizes=(1, 2, 3, 8), seeds=(0,))
    assert (found.model, found.dataset, found.num_examples, found.num_heads, found.k) == ("tiny", "hand", 3, 8, 2)
    # top two heads: (0, 0) and (1, 0); bottom two: (0, 3) and (0, 1)
    top = [(3 / 4 + 1 / 4) / 2, (1 / 2 + 0) / 2, (0 + 1) / 2]
    bottom = [(0 + 1 / 4) / 2, (1 / 2 + 0) / 2, 0]
    assert found.ratio["top"].value == pytest.approx(np.mean(top))
    assert found.ratio["bottom"].value == pytest.approx(np.mean(bottom))
    assert found.ratio["bottom"].low == 0 and found.ratio["bottom"].high == pytest.approx(
        max(bottom)
    )  # of 27 resamples
    assert found.hit_rate["top"] == Estimate(0.5, 0.5, 0.5)  # one of two heads in every example
    assert found.hit_rate["bottom"].value == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert found.group_sizes == (1, 2, 3, 8)
    assert [point.value for point in found.coverage["top"]] == pytest.approx(
        [np.mean([3 / 4, 1 / 2, 0]), np.mean([1, 1 / 2, 1]), np.mean([1, 1 / 2, 1]), 1]
    )
    assert [point.value for point in found.coverage["bottom"]] == pytest.approx(
        [np.mean([1 / 4, 0, 0]), np.mean([1 / 4, 1 / 2, 0]), np.mean([1 / 4, 1 / 2, 0]), 1]
    )


def test_chance_levels_by_hand(by_hand):
    found = key_tokens(by_hand, hand_map(SCORES), k=2, group_sizes=(1, 3), seeds=(0,))
    shares = [5 / 100, 2 / 30, 1 / 20]
    assert found.ratio_chance == pytest.approx(np.mean(shares))
    # of 4 among 100, 2 or more in 5; of 2 among 30, one or more in 2; of 1 among 20, it in 1
    none, one = (95 * 94 * 93 * 92) / (100 * 99 * 98 * 97), 4 * 5 * (95 * 94 * 93) / (100 * 99 * 98 * 97)
    assert found.hit_chance == pytest.approx(np.mean([1 - none - one, 1 - 28 * 27 / (30 * 29), 1 / 20]))
    assert found.coverage_chance == pytest.approx([np.mean(shares), np.mean([1 - (1 - p) ** 3 for p in shares])])


def test_chance_levels_are_those_of_simulated_heads():
    """Uniform random rows through the real measure: every head finds any columns, apart from the others."""
    generator = torch.Generator().manual_seed(0)
    layers, heads, sizes = 6, 10, (1, 5, 20)
    batches, ratio, hits, covered = [], [], [], {size: [] for size in sizes}
    for columns, evidence in product((21, 47, 100), (1, 3, 4, 10)):
        mask = torch.zeros(60, columns, dtype=torch.bool)
        mask[:, torch.randperm(columns, generator=generator)[:evidence]] = True
        number = torch.full((60,), columns)
        rows = [torch.rand(60, heads, columns, generator=generator) for _ in range(layers)]
        found = torch.stack([find(row, mask, number).found for row in rows], dim=1)
        batches.append(KeyTokens(found, mask.sum(dim=1), number))
        one = found.sum(dim=-1).flatten(1) / evidence  # [B, heads]
        ratio.append(one)
        hits.append((2 * found.sum(dim=-1).flatten(1) >= evidence).float())
        for size in sizes:  # heads 0..size-1, size..2 size-1, ...: groups that share no head
            grouped = found.flatten(1, 2).unflatten(1, (-1, size)).any(dim=2).sum(dim=-1) / evidence
            covered[size].append(grouped)
    scores = torch.rand(layers, heads, generator=generator)
    study = key_tokens(batches, hand_map(scores), k=10, group_sizes=sizes)

    def near(simulated, chance):
        """Within 5 standard errors of a mean over strata, the lengths and sizes of evidence."""
        mean = torch.stack([part.double().mean() for part in simulated]).mean()
        square = torch.stack([part.double().var() / part.numel() for part in simulated]).mean() / len(simulated)
        assert abs(float(mean) - chance) < 5 * float(square**0.5)

    near(ratio, study.ratio_chance)
    near(hits, study.hit_chance)
    for size, chance in zip(sizes, study.coverage_chance, strict=True):
        near(covered[size], chance)
    assert abs(study.ratio_chance - 0.05) > 0.01, "the ceiling is felt in short prompts"
    for group in ("top", "bottom", "random"):  # the ranking is random, so no group is better than chance
        widths = 3 * (study.ratio[group].high - study.ratio[group].low)
        assert abs(study.ratio[group].value - study.ratio_chance) < widths


def test_random_heads_exclude_the_top_and_are_the_mean_over_seeds():
    """Only the top 3 heads find anything, so random heads outside them find nothing."""
    top = {(0, 0): (0,), (1, 0): (0,), (1, 2): (0,)}
    head_map = hand_map(SCORES)
    found = key_tokens([tokens([top], [1], [40])], head_map, k=3, group_sizes=(3,))
    assert found.ratio["top"].value == 1 and found.ratio["random"].value == 0
    assert found.coverage["random"][0].value == 0
    drawn = {seed: head_map.random(3, seed, exclude=head_map.top(3)) for seed in (5, 6)}
    marked = tokens([{tuple(head): (0,) for head in drawn[5].nonzero().tolist()}], [1], [40])
    both = int((drawn[5] & drawn[6]).sum())
    assert 0 < both < 3
    for seeds, value in (((5,), 1), ((5, 5), 1), ((6,), both / 3), ((5, 6), (1 + both / 3) / 2)):
        found = key_tokens([marked], head_map, k=3, group_sizes=(3,), seeds=seeds)
        assert found.ratio["random"].value == pytest.approx(value)


def test_a_random_group_of_most_heads_leaves_out_as_many_top_heads_as_it_can():
    top = {(0, 0): (0,), (1, 0): (1,)}  # ranks 1 and 2
    study = key_tokens([tokens([top], [2], [40])], hand_map(SCORES), k=1, group_sizes=(6, 7, 8))
    assert [point.value for point in study.coverage["random"]] == [0, 0.5, 1]


def test_sizes_beyond_the_model_are_left_out_and_logged(by_hand, caplog):
    with caplog.at_level(logging.WARNING):
        found = key_tokens(by_hand, hand_map(SCORES), k=2)
    assert found.group_sizes == (1, 2, 5) and len(found.coverage_chance) == 3
    assert "groups of [10, 15, 20, 30, 50, 75, 100] heads are left out: the model has 8" in caplog.text


def test_batches_are_taken_one_by_one(by_hand):
    held = []

    def batches():
        for batch in by_hand:
            held.append(batch)
            yield batch

    study = key_tokens(batches(), hand_map(SCORES), k=2, dataset="observed")
    whole = key_tokens(
        [tokens([{(0, 0): (0, 1, 2), (1, 0): (3,), (0, 1): (0,)}], [4], [100])]
        + [tokens([{(0, 0): (0,), (0, 3): (1,)}, {(1, 0): (0,), (1, 2): (0,)}], [2, 1], [30, 20])],
        hand_map(SCORES), k=2, dataset="observed",
    )  # fmt: skip
    assert len(held) == 2 and study.dataset == "observed"
    assert (study.ratio, study.coverage, study.hit_chance) == (whole.ratio, whole.coverage, whole.hit_chance)


def test_table(by_hand):
    study = key_tokens(by_hand, hand_map(SCORES), k=2, group_sizes=(1, 3))
    table = study.to_pandas()
    assert len(table) == 2 * 3 + 3 * 2
    row = table[(table.measure == "coverage") & (table.group == "bottom") & (table.heads == 3)].iloc[0]
    point = study.coverage["bottom"][1]
    assert [row.value, row.low, row.high, row.chance] == [point.value, point.low, point.high, study.coverage_chance[1]]
    row = table[(table.measure == "hit_rate") & (table.group == "top")].iloc[0]
    assert [row.heads, row.value, row.chance] == [2, 0.5, study.hit_chance]
    assert set(table.model) == {"tiny"} and set(table.dataset) == {"hand"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 5}, "k=5 was asked for - of 8 heads the top and bottom k must not meet - pass 1 to 4"),
        ({"k": 0}, "k=0 was asked for"),
        ({"k": 2, "seeds": ()}, r"seeds=\(\) was given"),
        ({"k": 2, "group_sizes": (0, 1)}, r"group_sizes=\(0, 1\) were given"),
        ({"k": 2, "confidence": 1.5}, "confidence=1.5"),
    ],
)
def test_arguments_out_of_range_are_refused(by_hand, options, message):
    with pytest.raises(ValueError, match=message):
        key_tokens(by_hand, hand_map(SCORES), **options)


def test_nothing_observed_and_another_model_are_refused(by_hand):
    with pytest.raises(ValueError, match="the key tokens of no examples were asked for"):
        key_tokens([], hand_map(SCORES), k=2)
    other = hand_map(np.arange(8).reshape(4, 2) / 10)
    with pytest.raises(ValueError, match=r"of \[2, 4\] \(layers, heads\) were observed - the head map has \[4, 2\]"):
        key_tokens(by_hand, other, k=2)


# ---- a model that retrieves


@pytest.fixture(scope="module")
def loaded():
    return AutoCoReModel.from_pretrained(HUB, dtype=torch.float32), load_processor(HUB)


def test_top_heads_find_the_evidence_and_bottom_heads_do_not(loaded):
    head_map = HeadMap.from_pretrained(f"{HUB}-head-map")
    observed = observe(*loaded, glyphs.generate(16, seed=5, pages=5), batch_size=8)
    found = key_tokens(observed, head_map, k=2, group_sizes=(1, 4))
    assert found.num_examples == 16 and found.num_heads == 48
    assert 0.05 <= found.ratio_chance < 0.06
    assert found.ratio["top"].low > 6 * found.ratio_chance
    assert found.ratio["bottom"].value < found.ratio_chance
    assert found.hit_rate["top"].value > found.hit_rate["random"].value
    assert found.coverage["top"][0].value > 0.9 > 4 * found.coverage_chance[0]


def test_observing_is_recording(loaded):
    model, processor = loaded
    examples = [*glyphs.generate(2, seed=1, pages=2), *glyphs.generate(1, seed=2, pages=3)]
    observed = list(observe(model, processor, iter(examples), batch_size=2, min_coverage=0.3))
    assert [len(batch.found) for batch in observed] == [2, 1]
    for batch, start in zip(observed, (0, 2), strict=True):
        prepared = family_of(model).prepare(processor, examples[start : start + 2], min_coverage=0.3)
        masks = (prepared.question_mask, prepared.evidence_mask)
        with model.record_attention(*masks, measure_key_tokens=True) as recording:
            model.prefill(**prepared.inputs)
        assert torch.equal(batch.found, recording.key_tokens.found)
        assert torch.equal(batch.num_columns, prepared.inputs["attention_mask"].sum(dim=1))
        assert torch.equal(batch.num_evidence, prepared.evidence_mask.sum(dim=1))
    with pytest.raises(ValueError, match="batch_size=0 was asked"):
        observe(model, processor, examples, batch_size=0)
    with pytest.raises(ValueError, match="views='low'"):
        next(observe(model, processor, examples, views="low"))
