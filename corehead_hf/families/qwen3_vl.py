"""Qwen3-VL: dynamic resolution, one visual token per 2 x 2 merged patches, row-major over the merged grid.

Token (R, C) of a G_h x G_w grid shows x in [C W / G_w, (C + 1) W / G_w), y alike: the resize stretches both axes
independently and adds no padding, so the native size and the processor's grid are all that is needed.

A video's token g G_h G_w + R G_w + C shows this cell of two frames, 2g and 2g + 1 (of an odd number, the last one
twice). A timestamp of varying length stands before every group of frames, and the text around a video differs between
transformers versions: a token is found by its rank among the placeholders of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from corehead_hf.data.example import Example, Video
from corehead_hf.families.family import Family, video_processor_of
from corehead_hf.families.geometry import ONLY, Geometry, grid


class Qwen3VL(Family):
    model_type = "qwen3_vl"
    text_model_types = ("qwen3_vl_text",)
    processor_class = "Qwen3VLProcessor"

    def encode(
        self, processor: Any, texts: list[str], examples: Sequence[Example], *, flat_images: bool = False
    ) -> dict[str, Any]:
        """The processor's output; a video's timestamps are its frame ids / fps.

        Raises:
            ImportError: an example has a video and the processor was loaded without torchvision.
        """
        images = [np.require(image, requirements=["C", "W"]) for example in examples for image in example.images]
        videos = [video for example in examples for video in example.videos]
        options: dict[str, Any] = {"images": images} if images else {}
        if videos:
            options |= _video_options(processor, videos)
        options |= {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        return dict(processor(text=texts, input_data_format="channels_last", **options))

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        images, videos = _grids(inputs, "image_grid_thw"), _grids(inputs, "video_grid_thw")
        per_example = []
        for example in examples:
            per_medium = []
            for medium in example.media:
                if isinstance(medium, Video):
                    per_medium.append(_video(medium, next(videos), processor.video_processor))
                else:
                    _, rows, columns = next(images)
                    merge = processor.image_processor.merge_size
                    per_medium.append(grid(medium.shape, rows // merge, columns // merge))
            per_example.append(per_medium)
        return per_example


class Qwen3VLMoe(Qwen3VL):
    model_type = "qwen3_vl_moe"
    text_model_types = ("qwen3_vl_moe_text",)


def _grids(inputs: dict[str, Any], name: str) -> Iterator[list[int]]:
    """(groups of frames, rows of patches, columns of patches) of the batch's images or videos, one after another."""
    return iter(inputs[name].tolist() if name in inputs else [])


def _video(video: Video, grid_thw: Sequence[int], video_processor: Any) -> Geometry:
    groups, patch_rows, patch_columns = grid_thw
    merge, together = video_processor.merge_size, video_processor.temporal_patch_size
    cells = grid(video.frames.shape[1:], patch_rows // merge, patch_columns // merge).cells
    shape = (groups, len(cells), together)
    shown = np.minimum(np.arange(groups * together), len(video.frames) - 1).reshape(groups, 1, together)
    tokens = groups * len(cells)
    return Geometry(
        np.broadcast_to(cells[None], (*shape, 4)).reshape(tokens, together, 4),
        np.full((tokens, together), 1 / together),
        np.broadcast_to(shown, shape).reshape(tokens, together),
        np.full(tokens, ONLY, dtype=np.int8),
    )


def _video_options(processor: Any, videos: Sequence[Video]) -> dict[str, Any]:
    """The processor's arguments that make it take exactly these frames, at these times."""
    video_processor = video_processor_of(processor)
    # Every version repeats the last frame of an odd number, but only 5.0 takes a single one.
    frames = [video.frames if len(video.frames) > 1 else video.frames.repeat(2, axis=0) for video in videos]
    options = {
        "videos": [np.require(array, requirements=["C", "W"]) for array in frames],
        "video_metadata": [_metadata(video) for video in videos],
        "do_sample_frames": False,
    }
    if getattr(video_processor, "cap_pixels_per_frame", False) is None:
        options["cap_pixels_per_frame"] = False  # what None does, without its warning
    return options


def _metadata(video: Video) -> dict[str, Any]:
    assert video.frame_ids is not None
    ids = [*video.frame_ids, *video.frame_ids[-1:] * (len(video.frames) == 1)]
    return {"fps": video.fps, "frames_indices": ids, "total_num_frames": ids[-1] + 1}
