"""The paper's Figure 7 from committed rows: latency over length, one line per provider and setting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Row

Line = tuple[str, float, int | None]  # provider, keep, window


def lines(rows: Iterable[Row]) -> dict[tuple[str, str], dict[Line, list[Row]]]:
    """(machine, model) -> line -> its rows by length, the latest of each length.

    Prefill rows of a GPU; where there is none, one layer's attention.
    """
    rows = sorted(rows, key=lambda row: row.date)
    prefill = [row for row in rows if row.kind == "prefill" and row.on_gpu]
    chosen = prefill or [row for row in rows if row.kind == "attention"]
    panels: dict[tuple[str, str], dict[Line, dict[int, Row]]] = {}
    for row in chosen:
        panel = panels.setdefault((row.gpu, row.model), {})
        panel.setdefault((row.provider, row.keep, row.window), {})[row.n] = row
    return {
        key: {line: [by_length[n] for n in sorted(by_length)] for line, by_length in panel.items()}
        for key, panel in panels.items()
    }


def draw(rows: Iterable[Row], path: Path) -> None:
    """Writes the figure; needs matplotlib (the extra `plot`).

    Raises:
        ValueError: there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = lines(rows)
    if not panels:
        raise ValueError("a figure was asked for - there are no prefill or attention rows - run a benchmark first.")
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, ((machine, model), panel) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for (provider, keep, window), found in panel.items():
            label = provider if window is None else f"{provider}, keep {keep:.1%}, window {window}"
            lengths = [row.n for row in found]
            (drawn,) = axes.plot(lengths, [row.p50 for row in found], marker="o", label=label)
            axes.fill_between(
                lengths, [row.p20 for row in found], [row.p80 for row in found], color=drawn.get_color(), alpha=0.2
            )
        ticks = sorted({row.n for found in panel.values() for row in found})
        kind = "prefill" if next(iter(panel.values()))[0].kind == "prefill" else "one layer's attention"
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms (median; band p20 to p80)")
        axes.set_title(f"{model}, {kind}\n{machine}", fontsize=9)
        axes.set_xticks(ticks, [f"{n / 1024:g}K" for n in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)
