"""The oracle of Qwen3-VL: patch 16, merge 2, two frames per token, sizes as the Hub checkpoints ship them."""

from __future__ import annotations

import torch
from oracle import GREY, PAINT, Oracle

PATCHES = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class Qwen3VLOracle(Oracle):
    model_type = "qwen3_vl"
    vision_config = {
        "model_type": "qwen3_vl",
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [],
    }
    # The published sizes are numbers of pixels: of an image, and of all frames of a video together.
    image_processor = {**PATCHES, **COLOURS, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    video_processor = {**PATCHES, **COLOURS, "size": {"shortest_edge": 4096, "longest_edge": 25165824}}
    tolerance = 0.01
    sliver = 1 / 32

    def probe(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        """A row of pixel_values is a patch of two frames, four rows after another one merged token."""
        streams = {"pixel_values": self.processor.image_token_id, "pixel_values_videos": self.processor.video_token_id}
        full = (PAINT - GREY) / 255 / 0.5
        return {
            placeholder: (after[name] - before[name]).mean(dim=-1).view(-1, 4).mean(dim=-1) / full
            for name, placeholder in streams.items()
            if name in before
        }
