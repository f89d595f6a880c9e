from dataclasses import replace

import numpy as np
import pytest
from hand_made import stability

from corehead_hf import plots

pytest.importorskip("matplotlib")


def test_stability_map_has_one_colour_a_number_and_whole_ticks_in_their_middle():
    study = stability(("a", "b", "c"), 3, 4, share=0.25, seed=2)
    figure = plots.stability_map(study)
    ax, bar = figure.axes
    image = ax.images[0]
    assert np.array_equal(image.get_array(), study.counts)
    colors = [tuple(image.cmap(image.norm(count))) for count in range(4)]
    assert len(set(colors)) == 4 and image.cmap.N == 4
    assert image.norm.boundaries.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert bar.get_yticks().tolist() == [0, 1, 2, 3]
    heads = [int((study.counts == count).sum()) for count in range(4)]
    assert [label.get_text().split()[:2] for label in bar.get_yticklabels()] == [
        [str(c), f"({heads[c]}"] for c in range(4)
    ]
    grey = [np.dot(color[:3], [0.299, 0.587, 0.114]) for color in colors]
    assert np.all(np.diff(grey) > 0.1), "not told apart in greyscale"


def test_stability_map_says_how_many_heads_are_in_all():
    study = stability(("a", "b"), 4, 4, share=0.5)
    number = int((study.counts == 2).sum())
    title = plots.stability_map(study).axes[0].get_title(loc="left").replace("\n", " ")
    assert title.startswith(f"{number} heads among the top 50\u00a0% on all 2 data sets tiny, 64 examples each, a, b,")
    assert "interval 1 to 3 heads" in title and f"{study.chance:.2g} expected by chance" in title
    plain = plots.stability_map(stability(("a", "b"), 4, 4, intervals=False)).axes[0].get_title(loc="left")
    assert "interval" not in plain


def linear(channels):
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels[:3]]


def contrast(first, second):
    """WCAG 2."""
    light, dark = sorted((float(np.dot(linear(c), [0.2126, 0.7152, 0.0722])) for c in (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_spearman_matrix_writes_every_number_in_readable_ink():
    from matplotlib.colors import to_rgb

    study = stability(("a", "b", "c", "d"), 6, 6)
    ax = plots.spearman_matrix(study).axes[0]
    image, written = ax.images[0], {}
    assert np.array_equal(image.get_array(), study.spearman)
    for text in ax.texts:
        column, row = round(text.get_position()[0]), round(text.get_position()[1])
        written.setdefault((row, column), []).append((text.get_text(), text.get_fontsize()))
        assert contrast(to_rgb(text.get_color()), image.cmap(image.norm(study.spearman[row, column]))) > 4.5
    for (row, column), texts in written.items():
        rho, low, high = (m[row, column] for m in (study.spearman, study.spearman_low, study.spearman_high))
        expected = [f"{rho:.2f}"] + ([f"[{low:.2f}, {high:.2f}]"] if row != column else [])
        assert [text for text, _ in texts] == expected
        assert len(texts) == 1 or texts[1][1] < texts[0][1], "the interval is not in smaller type"
    assert len(written) == 16
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c", "d"]
    assert image.get_clim()[0] <= study.spearman.min() and image.get_clim()[1] == 1


def test_spearman_matrix_without_intervals_and_below_zero():
    study = stability(("a", "b"), intervals=False)
    study = replace(study, spearman=np.array([[1.0, -0.25], [-0.25, 1.0]]))
    ax = plots.spearman_matrix(study).axes[0]
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.25", "-0.25", "1.00"]
    assert ax.images[0].get_clim() == (-0.3, 1) and "interval" not in ax.get_title(loc="left")
