"""LLaVA-OneVision with several images per prompt: each padded to a square, one fixed grid, a newline token at the end.

The colour padding is centred, so a token's rectangle is shifted by it and may lie outside the image. A single image
takes the any-resolution path, which this file does not map yet and refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from corehead_hf.data.example import Example
from corehead_hf.families.family import Family
from corehead_hf.families.geometry import Geometry, concatenate, no_place, single_cells


class LlavaOnevision(Family):
    model_type = "llava_onevision"
    text_model_types = ("qwen2",)
    processor_class = "LlavaOnevisionProcessor"

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        size = processor.image_processor.size["height"]
        side = math.isqrt(processor.num_image_tokens)
        patch = size // side  # 384 // 27 = 14: the last 6 pixels of the real checkpoints are never seen
        for example in examples:
            if len(example.images) == 1:
                raise ValueError(
                    f"example {example.id!r} has one image; LLaVA-OneVision cuts single images into any-resolution "
                    "tiles, whose geometry this version does not map. Give two or more images."
                )
        return [[_square_view(image.shape, size, side, patch) for image in example.images] for example in examples]


def _square_view(shape: tuple[int, ...], size: int, side: int, patch: int) -> Geometry:
    height, width = shape[:2]
    longest = max(height, width)
    left, top, scale = (longest - width) // 2, (longest - height) // 2, longest / size
    y, x = (patch * index.ravel() * scale for index in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    cells = np.stack([x - left, y - top, x - left + patch * scale, y - top + patch * scale], axis=1)
    return concatenate([single_cells(cells), no_place()])
