from dataclasses import replace

import numpy as np
import pytest
from hand_made import ablation, estimate, keep_sweep

from corehead_hf import plots
from corehead_hf.analysis.ablation import AblationCurve, AblationPoint
from corehead_hf.analysis.intervals import Estimate

pytest.importorskip("matplotlib")


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def band(collection):
    """x -> (low, high) of a filled band."""
    vertices = collection.get_paths()[0].vertices
    return {
        x: (vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max()) for x in set(vertices[:, 0])
    }


def by_hand():
    """Random heads of two seeds: means 0.6 and 0.8, intervals 0.5..0.7 and 0.75..0.85."""
    points = [("top", 2, None, Estimate(0.4, 0.3, 0.5)), ("top", 4, None, Estimate(0.2, 0.1, 0.25))]
    points += [("random", 4, 0, Estimate(0.6, 0.5, 0.7)), ("random", 4, 1, Estimate(0.8, 0.75, 0.85))]
    return AblationCurve(
        model="owner/tiny", dataset="hand", num_heads=48, num_examples=7, dense=Estimate(0.9, 0.85, 0.95), chance=0.25,
        points=tuple(AblationPoint("zero", *point, estimate(0.0)) for point in points),
    )  # fmt: skip


def test_ablation_curve_starts_at_dense_and_draws_means_and_envelopes():
    ax = plots.ablation_curve(by_hand()).axes[0]
    lines = lines_of(ax)
    assert lines["top by RAM"].get_xydata().tolist() == [[0, 0.9], [2, 0.4], [4, 0.2]]
    assert lines["random"].get_xydata().tolist() == [[0, 0.9], [4, pytest.approx(0.7)]]
    random, top = (band(collection) for collection in ax.collections)
    assert top == {0: (0.85, 0.95), 2: (0.3, 0.5), 4: (0.1, 0.25)} and random == {0: (0.85, 0.95), 4: (0.5, 0.85)}
    assert set(lines["chance (0.25)"].get_ydata()) == {0.25}
    assert ax.get_xticks().tolist() == [0, 2, 4] and ax.get_xlabel() == "ablated heads of 48"
    assert ax.get_title(loc="left") == "Accuracy after ablation (output set to zero)\ntiny, hand, 7 examples"
    assert ax.get_ylim()[0] <= 0 and ax.get_ylim()[1] >= 0.95 and "95\u00a0%" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["top by RAM", "random", "chance (0.25)"]


def test_without_a_chance_level_none_is_drawn():
    assert not [name for name in lines_of(plots.ablation_curve(ablation(chance=0.25)).axes[0]) if name == "chance"]
    labels = lines_of(plots.ablation_curve(replace(by_hand(), chance=None)).axes[0])
    assert set(labels) == {"top by RAM", "random"}


def test_every_variant_has_its_panel():
    curve = ablation(variants=("zero", "stream"))
    figure, axes = plots.new_figure(1, 2, size=(9, 4))
    assert plots.ablation_curve(curve, ("zero", "stream"), ax=axes) is figure
    zero, stream = (ax.get_title(loc="left").replace("\n", " ") for ax in axes[0])
    assert "(output set to zero)" in zero and "(reduced to sink 128 + window 2048)" in stream
    (alone,) = plots.ablation_curve(curve, "stream").axes
    assert alone.lines[-1].get_xydata().tolist() == axes[0, 1].lines[-1].get_xydata().tolist()


def test_four_variants_stand_two_by_two():
    variants = ("zero", "mean", "visual", "stream")
    panels = plots.ablation_curve(ablation(variants=variants), variants).axes
    places = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in panels]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for ax, words in zip(panels, ("set to zero", "its mean", "visual columns", "sink 128 + window 2048"), strict=True):
        assert words in ax.get_title(loc="left").replace("\n", " ")


def test_variants_and_axes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"\['mean'\] were asked for - the study has \['zero'\]"):
        plots.ablation_curve(ablation(), "mean")
    with pytest.raises(ValueError, match="1 axes were given for 1 x 2 panels"):
        plots.ablation_curve(ablation(variants=("zero", "mean")), ("zero", "mean"), ax=plots.new_figure(size=(2, 2))[1])


def test_keep_curve_shows_accuracy_and_speed_beside_dense():
    sweep = keep_sweep()
    accuracy, speed = plots.keep_curve(sweep).axes
    shares = [point.share for point in sweep.points]
    hybrid = lines_of(accuracy)["top heads dense, others sink + window"]
    assert hybrid.get_xydata().tolist() == [[p.share, p.accuracy.value] for p in sweep.points]
    assert set(lines_of(accuracy)["all heads dense"].get_ydata()) == {0.658}
    assert set(lines_of(accuracy)["chance (0.25)"].get_ydata()) == {0.25}
    assert band(accuracy.collections[0])[shares[0]] == (sweep.points[0].accuracy.low, sweep.points[0].accuracy.high)
    (bars,) = speed.containers
    assert bars.lines[0].get_xydata().tolist() == [[p.share, p.speedup.p50] for p in sweep.points]
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ends == pytest.approx(np.array([[p.speedup.p20, p.speedup.p80] for p in sweep.points]))
    assert set(lines_of(speed)["all heads dense"].get_ydata()) == {1}
    ticks = [label.get_text() for label in accuracy.get_xticklabels()]
    assert ticks[0] == "1.7" and ticks[-1] == "21.7" and set(ticks) <= {f"{100 * share:.3g}" for share in shares}
    title = speed.get_title(loc="left").replace("\n", " ")
    assert all(word in title for word in ("65536 tokens", "NVIDIA H200", "sink 128", "window 2048"))


def test_a_sweep_without_points_is_refused():
    with pytest.raises(ValueError, match="the sweep has no points"):
        plots.keep_curve(replace(keep_sweep(), points=()))


def test_a_sweep_without_times_has_one_panel():
    assert len(plots.keep_curve(keep_sweep(timed=False)).axes) == 1
    with pytest.raises(ValueError, match="1 axes were given for 1 x 2 panels"):
        plots.keep_curve(keep_sweep(), axes=plots.new_figure(size=(2, 2))[1])
