"""What every plot needs of matplotlib, imported only where something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVIDENCE = "#2ecc71"


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


def rectangle(*args: Any, **kwargs: Any) -> Any:
    """A matplotlib Rectangle."""
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **kwargs)


def ticks(count: int) -> list[int]:
    """At most twelve numbers of 0 to count - 1, evenly."""
    step = max(1, -(-count // 12))
    return list(range(0, count, step))
