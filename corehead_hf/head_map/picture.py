"""The picture on a head map's card: every head's score as a heat map."""

from __future__ import annotations

import io

import torch

EVIDENCE = "#2ecc71"  # the colour of what is marked in all the figures
_DPI = 100


def head_map_png(scores: torch.Tensor, framed: torch.Tensor, is_ram: bool = True) -> bytes | None:
    """PNG of the scores, layers upward and heads to the right; None where matplotlib is not installed.

    The same input gives the same bytes under the same matplotlib. No text of the map is drawn: it is a stranger's.

    Args:
        scores: float32 [L, Hq].
        framed: int64 [n, 2], (layer, head) to frame.
        is_ram: whether the scores are RAM.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError:
        return None
    num_layers, num_heads = scores.shape
    # A user's own style must not change what is published.
    with matplotlib.style.context("default", after_reset=True):
        size = (min(2.0 + 0.2 * num_heads, 7.0), min(1.2 + 0.16 * num_layers, 6.0))
        figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
        ax = figure.subplots()
        image = ax.imshow(scores.numpy(), origin="lower", cmap="magma", vmin=0, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=ax, label="RAM" if is_ram else "imported score")
        for layer, head in framed.tolist():
            ax.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=EVIDENCE, linewidth=1.2))
        ax.set(xlabel="query head", ylabel="layer")
        ax.set_xticks(_ticks(num_heads))
        ax.set_yticks(_ticks(num_layers))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _ticks(count: int) -> list[int]:
    """At most twelve numbers of 0 to count - 1, evenly."""
    return list(range(0, count, max(1, -(-count // 12))))
