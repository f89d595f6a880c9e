import logging

import numpy as np
import pytest
import torch
from killed_study import loaded
from scipy.stats import binom, binomtest
from scorers import NeedsHeads, head_map

from corehead_hf.analysis import timing
from corehead_hf.analysis.keep_sweep import KeepSweep, hybrid_accuracy, keep_sweep
from corehead_hf.analysis.result import Result
from corehead_hf.analysis.timing import Quantiles
from corehead_hf.modes import HybridPrefill

# Of ten examples five need the top head, three the second, one the last, one a head of the middle.
NEEDS = [[(0, 2)] * 4, [(0, 2), (1, 1), (1, 1), (1, 1), (2, 3), (0, 1)]]
SIZES = {"sink_size": 2, "window_size": 8}


def ends(estimate):
    return estimate.value, estimate.low, estimate.high


def wilson(right, total):
    interval = binomtest(right, total).proportion_ci(method="wilson")
    return pytest.approx((right / total, interval.low, interval.high))


def test_accuracy_and_drop_by_hand(model):
    scorer = NeedsHeads(model, NEEDS)
    sweep = keep_sweep(model, head_map(), scorer, keeps=(1.0, 2, 1, 0.26), chance=0.125, dataset="other", **SIZES)
    assert [(p.keep, p.count, p.share) for p in sweep.points] == [
        (1 / 12, 1, 1 / 12),
        (2 / 12, 2, 2 / 12),
        (0.26, 3, 3 / 12),
        (1.0, 12, 1.0),
    ]
    assert [ends(p.accuracy) for p in sweep.points] == [wilson(right, 10) for right in (5, 8, 8, 10)]
    assert [p.drop.value for p in sweep.points] == pytest.approx([0.5, 0.2, 0.2, 0.0])
    # of the paired differences 5 are 1 and 5 are 0: a resampled mean is a binomial draw
    assert ends(sweep.points[0].drop)[1:] == tuple(binom.ppf((0.025, 0.975), 10, 0.5) / 10)
    assert ends(sweep.points[3].drop) == (0.0, 0.0, 0.0)
    assert ends(sweep.dense) == wilson(10, 10)
    assert (sweep.model, sweep.dataset, sweep.device, sweep.chance) == ("tiny", "other", "cpu", 0.125)
    assert (sweep.num_heads, sweep.num_examples, sweep.sink_size, sweep.window_size) == (12, 10, 2, 8)
    assert sweep.num_tokens is None and sweep.dense_seconds is None
    assert all(point.seconds is None and point.speedup is None for point in sweep.points)
    assert scorer.calls == 1 + 4 and model.hybrid is None
    modes = scorer.modes[:: len(NEEDS)]
    assert all(isinstance(mode, HybridPrefill) and mode.dense_below == 0 for mode in modes)
    assert {(mode.sink_size, mode.window_size) for mode in modes} == {(2, 8)}
    assert [mode.heads.nonzero().tolist() for mode in modes[:2]] == [[[0, 2]], [[0, 2], [1, 1]]]


@pytest.fixture
def clock(model, monkeypatch):
    """Milliseconds by hand: five rounds of the dense prefill; hybrid with one head is 1, 2, 3, 4, 5 times as fast."""
    calls, dense_ms = [], (10, 100, 20, 80, 40)

    def milliseconds(call, device):
        call()
        count = 0 if model.hybrid is None else int(model.hybrid.heads.sum())
        calls.append(count)
        turn = (len(calls) - 1) // 3 - timing.WARM_UPS  # three prefills a round
        if turn < 0:
            return 1e9
        return dense_ms[turn] / {0: 1, 1: turn + 1, 4: 0.5}[count]

    monkeypatch.setattr(timing, "milliseconds", milliseconds)
    return calls


class Timed:
    """Stands for a Prepared batch of the tiny random model."""

    examples = ()

    def __init__(self, length):
        self.inputs = {"input_ids": torch.arange(2, length + 2)[None]}
        self.question_mask = self.visual_mask = torch.zeros(1, length, dtype=torch.bool)

    def to(self, device, dtype):
        return self


def test_speed_by_hand_is_paired_by_round_and_warm_ups_do_not_count(model, clock):
    sweep = keep_sweep(model, head_map(), NeedsHeads(model, NEEDS), keeps=(4, 1), timed=Timed(20), **SIZES)
    assert clock == [0, 1, 4, 4, 1, 0, 0, 1, 4, 4, 1, 0, 0, 1, 4, 4, 1, 0, 0, 1, 4]
    one, four = sweep.points
    assert one.speedup == Quantiles(*map(pytest.approx, (1.8, 3.0, 4.2)))
    assert four.speedup == Quantiles(*map(pytest.approx, (0.5, 0.5, 0.5)))
    # in order 20 / 3, 8, 10, 20, 50 ms, and 10, 20, 40, 80, 100 ms
    assert one.seconds == Quantiles(*map(pytest.approx, (0.2 * 0.02 / 3 + 0.8 * 0.008, 0.01, 0.026)))
    assert sweep.dense_seconds == Quantiles(*map(pytest.approx, (0.018, 0.04, 0.084)))
    assert sweep.num_tokens == 20 and model.hybrid is None


def test_a_sweep_comes_back_from_its_file_and_is_a_table(model, clock, tmp_path):
    scorer = NeedsHeads(model, NEEDS)
    for timed in (None, Timed(20)):
        sweep = keep_sweep(model, head_map(), scorer, keeps=(1, 4), timed=timed, **SIZES)
        sweep.save(tmp_path / "sweep.json")
        assert Result.load(tmp_path / "sweep.json") == sweep
        table = sweep.to_pandas()
        assert table["hybrid"].tolist() == [False, True, True] and table["count"].tolist() == [12, 1, 4]
        assert table.accuracy.tolist() == [1.0, 0.5, 0.8] and table["drop"].tolist() == pytest.approx([0, 0.5, 0.2])
        assert table.speedup_p50.isna().all() if timed is None else table.speedup_p50.tolist() == [1, 3, 0.5]
        assert table.num_tokens.isna().all() if timed is None else set(table.num_tokens) == {20}


def test_a_sweep_goes_on_where_it_was_timings_included(model, clock, tmp_path):
    def study(keeps, needs=NEEDS, **options):
        scorer = NeedsHeads(model, needs)
        options = {"timed": Timed(20), "resume_from": tmp_path / "sweep.jsonl", **SIZES, **options}
        return keep_sweep(model, head_map(), scorer, keeps=keeps, **options), scorer.calls

    whole, calls = study((1, 4))
    assert calls == 3 and len(clock) == 3 * 7
    assert study((1, 4)) == (whole, 0) and len(clock) == 3 * 7
    more, calls = study((1, 2, 4), timed=None)
    assert calls == 1 and [p.accuracy.value for p in more.points] == [0.5, 0.8, 0.8]
    with pytest.raises(ValueError, match="another configuration: sink_size: 2 there / 3 now"):
        study((1,), sink_size=3)
    with pytest.raises(ValueError, match="another configuration: scored needs"):
        study((1,), NEEDS[::-1])


def test_a_real_prefill_is_timed(model):
    sweep = keep_sweep(model, head_map(), NeedsHeads(model, NEEDS), keeps=(1,), timed=Timed(40), repeats=2, **SIZES)
    (point,) = sweep.points
    for found in (sweep.dense_seconds, point.seconds, point.speedup):
        assert 0 < found.p20 <= found.p50 <= found.p80 < 60


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keeps": ()}, "no keeps"),
        ({"keeps": (0,)}, "keep=0 of 3 layers"),
        ({"keeps": (1.5,)}, "keep=1.5"),
        ({"repeats": 0}, "repeats=0"),
        ({"window_size": 0}, "window_size"),
        ({"confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_any_pass(model, options, message):
    scorer = NeedsHeads(model, NEEDS)
    with pytest.raises(ValueError, match=message):
        keep_sweep(model, head_map(), scorer, **{"keeps": (1,), **SIZES, **options})
    assert scorer.calls == 0


def test_a_model_with_hybrid_prefill_on_is_refused_and_left_so(model):
    model.enable_hybrid(heads=[(0, 0)])
    mode = model.hybrid
    with pytest.raises(ValueError, match=r"while HybridPrefill is on.*disable_hybrid\(\)"):
        keep_sweep(model, head_map(), NeedsHeads(model, NEEDS), keeps=(1,))
    assert model.hybrid is mode


@pytest.mark.parametrize("study", ["keep_sweep", "hybrid_accuracy"])
def test_hybrid_is_switched_off_also_when_the_scorer_fails(model, study):
    good = NeedsHeads(model, NEEDS)

    def failing(under):
        for batch in good.batches:
            with under(batch):
                if model.hybrid is not None:
                    raise RuntimeError("out of memory")
        return np.ones(10)

    with pytest.raises(RuntimeError, match="out of memory"):
        if study == "keep_sweep":
            keep_sweep(model, head_map(), failing, keeps=(1,), **SIZES)
        else:
            hybrid_accuracy(model, head_map(), 1, failing, **SIZES)
    assert model.hybrid is None and model.core_state.modes == []


def test_hybrid_accuracy_of_top_bottom_and_random_heads_by_hand(model):
    scorer = NeedsHeads(model, NEEDS, length=10)
    scorer_as_array = lambda under: np.array(scorer(under))  # noqa: E731
    found = hybrid_accuracy(model, head_map(), 2, scorer_as_array, seeds=(0, 3), **SIZES)
    drawn = [head_map().random(2, seed, exclude=head_map().top(2)) for seed in (0, 3)]
    random = tuple(sum(bool(heads[head]) for batch in NEEDS for head in batch) / 10 for heads in drawn)
    assert (found.count, found.top, found.bottom, found.random) == (2, 0.8, 0.1, random)
    assert found.random_mean == pytest.approx(sum(random) / 2)


def test_short_prompts_are_told_of(model, caplog):
    with caplog.at_level(logging.WARNING):
        scorer = NeedsHeads(model, NEEDS, length=30)
        keep_sweep(model, head_map(), scorer, keeps=(1,), sink_size=2, window_size=30, timed=Timed(9), repeats=1)
    assert "no prompt that was scored is longer than window_size=30 (the longest has 30 tokens)" in caplog.text
    assert "no prompt that was timed is longer than window_size=30 (the longest has 9 tokens)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        keep_sweep(model, head_map(), scorer, keeps=(1,), sink_size=2, window_size=29, timed=Timed(31), repeats=1)
    assert caplog.text == ""


@pytest.fixture(scope="module")
def trained():
    return loaded("glyphs-qwen3-vl", num_examples=12)


def test_on_a_trained_model_the_top_head_alone_keeps_the_answers(trained):
    model, map_, scorer = trained
    sweep = keep_sweep(model, map_, scorer, keeps=(1, 1.0), sink_size=4, window_size=16, timed=scorer.batches[0])
    one, whole = sweep.points
    assert sweep.dense.value >= 0.95 and one.accuracy.value >= 0.95
    assert whole.accuracy == sweep.dense and ends(whole.drop) == (0.0, 0.0, 0.0)
    found = hybrid_accuracy(model, map_, 1, scorer, sink_size=4, window_size=16, seeds=(0, 1))
    assert found.top == one.accuracy.value and max(found.bottom, *found.random) <= 0.4


def test_a_window_as_long_as_the_prompt_gives_the_dense_scores_bit_by_bit(trained):
    model, map_, scorer = trained
    longest = max(batch.question_mask.shape[1] for batch in scorer.batches)
    sweep = keep_sweep(model, map_, scorer, keeps=(1, 2), sink_size=0, window_size=longest)
    assert isinstance(sweep, KeepSweep)
    for point in sweep.points:
        assert point.accuracy == sweep.dense and ends(point.drop) == (0.0, 0.0, 0.0)
