"""CoRe heads against vision heads: do the heads that read the evidence just look at the picture? (§4.2, Fig. 4)"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corehead_hf.analysis.intervals import require_scipy
from corehead_hf.analysis.resampling import rank_correlation
from corehead_hf.analysis.result import Floats, Heads, Result, check_shape, data_frame
from corehead_hf.families.geometry import VISUAL_RULE
from corehead_hf.head_map import HeadMap

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class VisionHeads(Result):
    """The top heads of one model by attention on the evidence and by attention on all visual tokens.

    Attributes:
        model: whose heads.
        dataset: of the CoRe map.
        share: of the heads that each top set holds, in (0, 1].
        core: float64 [L, Hq], mean RAM on the evidence.
        vision: float64 [L, Hq], mean attention on all visual tokens.
        shared: (layer, head) of the heads in both top sets, by rank in the CoRe map.
        count: heads in each top set.
        overlap: heads in both.
        jaccard: overlap / heads in either.
        expected: overlap of two sets drawn at random, count^2 / n.
        p_value: probability that two such sets share at least `overlap` heads (hypergeometric).
        spearman: rank correlation of the flattened maps in [-1, 1].
    """

    kind: ClassVar[str] = "vision_heads"

    model: str
    dataset: str
    share: float
    core: Floats
    vision: Floats
    shared: Heads
    count: int
    overlap: int
    jaccard: float
    expected: float
    p_value: float
    spearman: float

    def __post_init__(self) -> None:
        check_shape("vision", self.vision, np.shape(self.core))

    def to_pandas(self) -> DataFrame:
        """One row a head: its two scores and in which top sets it is."""
        layers, heads = np.indices(self.core.shape)
        tops = [
            np.isin(np.arange(scores.size), np.argsort(-scores.ravel(), kind="stable")[: self.count])
            for scores in (self.core, self.vision)
        ]
        return data_frame(
            {
                "model": self.model,
                "dataset": self.dataset,
                "layer": layers.ravel(),
                "head": heads.ravel(),
                "core": self.core.ravel(),
                "vision": self.vision.ravel(),
                "core_top": tops[0],
                "vision_top": tops[1],
            }
        )


def vision_heads(core: HeadMap, vision: HeadMap, *, share: float = 0.05) -> VisionHeads:
    """Compare the top heads by RAM with the top heads by attention on all visual tokens.

    Args:
        core: measured with target="evidence".
        vision: of the same model, measured with target="visual", best on the same examples.
        share: of the heads that each top set holds, in (0, 1]; rounded as in HeadMap.top.

    Raises:
        ValueError: maps of different models, maps of the wrong targets, a map whose heads all score alike, or a share
            out of range.
    """
    _check_pair(core, vision)
    core_top, vision_top = core.top(float(share)), vision.top(float(share))
    shared = tuple(
        (layer, head) for layer, head in core.ranking().tolist() if core_top[layer, head] and vision_top[layer, head]
    )
    total, count, overlap = core_top.numel(), int(core_top.sum()), len(shared)
    scores = np.stack([head_map.scores.double().numpy() for head_map in (core, vision)])
    return VisionHeads(
        model=core.base_model_name_or_path,
        dataset=core.dataset,
        share=float(share),
        core=scores[0],
        vision=scores[1],
        shared=shared,
        count=count,
        overlap=overlap,
        jaccard=overlap / (2 * count - overlap),
        expected=count**2 / total,
        p_value=float(require_scipy().hypergeom.sf(overlap - 1, total, count, count)),
        spearman=float(rank_correlation(scores.reshape(2, -1))[0, 1]),
    )


def _check_pair(core: HeadMap, vision: HeadMap) -> None:
    for name, head_map, is_visual in (("core", core, False), ("vision", vision, True)):
        if (head_map.view_rule == VISUAL_RULE) != is_visual:
            raise ValueError(
                f"{name} was given with view_rule {head_map.view_rule!r:.100} - vision's is {VISUAL_RULE!r}, core's is "
                f"not - measure it with target={'visual' if is_visual else 'evidence'!r}."
            )
        if head_map.scores.min() == head_map.scores.max():
            raise ValueError(f"{name} was given - all its heads score alike, which ranks nothing - measure it again.")
    names = [PurePath(head_map.base_model_name_or_path).name for head_map in (core, vision)]
    if names[0] != names[1] or core.scores.shape != vision.scores.shape:
        raise ValueError(
            f"core of {names[0]!r}, {list(core.scores.shape)} heads, was given beside vision of {names[1]!r}, "
            f"{list(vision.scores.shape)} - they are compared head by head - give maps of one model."
        )
    if core.dataset != vision.dataset:
        logger.warning("the CoRe map is of data set %r, the vision map of %r", core.dataset, vision.dataset)
