"""explore: a model and an annotated example in, the text of a page out."""

from __future__ import annotations

from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.explorer.page import MAX_BYTES, page_of
from corehead_hf.explorer.scene import MAX_FRAMES, scene_of
from corehead_hf.head_map import HeadMap


def explore(
    model: Any,
    processor: Any,
    example: Example,
    head_map: HeadMap | None = None,
    *,
    dataset: str | None = None,
    views: str = "all",
    min_coverage: float = 0.0,
    max_frames: int = MAX_FRAMES,
    max_bytes: int = MAX_BYTES,
) -> str:
    """The HTML page of one example: hover a head of the layer x head map to see where its question rows look.

    One prefill is run. What the page leaves out to stay small stands on it, and is logged as a warning.

    Args:
        model: a CoRe-wrapped model.
        processor: its processor; see load_processor.
        example: what is shown.
        head_map: ranks the heads; None takes model.head_map, and where there is none ranks by the example's own RAM,
            which the page then says.
        dataset: where the example is from, to be named on the page.
        views, min_coverage: which visual tokens count as evidence, see Family.prepare.
        max_frames: the most frames of each video, evenly chosen.
        max_bytes: the most bytes of the page in UTF-8.

    Raises:
        ValueError: the head map is another model's, the example cannot be mapped or measured, or no page of at most
            max_bytes can be made.
    """
    scene = scene_of(
        model,
        processor,
        example,
        head_map,
        dataset=dataset,
        views=views,
        min_coverage=min_coverage,
        max_frames=max_frames,
    )
    return page_of(scene, max_bytes=max_bytes).text
