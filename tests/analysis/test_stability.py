"""Stability against numbers counted by hand, scipy, and bootstrap samples that can be enumerated."""

import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hand import hand_map

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.analysis import ram_per_example, stability
from corehead_hf.data import glyphs

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
RISING = np.arange(1, 21) / 100  # 20 heads


def as_map(scores, **changes):
    return hand_map(np.reshape(scores, (4, 5)), **changes)


def swapped(*pairs):
    scores = RISING.copy()
    for one, other in pairs:
        scores[[one, other]] = scores[[other, one]]
    return scores


def test_masks_counts_and_universal_heads_by_hand():
    maps = {"a": as_map(RISING), "b": as_map(swapped((18, 19))), "c": as_map(swapped((0, 19), (1, 18), (17, 18)))}
    found = stability(maps, share=0.15)
    assert found.names == ("a", "b", "c") and found.share == 0.15
    assert found.model == maps["a"].base_model_name_or_path and found.num_examples == (5, 5, 5)
    # The 85th percentile of 0.01..0.20 lies at place 0.85 * 19 = 16.15: 0.17 + 0.15 * 0.01
    np.testing.assert_allclose(found.thresholds, 0.1715, atol=1e-7)
    inside = [set(np.flatnonzero(mask)) for mask in found.masks]
    assert inside == [{17, 18, 19}, {17, 18, 19}, {0, 1, 18}]
    assert found.counts.ravel().tolist() == [1, 1, *[0] * 15, 2, 3, 2] and found.counts.shape == (4, 5)
    assert found.universal == ((3, 3),)
    assert found.chance == pytest.approx(20 * 0.15**3)
    np.testing.assert_array_equal(found.scores[1].ravel(), swapped((18, 19)).astype(np.float32))
    for name in ("spearman_low", "spearman_high", "universal_low", "universal_high", "frequency"):
        assert getattr(found, name) is None


def test_universal_heads_stand_by_mean_rank():
    maps = {"a": as_map(swapped((19, 0))), "b": as_map(swapped((17, 0))), "c": as_map(RISING)}
    # ranks of head 0: 1, 3, 20 (out); head 18: 2, 2, 2; head 19: 20 (out); head 17: 3, 20 (out)
    assert stability(maps, share=0.2).universal == ((3, 3), (3, 1))  # head 16: 4, 4, 4
    tied = {"a": as_map(RISING), "b": as_map(swapped((18, 19)))}
    assert stability(tied, share=0.1).universal == ((3, 3), (3, 4)), "equal mean ranks stand by (layer, head)"


def test_the_order_is_by_rank_and_not_by_score():
    first, second = RISING.copy(), RISING.copy()
    first[18], first[19] = 0.9, 0.2  # ranks of 18: 1, 3; of 19: 2, 1
    second[17], second[18] = 0.19, 0.18
    assert stability({"a": as_map(first), "b": as_map(second)}, share=0.2).universal[:2] == ((3, 4), (3, 3))


def test_heads_that_tie_with_the_threshold_are_all_in():
    scores = np.array([0.5] * 3 + [0.1] * 17)
    found = stability({"a": as_map(scores), "b": as_map(RISING)}, share=0.05)
    assert found.masks.sum(axis=(1, 2)).tolist() == [3, 1]
    assert found.chance == pytest.approx(20 * 0.15 * 0.05)


def test_spearman_is_the_formula_of_the_ranks():
    maps = {"a": as_map(RISING), "b": as_map(swapped((0, 19), (4, 7))), "c": as_map(0.5 - RISING)}
    found = stability(maps).spearman
    distances = 2 * 19**2 + 2 * 3**2
    assert found[0, 1] == pytest.approx(1 - 6 * distances / (20 * (20**2 - 1)), abs=1e-12)
    assert found[0, 2] == pytest.approx(-1, abs=1e-12)
    np.testing.assert_array_equal(found, found.T)
    assert found.diagonal().tolist() == [1, 1, 1]


@pytest.mark.parametrize("number", [2, 4])
def test_spearman_is_scipys_also_with_ties(number):
    rng = np.random.default_rng(number)
    scores = rng.random((number, 20)).round(1)
    found = stability({str(i): as_map(row) for i, row in enumerate(scores)}).spearman
    for i, j in product(range(number), repeat=2):
        if i != j:
            assert found[i, j] == pytest.approx(scipy.stats.spearmanr(scores[i], scores[j])[0], abs=1e-12)


# ---- bootstrap


def two_examples(first, second):
    """RAM of two examples, in which heads 0 and 1 score so and the other 18 rise from 0.01 to 0.18."""
    rest = RISING[:18]
    return np.stack([[*first, *rest], [*second, *rest]]).reshape(2, 4, 5)


@pytest.fixture
def flipping():
    """Head 0 leads where example 0 is drawn at all: with probability 3/4; else head 1."""
    ram = {"a": two_examples((0.8, 0.1), (0.2, 0.5)), "b": two_examples((0.9, 0.3), (0.3, 0.6))}
    return {name: as_map(values.mean(axis=0)) for name, values in ram.items()}, ram


def test_the_bootstrap_of_two_examples_by_enumeration(flipping):
    maps, ram = flipping
    found = stability(maps, per_example=ram, resamples=4000)
    frequency = found.frequency.ravel()
    error = (0.5625 * 0.4375 / 4000) ** 0.5
    assert abs(frequency[0] - 0.75**2) < 5 * error, "the data sets are drawn apart from each other"
    assert abs(frequency[1] - 0.25**2) < 5 * error
    assert frequency[2:].tolist() == [0] * 18 and found.frequency.shape == (4, 5)
    assert (found.universal_low, found.universal_high) == (0, 1)
    outcomes = {}
    for i, j in product(((0, 0.25), (1, 0.5), (2, 0.25)), repeat=2):
        means = [
            ((2 - k) * values[0] + k * values[1]).ravel() for (k, _), values in zip((i, j), ram.values(), strict=True)
        ]
        rho = scipy.stats.spearmanr(*means)[0]
        outcomes[round(rho, 12)] = outcomes.get(round(rho, 12), 0) + i[1] * j[1]
    assert min(outcomes) < found.spearman[0, 1] and all(p > 0.05 for p in outcomes.values())
    assert found.spearman_low[0, 1] == pytest.approx(min(outcomes), abs=1e-9)
    assert found.spearman_high[0, 1] == pytest.approx(max(outcomes), abs=1e-9)
    assert found.spearman_low.diagonal().tolist() == found.spearman_high.diagonal().tolist() == [1, 1]


def test_confidence_and_seed_of_the_bootstrap(flipping):
    maps, ram = flipping
    narrow = stability(maps, per_example=ram, confidence=0.1)
    assert (narrow.universal_low, narrow.universal_high) == (1, 1)  # P(1) = 0.5625 + 0.0625
    first, again, other = (stability(maps, per_example=ram, resamples=101, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.frequency, again.frequency) and not np.array_equal(first.frequency, other.frequency)


def test_the_bootstrap_is_the_loop_written_out():
    rng = np.random.default_rng(5)
    base = rng.random(20)
    ram = {name: np.clip(base * 0.4 + 0.5 * rng.random((9, 20)), 0, 1).reshape(9, 4, 5) for name in "ab"}
    found = stability({name: as_map(values.mean(axis=0)) for name, values in ram.items()}, share=0.2, per_example=ram)
    rho, inside = [], []
    for _ in range(2000):
        means = [values[rng.integers(0, 9, 9)].mean(axis=0).ravel() for values in ram.values()]
        rho.append(scipy.stats.spearmanr(*means)[0])
        inside.append(np.logical_and(*(mean >= np.percentile(mean, 80) for mean in means)))
    error = 5 * (np.mean(inside, axis=0) * (1 - np.mean(inside, axis=0)) * (1 / 1000 + 1 / 2000)) ** 0.5
    assert (np.abs(found.frequency.ravel() - np.mean(inside, axis=0)) <= error + 1e-12).all()
    for end, level in ((found.spearman_low[0, 1], 0.025), (found.spearman_high[0, 1], 0.975)):
        assert abs(np.mean(np.array(rho) <= end) - level) < 5 * (level * (1 - level) * (1 / 1000 + 1 / 2000)) ** 0.5
    numbers = np.sort(np.sum(inside, axis=1))
    assert numbers[20] <= found.universal_low <= numbers[90] and numbers[-90] <= found.universal_high <= numbers[-20]


def test_a_resample_that_ranks_nothing_has_no_correlation():
    """Example 0 of "a" scores all heads alike; resamples of it alone (1/4) have rho 0."""
    ram = {"a": np.stack([np.full(20, 0.1), RISING]).reshape(2, 4, 5), "b": np.stack([RISING] * 2).reshape(2, 4, 5)}
    found = stability({name: as_map(values.mean(axis=0)) for name, values in ram.items()}, per_example=ram)
    assert found.spearman_low[0, 1] == 0 and found.spearman_high[0, 1] == pytest.approx(1)


# ---- tables, kept runs


def test_tables(flipping):
    maps, ram = flipping
    found = stability(maps, per_example=ram, resamples=50)
    table = found.to_pandas()
    assert len(table) == 2 * 20
    row = table[(table.dataset == "b") & (table.layer == 0) & (table["head"] == 0)].iloc[0]
    assert row.score == pytest.approx(0.6) and row.in_mask and row["count"] == 2 and row.universal
    assert row.frequency == found.frequency[0, 0]
    assert table.groupby("dataset").in_mask.sum().to_dict() == {"a": 1, "b": 1}
    pairs = found.spearman_to_pandas()
    assert pairs[["first", "second"]].values.tolist() == [["a", "b"]]
    assert pairs[["low", "rho", "high"]].values[0].tolist() == [
        values[0, 1] for values in (found.spearman_low, found.spearman, found.spearman_high)
    ]
    plain = stability(maps)
    assert "frequency" not in plain.to_pandas() and list(plain.spearman_to_pandas()) == ["first", "second", "rho"]


def test_ram_of_every_example_of_a_kept_run(tmp_path):
    model, processor = AutoCoReModel.from_pretrained(HUB, dtype=torch.float32), load_processor(HUB)
    maps, ram = {}, {}
    for seed in (1, 2):
        examples = list(glyphs.generate(5, seed=seed, pages=2, margin=8, num_letters=20))
        kept = tmp_path / str(seed)
        maps[str(seed)] = measure(model, processor, examples, dataset="glyphs", batch_size=5, resume_from=kept)
        ram[str(seed)] = ram_per_example(kept)
    assert ram["1"].shape == (5, 12, 4) and ram["1"].dtype == np.float64
    assert np.array_equal(ram_per_example(tmp_path / "1", limit=3), ram["1"][:3])
    found = stability(maps, share=0.1, per_example=ram, resamples=100)
    assert found.universal[0] == (0, 1) and found.frequency[0, 1] > 0.9  # the head the shipped map ranks first
    with pytest.raises(ValueError, match=r"per_example\['1'\] of 5 examples was given - its mean is .* off the map's"):
        stability(maps, per_example={"1": ram["2"], "2": ram["2"]})
    with pytest.raises(FileNotFoundError):
        ram_per_example(tmp_path / "nothing")


# ---- what is refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": 0.0}, "share=0.0 was asked for"),
        ({"share": 5}, "share=5 was asked for"),
        ({"per_example": {"a": 0}}, r"per_example of \['a'\] was given for maps of \['a', 'b'\]"),
        (
            {"per_example": dict.fromkeys("ab", np.zeros((3, 5, 4)))},
            r"per_example\['a'\] of shape \[3, 5, 4\] was given - the map has \[4, 5\] heads",
        ),
        (
            {"per_example": dict.fromkeys("ab", np.full((3, 4, 5), np.nan))},
            r"per_example\['a'\] of 3 examples was given - its mean is nan off",
        ),
        ({"per_example": {}, "resamples": 0}, "resamples=0 were asked for"),
        ({"per_example": {}, "confidence": 1}, "confidence=1 was asked for"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stability({"a": as_map(RISING), "b": as_map(RISING)}, **options)


def test_maps_that_compare_nothing_are_refused():
    with pytest.raises(ValueError, match=r"stability of \['a'\] was asked for - it compares data sets"):
        stability({"a": as_map(RISING)})
    with pytest.raises(ValueError, match="'b' was asked for - all its heads score 0.5"):
        stability({"a": as_map(RISING), "b": as_map(np.full(20, 0.5))})


def test_maps_of_other_models_are_refused_by_name_and_other_rules_are_told(caplog):
    first = as_map(RISING)
    other = hand_map(RISING.reshape(5, 4), head_dim=16)
    with pytest.raises(
        ValueError, match="'a' and 'b' was asked for .* num_layers: 4 / 5; num_heads: 5 / 4; head_dim: 8 / 16"
    ):
        stability({"a": first, "b": other})
    with caplog.at_level(logging.WARNING):
        stability({"a": first, "b": as_map(RISING, view_rule="hires views", base_model_name_or_path="tuned")})
    assert [record.getMessage() for record in caplog.records] == [
        "'a' and 'b' differ in base_model_name_or_path: 'tiny' / 'tuned'",
        "'a' and 'b' differ in view_rule: 'all views' / 'hires views'",
    ]


def test_a_seed_is_a_number(flipping):
    maps, ram = flipping
    with pytest.raises(TypeError):
        stability(maps, per_example=ram, seed=None)
