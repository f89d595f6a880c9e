"""The oracle of InternVL3.5: tiles of 448 px and 256 tokens as the Hub checkpoints ship them, and small tiles."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from oracle import GREY, PAINT, Oracle
from PIL import Image
from torch.nn import functional as F
from transformers import InternVLModel

COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class InternVLOracle(Oracle):
    model_type = "internvl"
    tile, patch = 448, 14
    vision_config = {
        "model_type": "internvl_vision",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    }
    settings = {"image_seq_length": 256}
    # The published value of crop_to_patches is false; the processor's own default is what counts.
    image_processor = {
        **COLOURS,
        "size": {"height": 448, "width": 448},
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
    }
    video_processor = {**COLOURS, "size": {"height": 448, "width": 448}}
    processor_options = {"image_seq_length": 256}
    tolerance = 0.1  # bicubic overshoot, where an image of few pixels is stretched onto many tiles
    sliver = 1 / 28

    @contextmanager
    def nearest(self) -> Iterator[None]:
        part = self.processor.image_processor
        with super().nearest():
            # The slow image processor of transformers < 5.2 forgets `resample` where it cuts tiles.
            cuts = inspect.signature(part.crop_image_to_patches).parameters
            forgets = not {"resample", "interpolation"} & set(cuts)
            if forgets:
                part.resize = functools.partial(part.resize, resample=Image.Resampling.NEAREST)
            try:
                yield
            finally:
                if forgets:
                    del part.resize

    def probe(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Mean of every patch, then the model's own pixel shuffle, then the mean of what it stacks into a token."""
        std = torch.tensor(COLOURS["image_std"]).view(1, 3, 1, 1)
        shown = ((after["pixel_values"] - before["pixel_values"]) * std).mean(dim=1, keepdim=True)
        patches = F.avg_pool2d(shown, self.patch).permute(0, 2, 3, 1).contiguous() * 255 / (PAINT - GREY)
        tokens = InternVLModel.pixel_shuffle(None, patches, 0.5).mean(dim=-1)
        return {self.processor.image_token_id: tokens.flatten()}


class SmallInternVLOracle(InternVLOracle):
    """Tiles of 64 px and 16 tokens, as the Glyphs checkpoints have them: many tiles cost little."""

    tile, patch = 64, 8
    vision_config = {**InternVLOracle.vision_config, "image_size": [64, 64], "patch_size": [8, 8]}
    settings = {"image_seq_length": 16}
    image_processor = {**InternVLOracle.image_processor, "size": {"height": 64, "width": 64}}
    video_processor = {**InternVLOracle.video_processor, "size": {"height": 64, "width": 64}}
    processor_options = {"image_seq_length": 16}
    sliver = 1 / 16


def spelled(text):
    """'3-5,9' -> [3, 4, 5, 9]."""
    found = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


# What the processor and model of transformers 4.57.6 and 5.23.0 showed: media as (width, height), the painted medium
# and box, all visual tokens, tokens of any coverage, tokens of coverage >= 0.5.
GOLDEN = {
    "two tiles exactly": (
        [(896, 448)], 0, (504, 112, 700, 336), 768, 88,
        "322-328,338-344,354-360,370-376,386-392,402-408,418-424,434-440,585-588,601-604,617-620,633-636,649-652,665-668,"
        "681-684,697-700",
    ),
    "a photo": (
        [(640, 427)], 0, (374, 65, 510, 267), 1792, 223,
        "348-351,364-367,380-383,396-399,412-415,428-431,444-447,460-463,476-479,492-495,508-511,592-597,"
        "608-613,624-629,640-645,656-661,672-677,688-693,704-709,720-725,736-741,752-757,1036-1039,1052-1055,"
        "1068-1071,1084-1087,1280-1285,1296-1301,1312-1317,1328-1333,1578-1579,1593-1596,1609-1612,1625-1628,"
        "1641-1644,1657-1660,1673-1676,1689-1692",
    ),
    "one tile, no thumbnail": (
        [(300, 300)], 0, (75, 75, 225, 225), 256, 64, "68-75,84-91,100-107,116-123,132-139,148-155,164-171,180-187"
    ),
    "a page": (
        [(1224, 1584)], 0, (732, 458, 1028, 766), 3328, 189,
        "1085-1087,1101-1103,1117-1119,1133-1135,1149-1151,1165-1167,1181-1183,1197-1199,1213-1215,1229-1231,"
        "1245-1247,1261-1263,1328-1335,1344-1351,1360-1367,1376-1383,1392-1399,1408-1415,1424-1431,1440-1447,"
        "1456-1463,1472-1479,1488-1495,1504-1511,3162-3164,3178-3180,3194-3196",
    ),
    "over four tiles": (
        [(1200, 800)], 0, (550, 350, 650, 450), 1792, 20, "486-489,502-505,1030-1033,1046-1049,1655-1656,1671-1672"
    ),
    "third of three": (
        [(640, 480), (448, 448), (900, 300)], 2, (300, 75, 600, 225), 4608, 176,
        "3904-4031,4421-4426,4437-4442,4453-4458,4469-4474,4485-4490,4501-4506,4517-4522,4533-4538",
    ),
}  # fmt: skip
