"""Qwen3-VL: dynamic resolution, one visual token per 2 x 2 merged patches, row-major over the merged grid.

Token (R, C) of a G_h x G_w grid shows x in [C W / G_w, (C + 1) W / G_w), y alike: the resize stretches both axes
independently and adds no padding, so the native size and image_grid_thw are all that is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.families.family import Family
from corehead_hf.families.geometry import Geometry, grid


class Qwen3VL(Family):
    model_type = "qwen3_vl"
    text_model_types = ("qwen3_vl_text",)
    processor_class = "Qwen3VLProcessor"

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        merge = processor.image_processor.merge_size
        grids = iter(inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else [])
        per_example = []
        for example in examples:
            per_image = []
            for image in example.images:
                _, patch_rows, patch_columns = next(grids)
                per_image.append(grid(image.shape, patch_rows // merge, patch_columns // merge))
            per_example.append(per_image)
        return per_example


class Qwen3VLMoe(Qwen3VL):
    model_type = "qwen3_vl_moe"
    text_model_types = ("qwen3_vl_moe_text",)
