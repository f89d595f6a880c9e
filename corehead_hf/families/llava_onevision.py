"""LLaVA-OneVision: how its processor and model show a medium depends on what stands beside it.

    one image in the example        any resolution: the whole image, then tiles, a newline token after each row
    several images                  each padded to a square: one crop, one newline token
    several images, flat_images     each at any resolution; what a flat list of images does in transformers
    video                           14 x 14 tokens per frame and one newline token at the end of the video

The chat template of the Hub checkpoints puts all images first, then all videos, then all texts: media keep their order
within their kind, but text of Example.content that stands between media stands after them in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from corehead_hf.data.example import Example, Video
from corehead_hf.families.family import Family, video_processor_of
from corehead_hf.families.geometry import Geometry
from corehead_hf.families.llava_anyres import Crops, any_resolution, padded_to_a_square, sampled_video


class LlavaOnevision(Family):
    model_type = "llava_onevision"
    text_model_types = ("qwen2",)
    processor_class = "LlavaOnevisionProcessor"

    def encode(
        self, processor: Any, texts: list[str], examples: Sequence[Example], *, flat_images: bool = False
    ) -> dict[str, Any]:
        """The processor's output; the nesting of the images tells it, and through it the model, how to show them."""
        _check_placeholders(processor, texts, examples)
        nested = [[_channels_first(image) for image in e.images] for e in examples if e.images]
        videos = [_channels_first(video.frames) for example in examples for video in example.videos]
        media: dict[str, Any] = {}
        if nested:
            media["images"] = [image for images in nested for image in images] if flat_images else nested
        if videos:
            _check_videos(processor, examples)
            media |= {"videos": videos, "do_sample_frames": False}
        return dict(processor(text=texts, **media, padding=True, padding_side="left", return_tensors="pt"))

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        images, videos = _of_images(processor, inputs), _of_videos(processor, inputs, examples)
        return [[next(videos if isinstance(m, Video) else images) for m in example.media] for example in examples]


def _of_images(processor: Any, inputs: dict[str, Any]) -> Iterator[Geometry]:
    if "pixel_values" not in inputs:
        return
    crops = _crops(processor, processor.image_processor, inputs["pixel_values"])
    alone = [count == 1 for count in inputs["batch_num_images"].tolist() for _ in range(count)]
    for is_alone, (height, width) in zip(alone, inputs["image_sizes"].tolist(), strict=True):
        yield any_resolution(crops, height, width) if is_alone else padded_to_a_square(crops, height, width)


def _of_videos(processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> Iterator[Geometry]:
    if "pixel_values_videos" not in inputs:
        return
    pixels = inputs["pixel_values_videos"]
    crops = _crops(processor, processor.video_processor, pixels)
    videos = [video for example in examples for video in example.videos]
    for frames, video in zip(pixels, videos, strict=True):
        yield sampled_video(crops, len(frames), *video.frames.shape[1:3])


def _crops(processor: Any, part: Any, pixels: Any) -> Crops:
    """Sizes from the processor's output where it tells them, else from its settings.

    The side of a patch follows from both: size // side is the only one that fits the released checkpoints.
    """
    height, width = pixels.shape[-2:]
    strategy, num_tokens = processor.vision_feature_select_strategy, processor.num_image_tokens
    side = math.isqrt(num_tokens)
    center_crop = getattr(part, "do_center_crop", None)  # the image processors without torchvision have none
    if height != width or center_crop or not part.do_resize:
        raise ValueError(
            f"{type(part).__name__} makes crops of {height} x {width} pixels with do_resize={part.do_resize}, "
            f"do_center_crop={center_crop}; only square crops by resizing alone are mapped. Load the processor from "
            "the model's own folder."
        )
    if side**2 != num_tokens - (strategy == "default"):
        raise ValueError(
            f"num_image_tokens={num_tokens} with vision_feature_select_strategy={strategy!r} is no square grid of "
            "patches. Load the processor from the model's own folder."
        )
    max_tiles = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    return Crops(height, side, processor.image_processor.image_grid_pinpoints, max_tiles)


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    """Pictures in the one order transformers always guesses right: it takes a height of 1 or 3 pixels for channels."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))


def _check_placeholders(processor: Any, texts: list[str], examples: Sequence[Example]) -> None:
    for text, example in zip(texts, examples, strict=True):
        for token, media in ((processor.image_token, example.images), (processor.video_token, example.videos)):
            if text.count(token) != len(media):
                raise ValueError(
                    f"example {example.id!r}: its rendered prompt has {text.count(token)} {token} for {len(media)} "
                    f"media. Do not write {token} in an example's text, and load the model's own chat template."
                )


def _check_videos(processor: Any, examples: Sequence[Example]) -> None:
    video_processor_of(processor)  # raises where there is none
    counts = [(example.id, [len(video.frames) for video in example.videos]) for example in examples if example.videos]
    if len({count for _, each in counts for count in each}) > 1:
        told = "; ".join(f"example {name!r}: {each} frames" for name, each in counts)
        raise ValueError(
            f"LLaVA-OneVision takes videos of one length per call, got {told}. Sample the same number of frames of "
            "each video of an example, and prepare examples that differ one by one."
        )
