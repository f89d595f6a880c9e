import hashlib

import numpy as np
import pytest

from corehead_hf import Evidence
from corehead_hf.data import glyphs


def pixels_under(example):
    (part,) = example.evidence
    left, top, right, bottom = part.box
    return example.media[part.media][top:bottom, left:right].astype(float)


def test_the_evidence_shows_the_answer():
    palette = np.array(list(glyphs.COLORS.values()), dtype=float)
    for example in glyphs.generate(40, seed=3, pages=3):
        swatch = pixels_under(example)[:, 8:].mean(axis=(0, 1))
        nearest = np.abs(palette - swatch).sum(axis=1).argmin()
        assert list(glyphs.COLORS)[nearest] == example.answer


def test_the_evidence_shows_the_asked_letter_and_no_other_cell_does():
    def ink(cell):
        return (cell[:, :8].mean(axis=2) < 128).astype(float)

    def unlike(a, b):  # pixels that differ, at the best of the drawn jitters
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in (-1, 0, 1)]
        return min(np.abs(a - np.roll(b, shift, (0, 1))).sum() for shift in shifts)

    by_letter = {}
    for example in glyphs.generate(60, seed=5, pages=3):
        words = reversed(example.question.split())
        letter = next(word[0] for word in words if word[0] in glyphs.LETTERS and len(word) <= 2)
        by_letter.setdefault(letter, []).append(ink(pixels_under(example)))
    pairs = [(a[0], a[1]) for a in by_letter.values() if len(a) > 1]
    assert len(pairs) > 10
    assert max(unlike(a, b) for a, b in pairs) <= 6  # the same letter, up to noise at its edges


def test_layout_by_hand():
    assert glyphs.cell_evidence(17, rows=4, columns=4) == Evidence(1, (16, 0, 32, 16))
    assert glyphs.cell_evidence(11, rows=2, columns=3) == Evidence(1, (32, 16, 48, 32))
    cells = np.arange(12, dtype=np.uint8).reshape(1, 12, 1, 1, 1) * np.ones((1, 1, 16, 16, 3), np.uint8)
    pages = glyphs.assemble_pages(cells, 2, 2, 3)
    assert pages.shape == (1, 2, 32, 48, 3)
    assert pages[0, 1, ::16, ::16, 0].tolist() == [[6, 7, 8], [9, 10, 11]]


def test_letters_are_distinct_and_the_margin_is_kept():
    cells = glyphs.sample_cells(np.random.default_rng(0), 50, 30, 20)
    for letters in cells.letters:
        shown = letters[letters != glyphs.FILLER]
        assert len(shown) == len(set(shown)) == 20
    for example in glyphs.generate(40, seed=1, pages=2, margin=20):
        (part,) = example.evidence
        cell = part.media * 16 + int(part.box[1] // 16) * 4 + int(part.box[0] // 16)
        assert 4 <= cell < 32 - 20


def test_the_same_seed_gives_the_same_pixels():
    def digest(seed):
        example = next(glyphs.generate(1, seed=seed, pages=2, margin=8))
        return hashlib.sha256(b"".join(image.tobytes() for image in example.images)).hexdigest()[:16]

    assert digest(0) == digest(0) != digest(1)
    # Frozen on numpy 2.4.6: the accuracies that model cards state belong to these pixels.
    assert digest(0) == "861f1df56d76731c"


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="leave none to ask about"):
        next(glyphs.generate(1, seed=0, pages=1, margin=12))
    with pytest.raises(ValueError, match=r"must be in 1\.\.16"):
        glyphs.sample_cells(np.random.default_rng(0), 1, 16, 17)
