"""InternVL3 and 3.5 (-HF checkpoints): an image as square tiles and a thumbnail, a video as one tile per frame.

The processor stretches an image onto the tile grid (columns x rows) whose aspect ratio is nearest to its own, cuts it
into tiles, row-major, and puts a thumbnail of the whole last; an image of one tile has no thumbnail. A tile is a grid
of 16 x 16 tokens, row-major. Frames of a video are never tiled. Images and frames share one placeholder and stand
between <img> and </img>, so which run belongs to what follows from the prompt's order.

Tiling is the processor's default whatever its image processor's crop_to_patches says (transformers 4.57 to 5.23); for
one tile per image set `processor.image_processor.max_patches = 1`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from corehead_hf.data.example import Example, Media, Video
from corehead_hf.families.family import Family, video_processor_of
from corehead_hf.families.geometry import GLOBAL, HIRES, Geometry, concatenate, grid, single_cells


class InternVL(Family):
    model_type = "internvl"
    text_model_types = ("qwen2", "qwen3", "qwen3_moe")
    processor_class = "InternVLProcessor"

    def encode(
        self, processor: Any, texts: list[str], examples: Sequence[Example], *, flat_images: bool = False
    ) -> dict[str, Any]:
        _check_placeholders(processor, texts, examples)
        images = [image for example in examples for image in example.images]
        videos = [video.frames for example in examples for video in example.videos]
        if videos:
            _check_video_processor(processor)
        options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        if len({len(frames) for frames in videos}) > 1:
            return _encode_one_by_one(processor, texts, examples, options)
        return dict(processor(text=texts, **_media(images, videos), **options))

    def placeholders(self, processor: Any, example: Example) -> list[tuple[int, list[int]]]:
        return [(processor.image_token_id, list(range(len(example.media))))]

    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        side = math.isqrt(processor.image_seq_length)
        if side**2 != processor.image_seq_length:
            raise ValueError(
                f"image_seq_length={processor.image_seq_length} is no square number; a tile is mapped as a square grid "
                "of tokens. Load the processor from the model's own folder."
            )
        _check_tile_size(processor, inputs)
        mapped = []
        for ids, example in zip(inputs["input_ids"], examples, strict=True):
            runs = iter(_runs(processor, ids, example))
            mapped.append([_of_medium(processor, medium, runs, side, example) for medium in example.media])
            if left := len(list(runs)):
                raise ValueError(
                    f"example {example.id!r}: {left} runs of visual tokens in the prompt stand for none of its media."
                )
        return mapped


def best_canvas(width: int, height: int, tile: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) of the tile grid that the processor stretches an image onto.

    The grid of min_tiles to max_tiles tiles whose aspect ratio is nearest to the image's. Between equally near ones the
    larger wins while its area is less than twice the image's. Source: get_optimal_tiled_canvas of transformers'
    image_processing_got_ocr2, whose floating-point comparisons are kept, as ties depend on them.
    """
    numbers = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in numbers for rows in numbers if min_tiles <= columns * rows <= max_tiles]
    best, nearest = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - columns / rows)
        larger = width * height > 0.5 * tile * tile * columns * rows
        if distance < nearest or (distance == nearest and larger):
            best, nearest = (columns, rows), distance
    return best


def _of_medium(processor: Any, medium: Media, runs: Any, side: int, example: Example) -> Geometry:
    """What the next run of visual tokens, or of a video the next run per frame, shows."""
    if isinstance(medium, Video):
        per_frame = [next(runs, 0) for _ in medium.frames]
        if set(per_frame) != {1}:
            raise ValueError(
                f"example {example.id!r}: a video of {len(medium.frames)} frames has runs of {per_frame} tiles in the "
                "prompt; each frame should have one."
            )
        return concatenate([grid(picture.shape, side, side, frame=f) for f, picture in enumerate(medium.frames)])
    found, (height, width) = next(runs, 0), medium.shape[:2]
    if found == 1:  # all of the image, with and without crop_to_patches
        return grid(medium.shape, side, side)
    settings = processor.image_processor
    limits = (settings.min_patches, settings.max_patches)
    columns, rows = best_canvas(width, height, settings.size["height"], *limits)
    if found != columns * rows + 1 or found == 2:
        raise ValueError(
            f"example {example.id!r}: an image of {width} x {height} pixels has {found} tiles in the prompt; "
            f"{columns} x {rows} and a thumbnail follow from its size and the processor's min_patches, max_patches = "
            f"{limits}. This processor cuts images in a way that is not mapped."
        )
    return _tiles_and_thumbnail(medium.shape, columns, rows, side)


def _tiles_and_thumbnail(shape: tuple[int, ...], columns: int, rows: int, side: int) -> Geometry:
    """Tokens of all tiles, tile by tile, each row-major; then the image once more as a whole."""
    cells = grid(shape, rows * side, columns * side).cells[:, 0]
    by_tile = cells.reshape(rows, side, columns, side, 4).transpose(0, 2, 1, 3, 4).reshape(-1, 4)
    return concatenate([single_cells(by_tile, view=HIRES), grid(shape, side, side, view=GLOBAL)])


def _runs(processor: Any, ids: torch.Tensor, example: Example) -> list[int]:
    """How many tiles stand between each <img> and its </img>."""
    starts = (ids == processor.start_image_token_id).nonzero().flatten().tolist()
    ends = (ids == processor.end_image_token_id).nonzero().flatten().tolist()
    visual = ids == processor.image_token_id
    lengths = [end - start - 1 for start, end in zip(starts, ends, strict=False)]
    whole = len(starts) == len(ends) and all(n > 0 and n % processor.image_seq_length == 0 for n in lengths)
    inside = sum(int(visual[start + 1 : end].sum()) for start, end in zip(starts, ends, strict=False))
    if not whole or not inside == sum(lengths) == int(visual.sum()):
        raise ValueError(
            f"example {example.id!r}: its prompt has {len(starts)} {processor.start_image_token}, {len(ends)} "
            f"{processor.end_image_token} and runs of {lengths} tokens between them, which are not tiles of "
            f"{processor.image_seq_length}. Do not write these tokens in an example's text."
        )
    return [length // processor.image_seq_length for length in lengths]


def _media(images: list, videos: list) -> dict[str, Any]:
    """Keyword arguments of the processor: frames are taken as they are, a height of 3 pixels is no colour axis."""
    with_videos = {"videos": videos, "do_sample_frames": False} if videos else {}
    return {"images": images or None, "input_data_format": "channels_last", **with_videos}


def _encode_one_by_one(
    processor: Any, texts: list[str], examples: Sequence[Example], options: dict[str, Any]
) -> dict[str, Any]:
    """What the processor would return, could it stack videos of different lengths in one call."""
    marks = (processor.image_token, processor.video_token)
    expanded, tiles = [], []
    for text, example in zip(texts, examples, strict=True):
        pieces = re.split("|".join(map(re.escape, marks)), text)
        for i, medium in enumerate(example.media):
            if isinstance(medium, Video):
                mark, media = processor.video_token, _media([], [medium.frames])
            else:
                mark, media = processor.image_token, _media([medium], [])
            out = processor(text=[mark], add_special_tokens=False, return_tensors="pt", **media)
            pieces[i] += processor.tokenizer.decode(
                out["input_ids"][0], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            tiles.append(out["pixel_values"])
        expanded.append("".join(pieces))
    return {**processor.tokenizer(expanded, **options), "pixel_values": torch.cat(tiles)}


def _check_placeholders(processor: Any, texts: list[str], examples: Sequence[Example]) -> None:
    marks = {processor.image_token: "image", processor.video_token: "video"}
    for text, example in zip(texts, examples, strict=True):
        found = [marks[mark] for mark in re.findall("|".join(map(re.escape, marks)), text)]
        kinds = ["video" if isinstance(medium, Video) else "image" for medium in example.media]
        if found != kinds:
            raise ValueError(
                f"example {example.id!r}: its media are {kinds}, its rendered prompt has placeholders of {found}. Do "
                f"not write {' or '.join(marks)} in an example's text, and load the model's own chat template."
            )


def _check_video_processor(processor: Any) -> None:
    parts = (processor.image_processor, video_processor_of(processor))
    still, moving = ((part.size["height"], part.size["width"]) for part in parts)
    if still != moving:
        raise ValueError(
            f"the video processor makes tiles of {moving[0]} x {moving[1]} pixels, the image processor of {still[0]} x "
            f"{still[1]}; a model has one tile size. Set processor.video_processor.size to the image processor's, or "
            "add the checkpoint's video_preprocessor_config.json."
        )


def _check_tile_size(processor: Any, inputs: dict[str, Any]) -> None:
    size = processor.image_processor.size
    height, width = inputs["pixel_values"].shape[-2:]
    if not height == width == size["height"] == size["width"]:
        raise ValueError(
            f"the processor made tiles of {height} x {width} pixels, its size is {size['height']} x {size['width']}; "
            "tiles are mapped as squares of that size. Load the processor from the model's own folder."
        )
