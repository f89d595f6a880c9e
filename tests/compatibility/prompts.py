"""Prompts of words, pictures and videos for the tiny models: batches of them, and each by itself."""

import inspect

import torch
from tiny_models import IMAGE, VIDEO, VISION_END, VISION_START

FRAMES = 2  # that a video's tokens stand for


def prompt_inputs(model, prompts, side="left", only=None):
    """Native inputs of a batch of prompts.

    Args:
        prompts: one list a sequence, of counts of words, "image" and "video"; the same prompt at the same place has
            the same words and pixels in every batch.
        side: of the padding.
        only: the one sequence to take, without padding.
    """
    family, kinds = model.config.model_type, inspect.signature(model.forward).parameters
    rows = [row_of(family, parts, torch.Generator().manual_seed(place)) for place, parts in enumerate(prompts)]
    rows = rows if only is None else rows[only : only + 1]
    length = max(len(ids) for ids, _, _ in rows)
    blank = [[0] * (length - len(ids)) for ids, _, _ in rows]
    padded = [pad + ids if side == "left" else ids + pad for pad, (ids, _, _) in zip(blank, rows, strict=True)]
    ids = torch.tensor(padded)
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    inputs |= pixels(family, [images for _, images, _ in rows], [film for *_, videos in rows for film in videos])
    if "mm_token_type_ids" in kinds:
        inputs["mm_token_type_ids"] = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    return inputs


def row_of(family, parts, generator):
    """(token ids, images, videos) of one prompt."""
    ids, images, videos = [], [], []
    alone = parts.count("image") == 1
    for part in parts:
        if isinstance(part, int):
            ids += torch.randint(3, 99, (part,), generator=generator).tolist()
        elif part == "image":
            pixel, tokens = image(family, alone, generator)
            images.append(pixel)
            ids += [VISION_START] + [IMAGE] * tokens + [VISION_END]
        elif family == "internvl":  # its processor makes pictures of the frames
            for _ in range(FRAMES):
                images.append(image(family, alone, generator)[0])
                ids += [VISION_START] + [IMAGE] * 4 + [VISION_END]
        elif family == "llava_onevision":
            videos.append(torch.randn(1, FRAMES, 3, 16, 16, generator=generator))
            ids += [VIDEO] * (FRAMES * 4 + 1)  # pooled 4 x 4, a newline
        else:
            videos.append(torch.randn(FRAMES * 16, 3 * 2 * 4 * 4, generator=generator))
            ids += ([VISION_START] + [VIDEO] * 4 + [VISION_END]) * FRAMES
    return ids, images, videos


def image(family, alone, generator):
    """(pixels, number of tokens) of one picture; `alone`: the only one of its prompt."""
    if family == "internvl":
        return torch.randn(1, 3, 16, 16, generator=generator), 4
    if family == "llava_onevision":  # base view and a tile with their newlines; the base view where there are several
        return torch.randn(1, 2, 3, 16, 16, generator=generator), 36 if alone else 17
    return torch.randn(16, 3 * 2 * 4 * 4, generator=generator), 4


def pixels(family, images, videos):
    found, flat = {}, [picture for row in images for picture in row]
    if flat:
        found["pixel_values"] = torch.cat(flat)
    if videos:
        found["pixel_values_videos"] = torch.cat(videos)
    if family.startswith("qwen3_vl"):
        found |= {"image_grid_thw": torch.tensor([[1, 4, 4]] * len(flat))} if flat else {}
        found |= {"video_grid_thw": torch.tensor([[FRAMES, 4, 4]] * len(videos))} if videos else {}
    if family == "llava_onevision" and flat:
        found["image_sizes"] = torch.tensor([[16, 16]] * len(flat))
        found["batch_num_images"] = torch.tensor([len(row) for row in images])
    return found
