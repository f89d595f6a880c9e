import numpy as np
import pytest
from hand_made import SHORT, vision_heads

from corehead_hf import plots
from corehead_hf.analysis.vision_heads import VisionHeads

pytest.importorskip("matplotlib")


def test_every_head_is_in_one_set():
    """Top two by RAM: heads 1 and 2; by vision: 2 and 3 (4 ties with 3 and comes later)."""
    core, vision = np.array([[0.1, 0.5, 0.4], [0.3, 0.2, 0.0]]), np.array([[0.1, 0.2, 0.9], [0.6, 0.6, 0.3]])
    study = VisionHeads(
        **SHORT, share=1 / 3, core=core, vision=vision, shared=((0, 2),), count=2, overlap=1, jaccard=1 / 3,
        expected=4 / 6, p_value=0.6, spearman=-0.25,
    )  # fmt: skip
    ax = plots.vision_overlap(study).axes[0]
    drawn = {points.get_label(): points.get_offsets().tolist() for points in ax.collections}
    assert drawn == {
        "neither (3)": [[0.1, 0.1], [0.6, 0.2], [0.3, 0.0]],
        "vision heads only (1)": [[0.6, 0.3]],
        "CoRe heads only (1)": [[0.2, 0.5]],
        "both (1)": [[0.9, 0.4]],
    }
    title = ax.get_title(loc="left").replace("\n", " ")
    assert "1 in both (chance 0.67, p = 0.6)" in title and "ρ -0.25" in title and "tiny, hand, 6 heads" in title
    assert ax.get_xlabel() == "share of attention on all visual tokens" and ax.get_ylabel().startswith("RAM")


def test_the_sets_are_those_of_the_study():
    study = vision_heads()
    sizes = {points.get_label() for points in plots.vision_overlap(study).axes[0].collections}
    alone = study.count - study.overlap
    neither = study.core.size - 2 * alone - study.overlap
    assert sizes == {
        f"neither ({neither})", f"vision heads only ({alone})", f"CoRe heads only ({alone})", f"both ({study.overlap})"
    }  # fmt: skip
    paths = [points.get_paths()[0].vertices.tolist() for points in plots.vision_overlap(study).axes[0].collections]
    assert len({str(path) for path in paths}) == 4, "markers do not differ"
