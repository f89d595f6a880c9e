"""Names and sentences on figures: what cannot be drawn is taken out, what is too long is wrapped or shortened."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from corehead_hf.plots.style import TITLE

if TYPE_CHECKING:
    from corehead_hf.head_map import HeadMap

LONGEST = 36  # characters of a name; longer ones lose their middle
BREAKS = " -_/"  # a line ends after one of these where it can


def clean(text: str) -> str:
    """A text of unknown origin in one line that draws as it reads.

    Line breaks become spaces, "$" is no mathematics, and what the font does not have becomes a square: matplotlib
    would draw the same with a warning a character.
    """
    from matplotlib import rcParams

    families = tuple(rcParams["font.family"])
    one_line = " ".join(str(text).split())
    drawn = "".join(letter if _has_glyph(ord(letter), families) else "\u25a1" for letter in one_line)
    # A legend leaves out labels that begin with an underscore.
    return ("\u00a0" + drawn if drawn.startswith("_") else drawn).replace("$", r"\$")


def short(name: str, most: int = LONGEST) -> str:
    """A cleaned name of at most `most` characters, the middle left out."""
    name = clean(name)
    if len(name) <= most:
        return name
    head = most // 2
    return name[:head] + "\u2026" + name[len(name) - (most - 1 - head) :]


def last_part(name_or_path: str) -> str:
    """The last part of a Hub id or a path, shortened."""
    return short(PurePath(name_or_path).name or name_or_path)


def about(study: Any) -> tuple[str, str, str]:
    """Model, data set and number of examples of a study."""
    return last_part(study.model), last_part(study.dataset), counted(study.num_examples, "example")


def about_map(head_map: HeadMap) -> tuple[str, str, str]:
    """Model, data set and number of examples of a head map."""
    names = (head_map.base_model_name_or_path, head_map.dataset)
    return last_part(names[0]), last_part(names[1]), counted(head_map.num_examples, "example")


def counted(count: int, what: str) -> str:
    """ "1 head", "2 heads"."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def percent(share: float) -> str:
    """Three digits, and a space that no line ends at."""
    return f"{100 * share:.3g}\u00a0%"


def width(text: str, size: float) -> float:
    """How wide a line of text is drawn, in inches; size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    points = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]
    return float(points) / 72


def widest_word(text: str, size: float) -> float:
    """Inches of the longest part that wrapped does not break where the room is large enough for it."""
    for mark in BREAKS:
        text = text.replace(mark, mark + "\n")
    return max(width(part.rstrip(), size) for part in text.split("\n"))


def wrapped(text: str, inches: float, size: float = TITLE) -> str:
    """A text in lines of at most `inches`, broken after BREAKS where possible, else within a word."""
    lines = []
    for paragraph in text.split("\n"):
        rest = paragraph
        while width(rest, size) > inches and len(rest) > 1:
            starts = [rest[:n] for n in range(1, len(rest))]
            fits = max(1, bisect_right(starts, inches, key=lambda start: width(start, size)))
            # A space at the end takes no room: it is not drawn.
            at = max(rest.rfind(mark, 0, fits + (mark == " ")) + 1 for mark in BREAKS)
            # A break in the first third would leave a nearly empty line.
            cut = at if at > fits / 3 else fits
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        lines.append(rest)
    return "\n".join(lines)


def balanced(text: str, inches: float, size: float) -> str:
    """As wrapped, in lines of about one length."""
    count = wrapped(text, inches, size).count("\n") + 1
    even = wrapped(text, min(inches, 1.2 * width(text, size) / count), size)
    return even if even.count("\n") + 1 == count else wrapped(text, inches, size)


def packed(parts: Sequence[str], inches: float, size: float) -> str:
    """Parts joined by commas, in lines that break between parts; only a part longer than a line is broken itself."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines else part
        if lines and width(longer, size) > inches:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1:] = [longer]
    return "\n".join(wrapped(line, inches, size) for line in lines)


@functools.lru_cache(maxsize=4096)
def _has_glyph(character: int, families: tuple[str, ...]) -> bool:
    """Whether one of the fonts that matplotlib is set to has it: DejaVu Sans unless the user chose others."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = (findfont(FontProperties(family=[family])) for family in families)
    return any(get_font(font).get_char_index(character) for font in fonts)
