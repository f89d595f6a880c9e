"""How figures look: colours, markers, line styles, hatches and type sizes, in one place.

Colours are Okabe and Ito's, which colour-blind readers tell apart; a series never differs by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VERMILION, BLUE, GREEN, ORANGE = "#D55E00", "#0072B2", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, GREY, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#8C8C8C", "#000000"

EVIDENCE = SKY  # of frames on heat: inferno and magma have no light blue
SCORES = "magma"  # of RAM; perceptually uniform, dark = 0
STEPS = "cividis"  # of counts and correlations
ENTRIES = "inferno"  # of attention entries

TITLE, LABEL, SMALL, TINY = 9.5, 9.0, 8.0, 6.5  # points


@dataclass(frozen=True)
class Style:
    """How one series is drawn, as a line or as bars.

    Attributes:
        color: "#RRGGBB".
        marker, line: matplotlib's marker and line style.
        hatch: of bars.
    """

    color: str
    marker: str
    line: Any
    hatch: str = ""

    @property
    def curve(self) -> dict[str, Any]:
        """What ax.plot takes."""
        shape = {"color": self.color, "marker": self.marker, "linestyle": self.line}
        return shape | {"linewidth": 1.4, "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}

    @property
    def bar(self) -> dict[str, Any]:
        """What ax.bar takes."""
        return {"color": self.color, "hatch": self.hatch, "edgecolor": "white", "linewidth": 0}


GROUPS = {
    "top": Style(VERMILION, "o", "-"),
    "bottom": Style(BLUE, "s", "--", "////"),
    "random": Style(GREY, "^", "-.", "...."),
    "layer_matched": Style(ORANGE, "D", (0, (4, 1, 1, 1, 1, 1)), "xxxx"),
}
GROUP_NAMES = {
    "top": "top by RAM",
    "bottom": "bottom by RAM",
    "random": "random",
    "layer_matched": "random, layer-matched",
}
SERIES = (
    Style(VERMILION, "o", "-", ""),
    Style(BLUE, "s", "--", "////"),
    Style(GREEN, "^", "-.", "...."),
    Style(PURPLE, "D", (0, (4, 1, 1, 1, 1, 1)), "xxxx"),
    Style(ORANGE, "v", (0, (6, 2)), "----"),
    Style(SKY, "P", (0, (2, 1)), "++++"),
    Style(GREY, "X", (0, (1, 1)), "oooo"),
)
BASELINES = (Style(BLACK, "X", "-"), Style("#5A5A5A", "P", "--"), Style("#A0A0A0", "p", ":"))
CHANCE: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 1.0}
DENSE: dict[str, Any] = {"color": BLACK, "linestyle": "-", "linewidth": 0.8}
BAND = 0.18  # alpha of intervals


def series(number: int) -> Style:
    """The style of one of several series without a fixed meaning; after seven colours the next marker is taken."""
    again, place = divmod(number, len(SERIES))
    base = SERIES[place]
    marker = SERIES[(place + again) % len(SERIES)].marker
    return Style(base.color, marker, base.line, base.hatch)
