"""A latency study's lines at its times and speed-ups; what ran out of memory is said and not drawn."""

from dataclasses import replace

import pytest
from hand_made import prefill_latency

from corehead_hf import plots

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
LENGTHS = (8192, 16384, 32768)


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def lines(ax):
    return [container.lines[0].get_xydata().tolist() for container in ax.containers]


def test_times_left_and_speed_ups_right():
    study = prefill_latency(lengths=LENGTHS, counts=(20, 250))
    time, gain = plots.prefill_curve(study).axes
    found = {(p.count, p.length): p for p in study.points}
    assert lines(time) == [
        [[n, pytest.approx(1e3 * found[count, n].seconds.p50)] for n in LENGTHS] for count in (1152, 20, 250)
    ]
    assert lines(gain) == [[[n, found[count, n].speedup.p50] for n in LENGTHS] for count in (20, 250)]
    bars = [segment[:, 1].tolist() for segment in gain.containers[0].lines[2][0].get_segments()]
    assert bars == [pytest.approx([found[20, n].speedup.p20, found[20, n].speedup.p80]) for n in LENGTHS]
    assert [label.get_text() for label in gain.get_xticklabels()] == ["8K", "16K", "32K"]
    assert [text.get_text() for text in gain.get_legend().get_texts()] == [
        "dense",
        "1.74\u00a0% of heads dense (20)",
        "21.7\u00a0% of heads dense (250)",
    ]
    assert title(time) == "Latency of prefill of the text backbone tiny bfloat16, NVIDIA H200"
    assert title(gain) == "Speed-up over dense prefill tiny bfloat16, NVIDIA H200, sink 128, window 2048"
    # the same series looks the same on both sides
    assert [c.lines[0].get_color() for c in time.containers[1:]] == [c.lines[0].get_color() for c in gain.containers]


def test_what_ran_out_of_memory_is_said_and_not_drawn():
    study = prefill_latency(lengths=LENGTHS, counts=(20, 250), lost=((16384, 1152), (32768, 1152), (32768, 250)))
    time, gain = plots.prefill_curve(study).axes
    assert [[n for n, _ in line] for line in lines(time)] == [[8192], [8192, 16384, 32768], [8192, 16384]]
    assert [[n for n, _ in line] for line in lines(gain)] == [[8192], [8192]]
    for ax in (time, gain):
        assert title(ax).endswith("out of memory: dense at 16K, 32K, out of memory: 250 dense heads at 32K")
    no_dense = prefill_latency(lengths=(8192,), counts=(20,), lost=((8192, 1152),))
    assert lines(plots.prefill_curve(no_dense).axes[1]) == [[]]


def test_what_cannot_be_drawn_is_refused():
    study = prefill_latency(lengths=(8192,), counts=(20,), lost=((8192, 1152), (8192, 20)))
    for nothing in (study, replace(study, points=())):
        with pytest.raises(ValueError, match="none of them fitted into memory"):
            plots.prefill_curve(nothing)
    _, axes = plots.new_figure(1, 3, size=(9, 3))
    with pytest.raises(ValueError, match="3 axes were given for 1 x 2 panels"):
        plots.prefill_curve(prefill_latency(), axes=axes)
