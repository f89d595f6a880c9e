import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import killed_study
import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest
from scorers import NeedsHeads, head_map
from tiny_models import inputs_for, masks_for

from corehead_hf.analysis.ablation import AblationCurve, AblationPoint, GroupPoint, ablation_curve
from corehead_hf.analysis.groups import count_from_gap
from corehead_hf.analysis.intervals import Estimate
from corehead_hf.analysis.result import Result
from corehead_hf.modes import ABLATION_VARIANTS, AblateHeads

ROOT = Path(__file__).parents[2]
# Of ten examples five need the top head, three the second, one the last, one a head of the middle.
NEEDS = [[(0, 2)] * 4, [(0, 2), (1, 1), (1, 1), (1, 1), (2, 3), (0, 1)]]


@pytest.fixture
def curve(model):
    return ablation_curve(model, head_map(), NeedsHeads(model, NEEDS), counts=(1, 2), seeds=(0, 1), chance=0)


def wilson(right, total, confidence=0.95):
    interval = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return pytest.approx((right / total, interval.low, interval.high))


def ends(estimate):
    return estimate.value, estimate.low, estimate.high


def test_accuracy_and_drop_by_hand(curve):
    assert (curve.model, curve.dataset, curve.num_heads, curve.num_examples) == ("tiny", "hand", 12, 10)
    assert ends(curve.dense) == wilson(10, 10)
    assert curve.chance == 0.0 and isinstance(curve.chance, float)
    right = {("top", 1): 5, ("top", 2): 2, ("bottom", 1): 9, ("bottom", 2): 9}
    for point in curve.points:
        if point.seed is None:
            expected = right[point.group, point.count]
            assert ends(point.accuracy) == wilson(expected, 10), point
            assert point.drop.value == pytest.approx(1 - expected / 10)


def test_the_interval_of_a_drop_is_that_of_the_paired_differences(curve):
    """Of the differences 5 are 1 and 5 are 0: a resampled mean is a binomial draw."""
    drop = next(point.drop for point in curve.points if (point.group, point.count) == ("top", 1))
    assert (drop.low, drop.high) == tuple(binom.ppf((0.025, 0.975), 10, 0.5) / 10) == (0.2, 0.8)


def test_without_a_change_the_drop_is_nothing_though_the_accuracy_is_uncertain(model):
    """Half of the examples are wrong in any case; unpaired, their drop would have an interval around 0."""
    scorer = NeedsHeads(model, [[(0, 0)] * 6])
    scores = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    curve = ablation_curve(model, head_map(), lambda under: scorer(under) * scores, counts=(1,), groups=("bottom",))
    (point,) = curve.points
    assert ends(point.accuracy) == ends(curve.dense) == wilson(3, 6)
    assert ends(point.drop) == (0.0, 0.0, 0.0)


def test_random_points_are_those_of_their_heads_and_series_are_their_mean_and_envelope(curve):
    for group, matched in (("random", False), ("layer_matched", True)):
        for point in curve.series("zero", group):
            assert point.seeds == (0, 1)
            right = []
            for seed in (0, 1):
                heads = head_map().random(point.count, seed, exclude=head_map().top(point.count), layer_matched=matched)
                right.append(sum(not heads[head] for batch in NEEDS for head in batch))
            assert point.mean == pytest.approx(sum(right) / 20)
            assert point.low == pytest.approx(binomtest(min(right), 10).proportion_ci(method="wilson").low)
            assert point.high == pytest.approx(binomtest(max(right), 10).proportion_ci(method="wilson").high)


def test_series_by_hand():
    def point(count, seed, *accuracy, group="random"):
        return AblationPoint("zero", group, count, seed, Estimate(*accuracy), Estimate(0.0, 0.0, 0.0))

    points = (
        point(4, 0, 0.5, 0.4, 0.6),
        point(2, 0, 0.9, 0.8, 0.95),
        point(2, 7, 0.7, 0.5, 0.9),
        point(2, None, 0.1, 0.05, 0.2, group="top"),
    )
    dense = Estimate(1.0, 0.9, 1.0)
    curve = AblationCurve(
        model="m", dataset="d", num_heads=12, num_examples=3, dense=dense, chance=None, points=points
    )  # fmt: skip
    assert curve.variants == ("zero",) and curve.groups == ("random", "top")
    two, four = curve.series("zero", "random")
    assert (two.count, two.mean, two.low, two.high, two.seeds) == (2, pytest.approx(0.8), 0.5, 0.95, (0, 7))
    assert four == GroupPoint(4, 0.5, 0.4, 0.6, (0,))
    assert curve.series("zero", "top") == [GroupPoint(2, 0.1, 0.05, 0.2, ())]
    with pytest.raises(ValueError, match="'stream' was asked.*it has zero"):
        curve.series("stream", "top")


def test_the_table_has_a_row_a_point_and_one_for_the_dense_model(curve):
    table = curve.to_pandas()
    assert len(table) == 1 + len(curve.points) == 1 + 2 * (1 + 1 + 2 + 2)
    first = table.iloc[0]
    assert (first.variant, first.group, first["count"], first.accuracy, first["drop"]) == ("none", "dense", 0, 1.0, 0.0)
    top = table[(table.group == "top") & (table["count"] == 2)].iloc[0]
    assert top.accuracy == 0.2 and top.accuracy_low < 0.2 < top.accuracy_high and np.isnan(top.seed)
    assert top.drop_low < top["drop"] == 0.8
    assert table[table.group == "random"].seed.tolist() == [0, 1, 0, 1]


def test_a_curve_comes_back_from_its_file(curve, tmp_path):
    curve.save(tmp_path / "curve.json")
    assert Result.load(tmp_path / "curve.json") == curve


def test_each_variant_gets_what_it_needs(wrapped):
    """Options reach the modes: the batch's own visual mask, the reference's mean outputs, the sizes."""
    inputs = inputs_for(wrapped, 2, [0, 5])
    question, _, visual = masks_for(inputs)
    reference = Reference(inputs, question, visual)
    with wrapped.record_outputs() as recording:
        wrapped.prefill(**inputs)
    scorer = NeedsHeads(wrapped, NEEDS)
    map_ = head_map(model_type=wrapped.config.model_type)
    options = {"groups": ("top",), "reference": [reference], "sink_size": 3, "window_size": 7, "confidence": 0.5}
    curve = ablation_curve(wrapped, map_, scorer, counts=(2,), variants=ABLATION_VARIANTS, **options)
    assert curve.variants == ABLATION_VARIANTS and (curve.sink_size, curve.window_size) == (3, 7)
    assert [ends(p.accuracy) for p in curve.points] == [wilson(2, 10, 0.5)] * 4 and curve.confidence == 0.5
    modes = [mode for mode in scorer.modes if isinstance(mode, AblateHeads)]
    assert len(modes) == len(scorer.modes) == 2 * 4
    assert [mode.variant for mode in modes[::2]] == list(ABLATION_VARIANTS)
    assert all(torch.equal(mode.heads, map_.top(2)) for mode in modes)
    assert torch.equal(modes[2].mean_output, recording.mean)
    for mode, batch in zip(modes[4:6], scorer.batches, strict=True):
        assert torch.equal(mode.visual_mask, batch.visual_mask)
    assert (modes[6].sink_size, modes[6].window_size) == (3, 7)


class Reference:
    """Stands for a Prepared batch of the tiny random models."""

    examples = ()

    def __init__(self, inputs, question_mask, visual_mask):
        self.inputs, self.question_mask, self.visual_mask = inputs, question_mask, visual_mask

    def to(self, device, dtype):
        return self


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variants": ("zero", "half")}, "'half'.*known are zero, mean, visual, stream"),
        ({"variants": ()}, "name at least one"),
        ({"variants": ("mean",)}, "'mean' was asked for without reference"),
        ({"confidence": 95}, "confidence=95"),
        ({"window_size": 0}, "window_size"),
        ({"groups": ("middle",)}, "'middle'"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_any_pass(model, options, message):
    scorer = NeedsHeads(model, NEEDS)
    with pytest.raises(ValueError, match=message):
        ablation_curve(model, head_map(), scorer, counts=(1,), **options)
    assert scorer.calls == 0


def test_a_model_that_is_not_as_it_came_is_refused(model):
    study = partial(ablation_curve, model, scorer=NeedsHeads(model, NEEDS), counts=(1,))
    with model.ablate_heads([(0, 0)]), pytest.raises(ValueError, match="while AblateHeads is on"):
        study(head_map=head_map())
    with pytest.raises(ValueError, match="asked to fit the model"):
        study(head_map=head_map(model_type="internvl"))


def test_a_scorer_that_cannot_be_trusted_is_refused(model):
    study = partial(ablation_curve, model, head_map(), counts=(1,), groups=("top",))
    good, lengths = NeedsHeads(model, NEEDS), iter((10, 9))
    with pytest.raises(ValueError, match="never entered under"):
        study(scorer=lambda under: good())
    with pytest.raises(ValueError, match="gave 9 scores after 10 in the first pass"):
        study(scorer=lambda under: good(under)[: next(lengths)])
    for wrong in (np.ones((2, 2)), [], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="needs finite numbers"):
            study(scorer=lambda under, wrong=wrong: (good(under), wrong)[1])


def test_a_scorer_that_fails_leaves_the_model_as_it_was(model):
    good = NeedsHeads(model, NEEDS)

    def failing(under):
        good(under)
        if good.calls == 2:
            raise RuntimeError("out of memory")
        return np.ones(10)

    with pytest.raises(RuntimeError, match="out of memory"):
        ablation_curve(model, head_map(), failing, counts=(1,))
    assert model.core_state.modes == []


def test_a_study_goes_on_where_it_was_and_takes_more_counts(model, tmp_path):
    def study(counts, map_=None, needs=NEEDS, **options):
        scorer = NeedsHeads(model, needs)
        path = tmp_path / "study.jsonl"
        curve = ablation_curve(model, map_ or head_map(), scorer, counts=counts, resume_from=path, **options)
        return curve, scorer.calls

    whole, calls = study((1, 2))
    assert calls == 1 + 2 * (1 + 1 + 3 + 3)
    assert study((1, 2)) == (whole, 0)
    more, calls = study((1, 2, 3))
    assert calls == 8
    assert more == ablation_curve(model, head_map(), NeedsHeads(model, NEEDS), counts=(1, 2, 3))
    with pytest.raises(ValueError, match="another configuration: scored needs"):
        study((1, 2), needs=NEEDS[:1])
    with pytest.raises(ValueError, match="another configuration: window_size: 2048 there / 64 now"):
        study((1, 2), window_size=64)
    with pytest.raises(ValueError, match="another configuration: head_map: 'hand, sha256"):
        study((1, 2), head_map([[0.4, 0.3, 0.8, 0.7], [0.6, 0.9, 0.5, 0.2], [0.15, 0.1, 0.05, 0.01]]))
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ValueError, match="another configuration: weights"):
        study((1, 2))


def test_to_be_resumed_a_scorer_tells_what_it_scores(model, tmp_path):
    scorer = NeedsHeads(model, NEEDS)
    with pytest.raises(ValueError, match="does not tell what it scores"):
        ablation_curve(
            model, head_map(), lambda under: scorer(under), counts=(1,), resume_from=tmp_path / "study.jsonl"
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_gives_the_bytes_of_a_study_in_one_go(tmp_path):
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, killed_study.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = list(map(int, done.stdout.split()))
    assert len(lines) == killed_study.KILLS and lines == sorted(set(lines)), f"no progress between kills: {lines}"
    assert 0 < lines[0] and lines[-1] < killed_study.PASSES
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    curve = Result.load(tmp_path / "killed.json")
    assert 1 + len(curve.points) == killed_study.PASSES


@pytest.fixture(scope="module", params=["qwen3-vl", "llava-onevision", "internvl"])
def trained(request):
    """A trained model, its head map, a scorer of 12 examples."""
    return killed_study.loaded(f"glyphs-{request.param}", num_examples=12)


def test_on_trained_models_the_answers_need_the_top_heads_whatever_ablated_means(trained):
    model, map_, scorer = trained
    options = {"groups": ("top", "bottom", "random"), "seeds": (0, 1), "sink_size": 4, "window_size": 16}
    options |= {"variants": ABLATION_VARIANTS, "reference": scorer.batches}
    curve = ablation_curve(model, map_, scorer, counts=(count_from_gap(map_),), **options)
    assert curve.dense.value >= 0.95
    for variant in ABLATION_VARIANTS:
        (top,), (bottom,), (random,) = (curve.series(variant, group) for group in ("top", "bottom", "random"))
        assert top.mean <= 0.35 and bottom.mean >= 0.95 and random.mean >= 0.95, variant
        drop = next(p.drop for p in curve.points if (p.variant, p.group) == (variant, "top"))
        assert drop.low > 0.3, variant


def test_an_ablation_that_changes_nothing_gives_the_dense_scores_bit_by_bit(trained, caplog):
    model, map_, scorer = trained
    dense = scorer()
    assert np.array_equal(scorer(lambda batch: nullcontext()), dense)
    with caplog.at_level(logging.WARNING):
        options = {"groups": ("top",), "variants": ("stream",), "sink_size": 0, "window_size": 512}
        curve = ablation_curve(model, map_, scorer, counts=(1.0,), **options)
    assert curve.points[0].accuracy == curve.dense and ends(curve.points[0].drop) == (0.0, 0.0, 0.0)
    assert "no prompt that was scored is longer than window_size=512" in caplog.text
