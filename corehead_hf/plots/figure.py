"""What every plot needs of matplotlib, imported only where something is drawn: figures, axes, titles, ticks, frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.plots.style import BLACK, LABEL, SMALL, TITLE
from corehead_hf.plots.text import balanced, packed, width, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Raises ImportError with the remedy where matplotlib is missing; call it before long work that ends in figures."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'corehead-hf[plot]'") from error


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A Figure without pyplot's global state, and its axes as an object array [rows, columns]; size in inches."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    return figure, figure.subplots(rows, columns, squeeze=False)


def axes_or_new(ax: Any, size: tuple[float, float]) -> Any:
    """The given axes, or those of a new figure of this size."""
    return new_figure(size=size)[1][0, 0] if ax is None else ax


def axes_grid(axes: Any, rows: int, columns: int, size: tuple[float, float]) -> Any:
    """The given axes, or those of a new figure, as an object array [rows, columns].

    Raises:
        ValueError: another number of axes was given.
    """
    if axes is None:
        return new_figure(rows, columns, size=size)[1]
    given = np.asarray(axes, dtype=object)
    if given.size != rows * columns:
        raise ValueError(f"{given.size} axes were given for {rows} x {columns} panels; give one axes per panel.")
    return given.reshape(rows, columns)


def figure_of(ax: Any) -> Figure:
    """The whole figure that axes belong to, also where they stand in a part of it."""
    found = ax.get_figure()
    while found.figure is not found:
        found = found.figure
    return found


def inches(ax: Any) -> tuple[float, float]:
    """About how wide and high axes are, before anything is laid out around them."""
    # Not the place that an image of another shape leaves over.
    part, place = ax.get_figure(), ax.get_position(original=True)
    return place.width * part.bbox.width / part.dpi, place.height * part.bbox.height / part.dpi


def titled(ax: Any, headline: str, *details: str, room: float | None = None, size: float = TITLE) -> None:
    """What is shown, and on the next lines of what; wrapped to the axes' width, or to `room` inches."""
    room = inches(ax)[0] if room is None else room
    lines = [wrapped(headline, room, size), packed([detail for detail in details if detail], room, size)]
    ax.set_title("\n".join(line for line in lines if line), loc="left", fontsize=size)


def labelled(ax: Any, xlabel: str, ylabel: str) -> None:
    """Axis labels wrapped to the axes, small ticks, and no frame above and to the right."""
    across, up = inches(ax)
    ax.set_xlabel(balanced(xlabel, across, LABEL), fontsize=LABEL)
    ax.set_ylabel(balanced(ylabel, up, LABEL), fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def legend(ax: Any, **options: Any) -> None:
    """The legend of what is labelled, below the axes and their label, where it hides nothing; in columns that fit."""
    from matplotlib.transforms import ScaledTranslation

    labels = ax.get_legend_handles_labels()[1]
    widest = max(width(line, SMALL) for label in labels for line in label.split("\n")) + 0.6
    columns = max(1, min(len(labels), int(1.12 * inches(ax)[0] / widest)))
    below = 0.3 + 0.15 * (ax.get_xlabel().count("\n") + 1 if ax.get_xlabel() else 0)
    place = ax.transAxes + ScaledTranslation(0, -below, ax.get_figure().dpi_scale_trans)
    anchor = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": place, "borderaxespad": 0.0}
    ax.legend(**anchor, ncols=columns, fontsize=SMALL, frameon=False, handlelength=2.6, **options)


def color_bar(image: Any, axes: Any, label: str, **options: Any) -> Any:
    """The scale of an image, beside one or several axes of one figure."""
    listed = np.asarray(axes, dtype=object).ravel().tolist()
    up = sum(inches(ax)[1] for ax in {ax.get_position(original=True).y0: ax for ax in listed}.values())
    bar = listed[0].get_figure().colorbar(image, ax=listed, **options)
    bar.set_label(balanced(label, up, LABEL), fontsize=LABEL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)
    return bar


def ticks(count: int, room: float = 3.6) -> list[int]:
    """Numbers of 0 to count - 1 at a distance of 1, 2, 4, 8, ...: at most twelve, and 0.3 inches of `room` each."""
    most, step = max(2, min(12, int(room / 0.3))), 1
    while -(-count // step) > most:
        step *= 2
    return list(range(0, count, step))


def index_ticks(ax: Any, rows: int, columns: int) -> None:
    """Whole numbers at the middle of an image's columns (heads) and rows (layers)."""
    across, up = inches(ax)
    ax.set_xticks(ticks(columns, 0.8 * across))
    ax.set_yticks(ticks(rows, 0.9 * up))
    ax.tick_params(length=2.5)


def spaced_ticks(ax: Any, values: Sequence[float], labels: Sequence[str]) -> None:
    """x ticks at those of the rising `values` whose labels do not touch; the first and the last are always there.

    The axes' scale and limits must be set.
    """
    transform = ax.get_xaxis().get_transform()
    low, high = transform.transform(np.asarray(ax.get_xlim(), dtype=float))
    places = (transform.transform(np.asarray(values, dtype=float)) - low) / (high - low) * 0.9 * inches(ax)[0]
    widths = [width(label, SMALL) for label in labels]

    def apart(first: int, second: int) -> bool:
        return places[second] - places[first] > (widths[first] + widths[second]) / 2 + 0.06

    last, kept = len(values) - 1, [0]
    for i in range(1, last):
        if apart(kept[-1], i) and apart(i, last):
            kept.append(i)
    kept += [last] if last and apart(kept[-1], last) else []
    ax.set_xticks([values[i] for i in kept], [labels[i] for i in kept], minor=False)
    ax.set_xticks([], minor=True)


def frame(ax: Any, box: tuple[float, float, float, float], color: str, linewidth: float = 1.6) -> None:
    """A rectangle around (left, top, right, bottom), in data units, cased in black so that it is seen on any ground."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = box
    patch = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=linewidth)
    patch.set_clip_on(False)  # at an image's edge half of the line would be missing
    patch.set_path_effects([withStroke(linewidth=1.9 * linewidth, foreground=BLACK)])
    ax.add_patch(patch)
