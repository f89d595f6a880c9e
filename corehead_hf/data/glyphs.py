"""Glyphs: a seeded synthetic visual look-up task that needs no download.

A page is a grid of 16 x 16 px cells. A keyed cell shows a letter (left half) beside a colour swatch (right half); a
filler cell shows an unreadable smudge beside a swatch. Colours repeat, every letter stands at most once, and the
question asks for the colour beside one letter, so the evidence is exactly one cell. Everything is drawn from one
numpy generator: the same seed gives the same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from corehead_hf.data.example import Evidence, Example

CELL = 16  # pixels; one cell is one visual token of the tiny models (patch 8, merge 2)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 50),
    "purple": (140, 50, 170),
    "orange": (250, 140, 20),
    "cyan": (40, 210, 220),
    "pink": (250, 130, 190),
    "brown": (120, 75, 35),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
}
QUESTIONS = (
    "What color is letter {}?",
    "Which color is next to letter {}?",
    "Tell me the color of letter {}.",
    "Letter {}?",
)
FILLER = -1

# Eleven rows of eight pixels a letter, A to Z: DejaVu Sans Mono Bold at 12 px, thresholded once, so that no font file
# is needed.
_BITMAPS = """
3838382c6c7c4446c60000 784c444c7c4446467c0000 1c306060606060301c0000 786c64666666646c780000 7c6060607c6060607c0000
7e6060607c606060600000 3c606060606e66663c0000 646464647c646464640000 7c101010101010107c0000 3c0c0c0c0c0c0c0c780000
464c587078784c4c460000 60606060606060607e0000 e6eeeefeded6c6c6c60000 66666676565e4e4e4e0000 386c44464646446c380000
7c6666667c606060600000 386c44464646446c3c0c00 786c646c786c6c66660000 386460703c0c044c380000 7e10101010101010100000
46464646464646643c0000 c646646c6c2c3838380000 c2c2d2de7e6e6c6c640000 466c3c3818382c6cc60000 c6646c3838181010100000
7e0e0c1c383070607e0000
"""


def _letter_masks() -> np.ndarray:
    """Ink of every letter at six jitters, float32 [26, 6, 16, 8] in {0, 1}: dy in {-1, 0, 1} times dx in {0, 1}."""
    rows = np.array([list(bytes.fromhex(word)) for word in _BITMAPS.split()], dtype=np.uint8)  # [26, 11]
    ink = np.zeros((len(rows), CELL, CELL // 2), dtype=np.float32)
    ink[:, 3:14] = np.unpackbits(rows[:, :, None], axis=2)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (0, 1)]
    return np.stack([np.roll(ink, shift, axis=(1, 2)) for shift in shifts], axis=1)


_INK = _letter_masks()
_RGB = np.array(list(COLORS.values()), dtype=np.float32)  # [12, 3]


@dataclass(frozen=True)
class Cells:
    """Contents of N cells of B examples: letters int [B, N] (index into LETTERS, FILLER = none), colors int [B, N]."""

    letters: np.ndarray
    colors: np.ndarray

    def positions(self, letter: np.ndarray) -> np.ndarray:
        """Cell index of one letter per example, int [B]; letter int [B] must stand in its example."""
        return np.argmax(self.letters == letter[:, None], axis=1)


def sample_cells(rng: np.random.Generator, batch: int, num_cells: int, num_letters: int) -> Cells:
    """Random contents: num_letters distinct letters at distinct cells of every example, fillers elsewhere."""
    if not 1 <= num_letters <= min(num_cells, len(LETTERS)):
        raise ValueError(
            f"num_letters={num_letters} was asked; it must be in 1..{min(num_cells, len(LETTERS))} "
            f"for {num_cells} cells."
        )
    letters = np.full((batch, num_cells), FILLER)
    chosen = np.argsort(rng.random((batch, len(LETTERS))), axis=1)[:, :num_letters]
    places = np.argsort(rng.random((batch, num_cells)), axis=1)[:, :num_letters]
    np.put_along_axis(letters, places, chosen, axis=1)
    return Cells(letters, rng.integers(0, len(COLORS), (batch, num_cells)))


def draw_cells(rng: np.random.Generator, cells: Cells) -> np.ndarray:
    """Noisy pictures of the cells, uint8 [B, N, 16, 16, 3]."""
    shape = cells.letters.shape
    ink = _INK[np.maximum(cells.letters, 0), rng.integers(0, _INK.shape[1], shape)]  # [B, N, 16, 8]
    filler = cells.letters == FILLER
    count = int(filler.sum())
    # Two letters with their pixel rows shuffled and blended: the ink statistics of a letter, and nothing to read.
    pair = _INK[rng.integers(0, len(LETTERS), (2, count)), 2]
    order = np.argsort(rng.random((2, count, CELL)), axis=2)[..., None]
    ink[filler] = np.take_along_axis(pair, order, axis=2).mean(axis=0)
    picture = np.empty((*shape, CELL, CELL, 3), dtype=np.float32)
    picture[..., : CELL // 2, :] = 255 * (1 - ink[..., None])
    tint = _RGB[cells.colors] + rng.normal(0, 8, (*shape, 3))
    picture[..., CELL // 2 :, :] = tint[..., None, None, :]
    picture += 10 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def assemble_pages(pictures: np.ndarray, pages: int, rows: int, columns: int) -> np.ndarray:
    """uint8 [B, pages * rows * columns, 16, 16, 3] -> uint8 [B, pages, rows * 16, columns * 16, 3], row-major cells."""
    grid = pictures.reshape(-1, pages, rows, columns, CELL, CELL, 3).transpose(0, 1, 2, 4, 3, 5, 6)
    return np.ascontiguousarray(grid.reshape(-1, pages, rows * CELL, columns * CELL, 3))


def cell_evidence(cell: int, rows: int, columns: int) -> Evidence:
    """One cell, counted row-major over all pages."""
    page, within = divmod(cell, rows * columns)
    row, column = divmod(within, columns)
    return Evidence(page, (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


def generate(
    num_examples: int,
    *,
    seed: int,
    pages: int = 6,
    rows: int = 4,
    columns: int = 4,
    num_letters: int = 24,
    margin: int = 24,
) -> Iterator[Example]:
    """Examples of one layout, the same for the same arguments.

    Args:
        num_examples: how many.
        seed: of the generator; measuring, training and testing take different ones.
        pages, rows, columns: cells of one example; rows and columns count 16-px cells of a page.
        num_letters: keyed cells, at most 26; the rest are fillers.
        margin: the asked cell is never among the last `margin` cells, nor among the first four, so that it lies outside
            the sink and the sliding window of a streaming head.

    Raises:
        ValueError: the layout leaves no cell to ask about.
    """
    num_cells = pages * rows * columns
    if num_cells - margin <= 4:
        raise ValueError(
            f"{num_cells} cells ({pages} x {rows} x {columns}) with margin={margin} leave none to ask about; "
            f"ask for more than {margin + 4} cells or a smaller margin."
        )
    rng = np.random.default_rng(seed)
    made = 0
    while made < num_examples:
        cells = sample_cells(rng, 1, num_cells, min(num_letters, num_cells))
        askable = np.flatnonzero(cells.letters[0, 4 : num_cells - margin] != FILLER) + 4
        if askable.size == 0:
            continue
        cell = int(rng.choice(askable))
        images = assemble_pages(draw_cells(rng, cells), pages, rows, columns)[0]
        template = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        yield Example(
            id=f"glyphs-{seed}-{pages}x{rows}x{columns}-{made}",
            media=tuple(images),
            question=template.format(LETTERS[cells.letters[0, cell]]),
            answer=list(COLORS)[cells.colors[0, cell]],
            evidence=(cell_evidence(cell, rows, columns),),
        )
        made += 1
