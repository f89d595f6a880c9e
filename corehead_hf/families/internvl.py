"""InternVL3.5 (-HF checkpoints) with one tile per image: the image stretched onto a square grid, row-major.

With crop_to_patches an image becomes several tiles and a thumbnail; that geometry is not mapped yet and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.families.family import Family
from corehead_hf.families.geometry import Geometry, grid


class InternVL(Family):
    model_type = "internvl"
    text_model_types = ("qwen2", "qwen3", "qwen3_moe")
    processor_class = "InternVLProcessor"

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        side = math.isqrt(processor.image_seq_length)
        num_images = sum(len(example.images) for example in examples)
        if len(inputs["pixel_values"]) != num_images:
            raise ValueError(
                f"{num_images} images became {len(inputs['pixel_values'])} tiles; this version maps one tile per "
                "image. Set processor.image_processor.crop_to_patches = False."
            )
        return [[grid(image.shape, side, side) for image in example.images] for example in examples]
