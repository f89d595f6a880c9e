"""Break-even points of power laws, where interpolation in log-log is exact."""

import pytest
from hand_made import latency, prefill_table

from corehead_hf import plots

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
LENGTHS = (1024, 2048, 4096, 8192)


def law(provider, times, keep=0.05, window=512, lengths=LENGTHS):
    keep, window = (1.0, None) if provider.startswith("dense") else (keep, window)
    return [(provider, n, keep, window, times(n)) for n in lengths]


SQUARE = law("dense", lambda n: n * n / 1000)


def rings(ax):
    return [
        line.get_xydata()[0].tolist()
        for line in ax.lines
        if line.get_linestyle() == "None" and len(line.get_xdata()) == 1
    ]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_lines_are_medians_with_bars_from_p20_to_p80_on_log_axes():
    ax = plots.latency_curve(latency([*reversed(SQUARE), *law("hybrid", lambda n: 4 * n)])).axes[0]
    dense, hybrid = ax.containers
    assert dense.lines[0].get_xydata().tolist() == [[n, pytest.approx(n * n / 1000)] for n in LENGTHS]
    assert hybrid.lines[0].get_xydata().tolist() == [[n, 4 * n] for n in LENGTHS]
    first = hybrid.lines[2][0].get_segments()[0]
    assert first[:, 1].tolist() == [pytest.approx(0.95 * 4096), pytest.approx(1.05 * 4096)]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xticks().tolist() == list(LENGTHS)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1K", "2K", "4K", "8K"]


def test_break_even_where_the_laws_cross():
    """n^2 / 1000 = 4 n at n = 4000: 16000 ms."""
    ax = plots.latency_curve(latency([*SQUARE, *law("hybrid", lambda n: 4 * n)])).axes[0]
    assert rings(ax) == [[pytest.approx(4000), pytest.approx(16000)]]
    assert labels(ax) == [
        "dense",
        "hybrid, 5\u00a0% of heads dense, sink 128, window 512\nbreak-even at about 4000 tokens",
    ]


def test_the_better_dense_kernel_counts_and_fused_ones_are_no_yardstick():
    """The second dense kernel is twice as fast: 4 n = n^2 / 2000 at n = 8000."""
    rows = [*SQUARE, *law("dense_cudnn", lambda n: n * n / 2000), *law("dense_fuse", lambda n: n / 1000)]
    ax = plots.latency_curve(latency([*rows, *law("hybrid", lambda n: 4 * n)])).axes[0]
    assert [pytest.approx(8000), pytest.approx(32000)] in rings(ax)
    assert labels(ax)[:2] == ["dense", "dense_cudnn"]


@pytest.mark.parametrize(
    ("times", "note"),
    [
        (lambda n: n * n / 2000, "no break-even in the measured range: faster at every length"),
        (lambda n: n * n / 500, "no break-even in the measured range: never faster"),
        (lambda n: n * n / 1000, "no break-even in the measured range: never faster"),
        (lambda n: n**3 / 4e6, "no break-even in the measured range: not faster at the longest"),
    ],
)
def test_no_break_even_is_said(times, note):
    ax = plots.latency_curve(latency([*SQUARE, *law("hybrid", times)])).axes[0]
    assert rings(ax) == [] and labels(ax)[1].endswith("\n" + note)


def test_the_last_crossing_counts():
    """Faster at 1K, slower at 2K, faster from 4K on: only the second crossing lasts."""
    times = {1024: 0.5, 2048: 2.0, 4096: 0.5, 8192: 0.5}
    ax = plots.latency_curve(latency([*SQUARE, *law("hybrid", lambda n: times[n] * n * n / 1000)])).axes[0]
    ((tokens, ms),) = rings(ax)
    # the ratio falls from 2 to 1/2 between 2048 and 4096, so it is 1 half way in the logarithm
    assert tokens == pytest.approx(2048 * 2**0.5)
    assert ms == pytest.approx((2 * 2.048**2 * 0.5 * 4.096**2) ** 0.5 * 1000)


def test_nothing_dense_to_compare_with():
    ax = plots.latency_curve(latency(law("hybrid", lambda n: n))).axes[0]
    assert rings(ax) == [] and labels(ax)[0].endswith("\nnothing dense to compare with")


def test_the_latest_row_counts_and_is_compared_within_its_date():
    import pandas

    hybrid = law("hybrid", lambda n: 4 * n)
    old = latency([*law("dense", lambda n: n * n / 4000), *hybrid], date="2026-01-01")
    new = latency([*SQUARE, *hybrid], date="2026-01-02")
    later_dense = latency(law("dense", lambda n: n * n / 9000), date="2026-01-03")
    for table in (pandas.concat([old, new, later_dense]), pandas.concat([new, later_dense, old])):
        ax = plots.latency_curve(table).axes[0]
        assert rings(ax) == [[pytest.approx(4000), pytest.approx(16000)]], "compared with the dense row of another run"
        assert ax.containers[0].lines[0].get_ydata()[0] == pytest.approx(1024**2 / 9000)
    undated = pandas.concat([old, new]).drop(columns="date")
    assert plots.latency_curve(undated).axes[0].containers[0].lines[0].get_ydata()[0] == pytest.approx(1024**2 / 1000)


def test_title_and_labels_stand_alone():
    ax = plots.latency_curve(prefill_table()).axes[0]
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == "Latency of prefill of the text backbone Qwen3-VL-8B bfloat16, NVIDIA H200"
    assert ax.get_xlabel() == "tokens (1K = 1024)" and "milliseconds" in ax.get_ylabel()
    assert len(rings(ax)) == 2 and labels(ax)[-1].endswith("never faster")


def test_tables_that_cannot_be_drawn_are_refused():
    import pandas

    table = prefill_table()
    with pytest.raises(ValueError, match="lacks window, p20_ms"):
        plots.latency_curve(table.drop(columns=["window", "p20_ms"]))
    with pytest.raises(ValueError, match="no rows"):
        plots.latency_curve(table.iloc[:0])
    with pytest.raises(ValueError, match="2 values of gpu was asked for"):
        plots.latency_curve(pandas.concat([table, prefill_table(gpu="other")]))
