"""Latency over length from benchmark rows, with the length from which the hybrid path pays (Fig. 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corehead_hf.plots.figure import axes_or_new, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.style import BASELINES, SMALL, series
from corehead_hf.plots.text import percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("provider", "n", "keep", "sink", "window", "p20_ms", "p50_ms", "p80_ms")
SETTING = ["provider", "keep", "sink", "window"]
ALIKE = ("kind", "model", "gpu")  # one panel shows one of each
KINDS = {"attention": "attention of one layer", "prefill": "prefill of the text backbone"}


@dataclass(frozen=True)
class BreakEven:
    """Where one line falls below the best dense one for good.

    Attributes:
        tokens, ms: the crossing, interpolated in log-log between measured lengths; None where there is none.
        note: in words.
    """

    tokens: float | None
    ms: float | None
    note: str


def latency_curve(table: DataFrame, *, ax: Any = None) -> Figure:
    """Time against length on log axes, one line a provider and setting, bars from p20 to p80.

    A ring marks each line's break-even point with the best dense line of the same run: the length from which on it is
    faster at every measured length. Between two measured lengths the ratio is interpolated in log-log.

    Args:
        table: rows as in benchmarks/results: provider, n (tokens), keep (share of dense heads), sink and window
            (tokens; NaN where no head streams), p20_ms, p50_ms, p80_ms. Of rows of one setting and length the latest
            counts, by `date` where there is one, else by order; with `date`, only rows of one date are compared. kind,
            model and gpu, where they are there, go into the title. Providers that begin with "dense" and do not end in
            "_fuse" are what the others are compared with.
        ax: axes to draw into; without them the figure is new.

    Raises:
        ValueError: no rows, missing columns, or rows of several kinds, models or machines.
    """
    _check(table)
    ax = axes_or_new(ax, (5.2, 5.0))
    has_date = "date" in table.columns
    ordered = table.sort_values("date", kind="stable") if has_date else table
    baselines, others = 0, 0
    for setting, rows in ordered.groupby(SETTING, dropna=False, sort=False):
        line = rows.drop_duplicates("n", keep="last").sort_values("n")
        if _is_baseline(setting[0]):
            style, baselines, found = BASELINES[baselines % len(BASELINES)], baselines + 1, None
        else:
            style, others, found = series(others), others + 1, break_even(line, ordered)
        label = _label(*setting) + (f"\n{found.note}" if found is not None else "")
        bars = [line["p50_ms"] - line["p20_ms"], line["p80_ms"] - line["p50_ms"]]
        ax.errorbar(line["n"], line["p50_ms"], yerr=bars, **style.curve, capsize=2, elinewidth=0.9, label=label)
        if found is not None and found.tokens is not None:
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6}
            ax.plot([found.tokens], [found.ms], linestyle="none", markeredgecolor=style.color, **ring)
    _log_axes(ax, sorted(set(table["n"].tolist())))
    first = table.iloc[0]
    kind, model, gpu = (str(first[name]) if name in table.columns else "" for name in ALIKE)
    titled(ax, f"Latency of {KINDS.get(kind, kind or 'prefill')}", short(model), short(gpu, 60))
    legend(ax)
    return figure_of(ax)


def break_even(line: DataFrame, table: DataFrame) -> BreakEven:
    """Where a line's median falls below the best dense median of the same length, and date where there is one.

    Args:
        line: rows of one setting, one a length, rising.
        table: all rows.
    """
    keys = ["n", "date"] if "date" in table.columns else ["n"]
    dense = table[[_is_baseline(provider) for provider in table["provider"]]]
    best = dense.groupby(keys, as_index=False)["p50_ms"].min().rename(columns={"p50_ms": "dense_ms"})
    both = line.merge(best, on=keys, how="inner").sort_values("n")
    if not len(both):
        return BreakEven(None, None, "nothing dense to compare with")
    lengths, times = both["n"].tolist(), both["p50_ms"].tolist()
    ratios = [math.log(time / base) for time, base in zip(times, both["dense_ms"], strict=True)]
    slower = [i for i, ratio in enumerate(ratios) if ratio >= 0]
    none = "no break-even in the measured range"
    if not slower:
        return BreakEven(None, None, f"{none}: faster at every length")
    if slower[-1] == len(ratios) - 1:
        how = "never faster" if len(slower) == len(ratios) else "not faster at the longest"
        return BreakEven(None, None, f"{none}: {how}")
    i = slower[-1]
    step = ratios[i] / (ratios[i] - ratios[i + 1])
    tokens, ms = (_between(values[i : i + 2], step) for values in (lengths, times))
    return BreakEven(tokens, ms, f"break-even at about {token_count(float(f'{tokens:.2g}'))} tokens")


def _between(ends: Sequence[float], step: float) -> float:
    """Linear in the logarithm, 0 <= step <= 1."""
    return math.exp(math.log(ends[0]) + step * math.log(ends[1] / ends[0]))


def _is_baseline(provider: str) -> bool:
    return provider.startswith("dense") and not provider.endswith("_fuse")


def _label(provider: str, keep: float, sink: float, window: float) -> str:
    if math.isnan(window):
        return short(provider)
    return f"{short(provider)}, {percent(keep)} of heads dense, sink {sink:.0f}, window {window:.0f}"


def token_count(count: float) -> str:
    """1K is 1024 tokens; lengths that are no multiple stay as they are."""
    return f"{count / 1024:.0f}K" if count >= 1024 and count % 1024 == 0 else f"{count:.0f}"


def _log_axes(ax: Any, lengths: list[int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
    labelled(ax, "tokens (1K = 1024)", "milliseconds (median; bars: p20 to p80)")
    spaced_ticks(ax, lengths, [token_count(length) for length in lengths])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=SMALL)
    ax.grid(alpha=0.25, linewidth=0.6)


def _check(table: DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"a latency curve was asked for - the table lacks {', '.join(missing)} - give benchmark rows.")
    if not len(table):
        raise ValueError("a latency curve of no rows was asked for; give at least one.")
    for name in ALIKE:
        found = sorted(set(table[name].astype(str))) if name in table.columns else []
        if len(found) > 1:
            raise ValueError(
                f"a latency curve of {len(found)} values of {name} was asked for ({', '.join(found):.200}) - one panel "
                f"shows one - filter the table, say table[table.{name} == {found[0]!r}]."
            )
