"""What a page shows of one example: rows of every head, pictures, and which token shows which part of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from corehead_hf.data.example import Example, Video
from corehead_hf.explorer.facts import model_name, provenance
from corehead_hf.families import Geometry, family_of
from corehead_hf.families.geometry import view_rule
from corehead_hf.head_map import HeadMap
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model
from corehead_hf.plots.pictures import Picture, pictures_of

logger = logging.getLogger(__name__)

MAX_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the visual tokens of an example are in one picture; a token may have several cells.

    Attributes:
        tokens: int32 [C], which of the example's N visual tokens.
        boxes: float32 [C, 4], left, top, right, bottom in native pixels, within the picture.
    """

    tokens: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """One measured example. Heads are counted l * Hq + h, H = L * Hq of them.

    Attributes:
        example: what was asked of the model.
        model: name of the model.
        dataset: where the example is from, or None.
        shape: (L, Hq).
        ranking: int32 [H], heads, best first.
        scores: float32 [H] in [0, 1], the head map's RAM, or None where the example's own RAM ranks.
        ram, vision, text: float32 [H] in [0, 1], attention on the evidence, on all visual tokens, and on all others.
        chance: RAM of a head that attends to all it may see alike.
        rows: float32 [H, N], attention on each of the N visual tokens.
        columns: int32 [N], where these stand in the prompt.
        counted: uint8 [N], 1 where a token counts as evidence.
        pictures: images and frames in prompt order.
        cells: the tokens of each picture.
        facts: (name, value) of the provenance.
        notes: what is not as one might expect.
    """

    example: Example
    model: str
    dataset: str | None
    shape: tuple[int, int]
    ranking: np.ndarray
    scores: np.ndarray | None
    ram: np.ndarray
    vision: np.ndarray
    text: np.ndarray
    chance: float
    rows: np.ndarray
    columns: np.ndarray
    counted: np.ndarray
    pictures: tuple[Picture, ...]
    cells: tuple[Cells, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def scene_of(
    model: Any,
    processor: Any,
    example: Example,
    head_map: HeadMap | None = None,
    *,
    dataset: str | None = None,
    views: str = "all",
    min_coverage: float = 0.0,
    max_frames: int = MAX_FRAMES,
) -> Scene:
    """Measure one example in one prefill; arguments and errors as in explore."""
    native = native_model(model)
    head_map = model.head_map if head_map is None else head_map
    if head_map is not None:
        head_map.check_fits(native)
    pictures, left_out = pictures_of(example, max_frames)
    prepared = family_of(native).prepare(processor, example, views=views, min_coverage=min_coverage)
    prepared = prepared.to(input_device(native), native.dtype)
    masks = {"visual_mask": prepared.visual_mask, "keep_rows": True}
    with model.record_attention(prepared.question_mask, prepared.evidence_mask, **masks) as recording:
        model.prefill(**prepared.inputs)
    rows = recording.rows[0].float().cpu().flatten(0, 1)
    _check_finite(example, rows)
    columns = np.concatenate(prepared.columns[0])
    ram = recording.ram[0].float().cpu().flatten()
    scores = None if head_map is None else head_map.scores.flatten().numpy()
    order = torch.sort(ram, descending=True, stable=True).indices.numpy()
    chance, rule = float(recording.chance[0]), view_rule(views, min_coverage)
    return Scene(
        example=example,
        model=model_name(native, head_map),
        dataset=dataset,
        shape=(recording.ram.shape[1], recording.ram.shape[2]),
        ranking=(order if head_map is None else _flat(head_map)).astype(np.int32),
        scores=scores,
        ram=ram.numpy(),
        vision=recording.vision_mass[0].float().cpu().flatten().numpy(),
        text=rows[:, ~prepared.visual_mask[0].cpu()].sum(dim=-1).numpy(),
        chance=chance,
        rows=rows[:, columns].numpy(),
        columns=columns.astype(np.int32),
        counted=prepared.evidence_mask[0].cpu().numpy()[columns].astype(np.uint8),
        pictures=tuple(pictures),
        cells=tuple(cells_of(prepared.geometry[0], picture) for picture in pictures),
        facts=provenance(native, head_map, prepared, dataset=dataset, view_rule=rule, chance=chance),
        notes=_notes(example, head_map, pictures, left_out),
    )


def cells_of(geometry: tuple[Geometry, ...], picture: Picture) -> Cells:
    """The cells of a picture's tokens; tokens are counted over all media, as Prepared.columns stand one after another.

    Args:
        geometry: per medium of the example.
        picture: one image or frame of it.
    """
    shown = geometry[picture.medium]
    first = sum(len(tokens) for tokens in geometry[: picture.medium])
    token, cell = np.nonzero((shown.weights > 0) & (shown.frames == picture.frame))
    height, width = picture.pixels.shape[:2]
    boxes = np.clip(shown.cells[token, cell], 0, [width, height, width, height])
    return Cells((first + token).astype(np.int32), boxes.astype(np.float32))


def caption(example: Example, picture: Picture) -> str:
    """What a picture is called: its place among the media, and a frame's place and time in its video."""
    media, medium = example.media, example.media[picture.medium]
    alike = [i for i, other in enumerate(media) if isinstance(other, Video) == isinstance(medium, Video)]
    number = f" {alike.index(picture.medium) + 1}" if len(alike) > 1 else ""
    if not isinstance(medium, Video):
        return f"Image{number}"
    assert medium.frame_ids is not None
    seconds = medium.frame_ids[picture.frame] / medium.fps
    return f"{f'Video{number}, frame' if number else 'Frame'} {picture.frame}, {seconds:.1f} s"


def _flat(head_map: HeadMap) -> np.ndarray:
    pairs = head_map.ranking().numpy()
    return pairs[:, 0] * head_map.num_heads + pairs[:, 1]


def _check_finite(example: Example, rows: torch.Tensor) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"example {example.id!r}: an attention row of {int((~torch.isfinite(rows).all(dim=1)).sum())} heads is not "
            "finite. The model's activations overflow its dtype; load it in bfloat16 or float32."
        )


def _notes(example: Example, head_map: HeadMap | None, pictures: list[Picture], left_out: str) -> tuple[str, ...]:
    notes = []
    if head_map is None:
        notes.append("No head map was given: heads are ranked by their RAM on this example alone.")
    if left_out:
        notes.append(f"{left_out[0].upper()}{left_out[1:]}; attention on the others is counted, but not painted.")
    if not any(picture.evidence(example) for picture in pictures):
        notes.append("None of the frames shown holds evidence; more are shown with a larger max_frames.")
    for note in notes:
        logger.warning("page of example %r: %s", example.id, note)
    return tuple(notes)
