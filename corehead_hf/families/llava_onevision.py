"""LLaVA-OneVision with several images per prompt: each padded to a square, one fixed grid, a newline token at the end.

The colour padding is centred, so a token's rectangle is shifted by it and may lie outside the image. A single image
takes the any-resolution path, which this file does not map yet and refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.families.family import Family, Rectangle


class LlavaOnevision(Family):
    model_type = "llava_onevision"
    text_model_types = ("qwen2",)
    processor_class = "LlavaOnevisionProcessor"
    view_rule = "every visual token of the padded square view that overlaps the evidence"

    def token_rectangles(
        self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]
    ) -> list[list[list[Rectangle | None]]]:
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


def _square_view(shape: tuple[int, ...], size: int, side: int, patch: int) -> list[Rectangle | None]:
    height, width = shape[:2]
    longest = max(height, width)
    left, top, scale = (longest - width) // 2, (longest - height) // 2, longest / size
    cells: list[Rectangle | None] = []
    for row in range(side):
        for column in range(side):
            x, y = patch * column * scale - left, patch * row * scale - top
            cells.append((x, y, x + patch * scale, y + patch * scale))
    return [*cells, None]
