"""The committed rows as tables: ratio to the better dense kernel, to the roofline bound, and to each peer.

python -m benchmarks.report                        # plain tables
python -m benchmarks.report --update README.md     # rewrites the README's performance section
python -m benchmarks.report --figure figure7.png   # the paper's Figure 7
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import figure
from benchmarks.harness import is_baseline
from benchmarks.roofline import Ceilings, add_rates, rates_of
from benchmarks.rows import HYBRID, Group, Row, bound, groups, latest, ratio, read
from benchmarks.session import RESULTS

BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"
NOTHING = "not measured yet"
Table = tuple[list[str], list[list[str]]]
Shown = list[tuple[Group, list[Row]]]


def speed_table(shown: Shown, rates: Ceilings | None) -> Table:
    """Attention and prefill: one line per row that is not a baseline."""
    header = (
        "tokens, dense ms, provider, dense heads, sink + window, ms, to better dense, bound, of it, to hybrid".split(
            ", "
        )
    )
    lines = []
    for group, rows in shown:
        base = group.baseline
        assert base is not None
        for row in rows:
            gain, most, hybrid = ratio(base, row), bound(row, rates), group.hybrid_of(row)
            sizes = "" if row.window is None else f"{row.sink} + {row.window}"
            limits = ["", ""] if most is None else [f"{most:.2f}x", f"{gain.p50 / most:.0%}"]
            peer = "" if hybrid is None or hybrid is row else str(ratio(hybrid, row))
            name = f"{base.p50:.2f} ({base.provider}{', other kernel missing' if group.lacks_a_baseline else ''})"
            lines.append(
                [str(row.n), name, row.provider, f"{row.keep:.1%}", sizes, f"{row.p50:.2f}", str(gain), *limits, peer]
            )
    return header, lines


def record_table(shown: Shown, rates: Ceilings | None) -> Table:
    lines = []
    for group, rows in shown:
        base = group.baseline
        assert base is not None
        for row in rows:
            more = ratio(row, base)
            memory = (
                "" if row.peak_gb is None or base.peak_gb is None else f"{1024 * (row.peak_gb - base.peak_gb):+.0f} MiB"
            )
            time = f"{100 * (more.p50 - 1):+.1f} % ({100 * (more.low - 1):+.1f} to {100 * (more.high - 1):+.1f})"
            lines.append([str(row.n), f"{base.p50:.2f}", f"{row.p50:.2f}", time, memory])
    return ["tokens", "dense ms", "recording ms", "more time", "more memory"], lines


def decode_table(shown: Shown, rates: Ceilings | None) -> Table:
    lines = []
    for group, rows in shown:
        base = group.baseline
        assert base is not None
        lines += [[str(r.n), f"{base.p50:.3f}", r.provider, f"{r.p50:.3f}", str(ratio(base, r))] for r in rows]
    return ["tokens before", "dense ms a token", "provider", "ms a token", "to dense"], lines


def compile_table(shown: Shown, rates: Ceilings | None) -> Table:
    """Each row beside the native model in the same state, plain or compiled, of the same run."""
    lines = []
    for group, rows in shown:
        native = {row.provider: row for row in group.rows if is_baseline(row.provider)}
        for row in rows:
            name = "dense_compiled" if row.provider.endswith("_compiled") else "dense"
            if name in native:
                base = native[name]
                lines.append([str(row.n), row.provider, f"{base.p50:.3f}", f"{row.p50:.3f}", str(ratio(row, base))])
    return ["tokens before", "provider", "native ms a token", "ms a token", "time to native"], lines


KINDS: dict[str, tuple[str, Callable[[Shown, Ceilings | None], Table]]] = {
    "prefill": ("Prefill of the text backbone", speed_table),
    "attention": ("One layer's attention", speed_table),
    "record": ("Recording RAM", record_table),
    "decode": ("Decode", decode_table),
    "compile": ("Decode, native and wrapped, plain and under torch.compile", compile_table),
}


def markdown(table: Table) -> list[str]:
    header, lines = table
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]


def plain(table: Table) -> list[str]:
    header, lines = table
    widths = [max(len(cells[i]) for cells in (header, *lines)) for i in range(len(header))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in (header, *lines)
    ]


def gains(shown: Shown) -> list[str]:
    """Up to which measured length the hybrid path did not pay, per setting."""
    found: dict[tuple[str, float, int | None], dict[int, float]] = {}
    for group, rows in shown:
        assert group.baseline is not None
        for row in rows:
            if row.provider in HYBRID:
                by_length = found.setdefault((row.provider, row.keep, row.window), {})
                by_length[row.n] = ratio(group.baseline, row).p50
    lines = []
    for (provider, keep, window), by_length in found.items():
        slow = {n: gain for n, gain in by_length.items() if gain <= 1}
        what = f"`{provider}`, {keep:.1%} of the heads dense, window {window}"
        if slow:
            at = ", ".join(f"{n} tokens ({gain:.2f}x)" for n, gain in sorted(slow.items()))
            faster = [n for n in sorted(by_length) if n > max(slow)]
            lines.append(f"* {what}: no gain at {at}" + (f"; faster from {faster[0]} on." if faster else "."))
        else:
            lines.append(f"* {what}: faster than dense at every measured length, from {min(by_length)} tokens.")
    return lines


def fusions(shown: Shown) -> list[str]:
    """What fusing elementwise kernels brings alone, and hybrid prefill on top of it: never mixed into one figure."""
    lines = []
    for group, rows in shown:
        fused = next((row for row in group.rows if row.provider == "dense_fuse"), None)
        assert group.baseline is not None
        for row in rows if fused is not None else []:
            if row.provider == "hybrid_fuse":
                lines.append(
                    f"* Fused, {row.n} tokens, {row.keep:.1%} of the heads dense, window {row.window}: `dense_fuse` is "
                    f"{ratio(group.baseline, fused)} of the better dense kernel, `hybrid_fuse` {ratio(fused, row)} of "
                    "`dense_fuse`."
                )
    return lines


def sections(rows: Sequence[Row], rates: Ceilings, layout: Callable[[Table], list[str]]) -> list[str]:
    """Every machine's tables, GPUs first; "not measured yet" where there are no GPU rows."""
    shown = latest(groups(rows))
    lines = [] if any(row.on_gpu for row in rows) else ["**GPU**: " + NOTHING, ""]
    for machine in sorted({row.gpu for row in rows}, key=lambda name: (name.startswith("cpu"), name)):
        lines += [f"**{machine}**", ""]
        assumed = rates if "H200" in machine else None
        for kind, (title, table) in KINDS.items():
            here = [(g, r) for g, r in shown if g.first.gpu == machine and g.first.kind == kind]
            for model in dict.fromkeys(group.first.model for group, _ in here):
                of_model = [(g, r) for g, r in here if g.first.model == model]
                versions = sorted({group.first.torch for group, _ in of_model})
                lines += [f"{title}, {model}, torch {', '.join(versions)}:", "", *layout(table(of_model, assumed)), ""]
                notes = [*gains(of_model), *fusions(of_model)] if table is speed_table else []
                lines += [*notes, ""] if notes else []
                if kind == "prefill" and assumed is not None:
                    lines += [f"The prefill's bound assumes {assumed}.", ""]
    return lines[:-1]


def readme_section(rows: Sequence[Row], rates: Ceilings) -> str:
    decode = [row for row in rows if row.kind == "decode"]
    text = [
        "Medians of interleaved runs, with the range that p20 and p80 allow. The better dense kernel is the yardstick,",
        "the bound of one layer its FLOP ratio. The columns: [benchmarks/README.md](benchmarks/README.md).",
        "",
        *sections(rows, rates, markdown),
        "",
        "Where hybrid prefill is not expected to win, layers run plain dense attention (`dense_below` of",
        "`enable_hybrid`). Decode attends natively, whatever prefill did; its time with hybrid prefill on:",
        f"{'see the table' if decode else NOTHING}.",
    ]
    return "\n".join(text)


def with_section(text: str, section: str) -> str:
    """A README's text with what stands between the markers replaced.

    Raises:
        ValueError: it does not hold each marker once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README needs the lines {BEGIN!r} and {END!r}, once each, in this order.")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + section + "\n" + text[text.index(END) :]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--markdown", action="store_true", help="print the README's performance section")
    parser.add_argument("--update", type=Path, metavar="README", help="write it between the markers of this file")
    parser.add_argument("--figure", type=Path, help="draw latency over length into this file")
    add_rates(parser)
    args = parser.parse_args(argv)
    rows, rates = read(args.results), rates_of(args)
    section = readme_section(rows, rates)
    if args.update is not None:
        args.update.write_text(with_section(args.update.read_text(encoding="utf-8"), section), encoding="utf-8")
    elif args.markdown:
        print(section)
    else:
        print("\n".join(sections(rows, rates, plain)))
    if args.figure is not None:
        figure.draw(rows, args.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
