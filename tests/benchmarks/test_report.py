"""Ratios, bounds and tables from hand-written rows, and the README section from the committed ones."""

import shutil
from pathlib import Path

import pytest

from benchmarks import figure, report
from benchmarks.harness import COLUMNS
from benchmarks.roofline import Ceilings
from benchmarks.rows import bound, groups, latest, ratio, read
from corehead_hf import plots

ROOT = Path(__file__).resolve().parents[2]
H200, CPU = "NVIDIA H200", "cpu (2 of 2 cores, X)"


def line(
    provider, p20, p50, p80, *, kind="attention", gpu=H200, n=1024, keep=0.25, date="2026-01-01", peak="", window=16
):
    model = {"attention": "4q2kv d32 bfloat16", "record": "Qwen3-VL-8B bfloat16"}.get(kind, "Qwen3-VL-8B bfloat16")
    sparse = provider not in ("dense", "dense_flash", "dense_cudnn", "dense_fuse", "record")
    sizes = [4, window] if sparse else ["", ""]
    keep = keep if sparse else 1.0
    values = [date, "abc", gpu, "2.11", "3.6", "5.17", kind, model, n, keep, *sizes, provider, p20, p50, p80, 1, peak]
    return ",".join(f'"{value}"' for value in values)


@pytest.fixture
def rows(tmp_path):
    def write(*lines):
        (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
        return read(tmp_path)

    return write


RUN = [
    line("dense_flash", 11, 12, 13),
    line("dense_cudnn", 7.5, 8, 8.5),
    line("hybrid", 1.5, 2, 2.5),
    line("flex", 3, 4, 5),
    line("dense_fuse", 6, 7, 8),
]


def test_ratio_to_the_better_dense_by_hand(rows):
    (group,) = groups(rows(*RUN))
    assert group.baseline.provider == "dense_cudnn" and not group.lacks_a_baseline
    hybrid = group.rows[2]
    gain = ratio(group.baseline, hybrid)
    assert (gain.p50, gain.low, gain.high) == (8 / 2, 7.5 / 2.5, 8.5 / 1.5)
    flex = ratio(group.hybrid_of(group.rows[3]), group.rows[3])
    assert flex.p50 == 0.5


def test_bound_of_a_layer_by_hand(rows):
    found = rows(*RUN)
    # 1024 queries, sink 4, window 16: the first 20 see 1 to 20 keys, the other 1004 see 20; one of four heads is dense
    streaming, dense = 210 + 1004 * 20, 1024 * 1025 // 2
    assert bound(found[2], None) == pytest.approx(4 * dense / (dense + 3 * streaming))
    assert bound(found[0], None) is None


def test_table(rows):
    text = "\n".join(report.sections(rows(*RUN), Ceilings(), report.plain))
    assert "4.00x (3.00-5.67)" in text and "0.50x (0.30-0.83)" in text
    assert "8.00 (dense_cudnn)" in text and "missing" not in text and H200 in text
    assert "not measured yet" not in text
    assert "faster than dense at every measured length, from 1024 tokens" in text


def test_a_missing_dense_kernel_is_named(rows):
    text = "\n".join(report.sections(rows(*RUN[:1], *RUN[2:]), Ceilings(), report.plain))
    assert "12.00 (dense_flash, other kernel missing)" in text


def test_where_it_does_not_pay(rows):
    short = [
        line("dense_cudnn", 1, 1, 1, n=512),
        line("dense_flash", 1, 1, 1, n=512),
        line("hybrid", 1, 1.25, 2, n=512),
    ]
    text = "\n".join(report.sections(rows(*short, *RUN), Ceilings(), report.plain))
    assert "no gain at 512 tokens (0.80x); faster from 1024 on." in text


def test_runs_are_never_mixed_and_the_latest_counts(rows):
    later = [line("dense_cudnn", 4, 4, 4, date="2026-01-02"), line("hybrid", 2, 2, 2, date="2026-01-02")]
    shown = latest(groups(rows(*RUN, *later)))
    found = [(group.first.date, [row.provider for row in kept]) for group, kept in shown]
    assert found == [("2026-01-01", ["flex", "dense_fuse"]), ("2026-01-02", ["hybrid"])]


def test_prefill_bound_fusion_recording_and_decode(rows):
    prefill = {"kind": "prefill", "n": 131072, "keep": 0.0503, "window": 2048}
    fuse = [line(*x, **prefill) for x in (("hybrid", 4, 4, 4), ("hybrid_fuse", 3, 3, 3), ("dense_fuse", 9, 9, 9))]
    dense = [line(name, 12, 12, 12, **prefill) for name in ("dense_flash", "dense_cudnn")]
    record = [
        line("dense", 100, 100, 100, kind="record", peak=2),
        line("record", 102, 102, 102, kind="record", peak=2.125),
    ]
    decode = [line("dense_cudnn", 5, 5, 5, kind="decode"), line("hybrid", 5, 5, 5, kind="decode")]
    found = rows(*dense, *fuse, *record, *decode)
    assert bound(found[2], Ceilings()) == pytest.approx(2.75, abs=0.02)
    assert bound(found[2], None) is None and bound(found[3], Ceilings()) > 3.2
    text = report.readme_section(found, Ceilings())
    assert "`dense_fuse` is 1.33x (1.33-1.33) of the better dense kernel, `hybrid_fuse` 3.00x (3.00-3.00) of" in text
    assert "+2.0 % (+2.0 to +2.0) | +128 MiB" in text
    assert "The prefill's bound assumes linear 700" in text and "1.00x (1.00-1.00)" in text
    assert "hybrid prefill on:\nsee the table." in text


def test_without_gpu_rows_it_says_so(rows):
    text = report.readme_section(rows(line("dense", 2, 2, 2, gpu=CPU), line("banded", 1, 1, 1, gpu=CPU)), Ceilings())
    assert "**GPU**: not measured yet" in text and f"**{CPU}**" in text and "2.00x" in text
    assert "hybrid prefill on:\nnot measured yet." in text


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("date,ms\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        read(tmp_path)


def test_only_what_stands_between_the_markers_changes():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.with_section(text, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    for broken in ("nothing", f"{report.END}\n{report.BEGIN}", text + report.BEGIN):
        with pytest.raises(ValueError, match="markers|lines"):
            report.with_section(broken, "new")


def test_the_readme_holds_what_the_committed_rows_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = report.readme_section(read(ROOT / "benchmarks" / "results"), Ceilings())
    assert report.with_section(text, section) == text, "run: python -m benchmarks.report --update README.md"


def test_command(rows, tmp_path, capsys):
    rows(*RUN)
    readme = tmp_path / "README.md"
    readme.write_text(f"# x\n{report.BEGIN}\n{report.END}\n")
    assert report.main(["--results", str(tmp_path), "--update", str(readme)]) == 0
    assert "4.00x (3.00-5.67)" in readme.read_text() and readme.read_text().startswith("# x\n")
    assert report.main(["--results", str(tmp_path), "--markdown"]) == 0
    assert capsys.readouterr().out.strip() in readme.read_text()


def test_figure_of_gpu_prefill_else_of_attention(rows, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    prefill = [line("hybrid", 1, 2, 3, kind="prefill", n=n) for n in (2048, 1024)]
    newer = line("hybrid", 1, 5, 6, kind="prefill", n=1024, date="2026-01-02")
    panels = figure.tables(rows(*RUN, *prefill, newer))
    assert list(panels) == [(H200, "Qwen3-VL-8B bfloat16")]
    (drawn,) = plots.latency_curve(panels[H200, "Qwen3-VL-8B bfloat16"]).axes[0].containers
    assert drawn.lines[0].get_xydata().tolist() == [[1024, 5], [2048, 2]], "the latest of each length counts"
    attention = figure.tables(rows(*RUN))
    assert set(attention) == {(H200, "4q2kv d32 bfloat16")}
    table = attention[H200, "4q2kv d32 bfloat16"]
    assert table["p50_ms"].tolist() == [12, 8, 2, 4, 7]
    assert table["window"].isna().tolist() == [True, True, False, False, True]
    figure.draw(read(tmp_path), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="nothing|no prefill"):
        figure.draw([], tmp_path / "none.png")
    shutil.rmtree(tmp_path)
