"""The oracle of LLaVA-OneVision: crops of 384 px in patches of 14, as the Hub checkpoint ships them, and smaller ones.

The small ones keep every trait at a fraction of the time: 104 px in patches of 14 leave 6 px at the right and bottom of
a crop unseen, 7 patches are shrunk to 4 in videos, and pinpoints of up to 6 x 6 crops reach the shrunk grids. Below the
oracle: what its two test files share.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import GREY, PAINT, Oracle
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionModel,
    image_size_to_num_patches,
)
from transformers.utils import is_torchvision_available

from corehead_hf import Example, Video
from corehead_hf.families.llava_onevision import LlavaOnevision

NO_TORCHVISION = "torchvision, which video processors need, is not installed"
VIDEOS = pytest.mark.skipif(not is_torchvision_available(), reason=NO_TORCHVISION)
PATCH = 14
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TOWER = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


class LlavaOnevisionOracle(Oracle):
    """Subclasses say the crop's size and what differs from the Hub checkpoint."""

    model_type = "llava_onevision"
    crop: int
    grids = [(down, across) for down in range(1, 7) for across in range(1, 7)]
    aspect = "anyres_max_9"
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False}
    strategy = "full"
    class_tokens = 0
    tolerance = 0.03
    sliver = 1 / PATCH

    def __init_subclass__(cls):
        size = {"height": cls.crop, "width": cls.crop}
        pinpoints = {"image_grid_pinpoints": [[cls.crop * down, cls.crop * across] for down, across in cls.grids]}
        strategy = {"vision_feature_select_strategy": cls.strategy, "vision_aspect_ratio": cls.aspect}
        cls.vision_config = {**TOWER, **cls.tower, "image_size": cls.crop, "patch_size": PATCH}
        cls.settings = {**pinpoints, **strategy}
        cls.image_processor = {**COLOURS, **pinpoints, "size": size}
        cls.video_processor = {**COLOURS, "size": size}
        cls.processor_options = {**strategy, "num_image_tokens": (cls.crop // PATCH) ** 2 + cls.class_tokens}

    def probe(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        shares = {}
        stand_in = SimpleNamespace(config=self.model.config)
        if "pixel_values" in before:
            counts = before["batch_num_images"].tolist()
            alone = [count == 1 for count in counts for _ in range(count)]
            views = []
            for i, size in enumerate(before["image_sizes"]):
                pinpoints = self.settings["image_grid_pinpoints"]
                kept = image_size_to_num_patches(size, pinpoints, self.crop) if alone[i] else 1
                views.append(painted_patches(before["pixel_values"][i][:kept], after["pixel_values"][i][:kept]))
            packed, _ = LlavaOnevisionModel.pack_image_features(
                stand_in, views, before["image_sizes"], torch.zeros(1), vision_aspect_ratio=self.aspect
            )
            shares[self.processor.image_token_id] = torch.cat(packed).flatten()
        if "pixel_values_videos" in before:
            pairs = zip(before["pixel_values_videos"], after["pixel_values_videos"], strict=True)
            pooled = [LlavaOnevisionModel.apply_pooling(stand_in, painted_patches(*pair)).flatten() for pair in pairs]
            shares[self.processor.video_token_id] = torch.cat([torch.cat([p, torch.zeros(1)]) for p in pooled])
        return shares


class Full(LlavaOnevisionOracle):
    crop = 384


class Small(LlavaOnevisionOracle):
    crop = 104


class Unusual(LlavaOnevisionOracle):
    """Everything the processor's settings can change: few pinpoints, grids shrunk early, a tower with a class token."""

    crop = 104
    grids = [(1, 2), (3, 2), (2, 4)]
    aspect = "anyres_max_3"
    tower = {"model_type": "clip_vision_model"}
    strategy = "default"
    class_tokens = 1


def painted_patches(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The painted share of every patch of crops [n, 3, size, size], float [n, patches, 1]."""
    mean = torch.full((1, 1, PATCH, PATCH), 1 / PATCH**2)
    difference = (after - before).mean(dim=1, keepdim=True) * 0.5 * 255 / (PAINT - GREY)
    return torch.nn.functional.conv2d(difference, mean, stride=PATCH).flatten(2).transpose(1, 2)


class Flat(LlavaOnevision):
    """With flat_images=True."""

    def encode(self, processor, texts, examples, **options):
        return super().encode(processor, texts, examples, flat_images=True)


def image(width, height):
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def video(frames, width, height):
    return Video(np.full((frames, height, width, 3), GREY, dtype=np.uint8), fps=2)


def example(media, *evidence, **fields):
    return Example(
        **{"id": "hand-made", "question": "Where is letter A?", "answer": "here", **fields},
        media=tuple(media),
        evidence=evidence,
    )


def ranks(prepared, row=0):
    """Which visual tokens, counted over the whole row, are evidence."""
    return prepared.evidence_mask[row][prepared.visual_mask[row]].nonzero().flatten().tolist()
