"""The geometry tests' oracle: paint the evidence, run the real processor and the real model class, see what changes.

It knows no formula. A family's own file (oracle_<model_type>.py) subclasses Oracle and adds data (the tiny vision
tower, the Hub checkpoint's published processor values) and probe(). Everything else is here:

    oracle = oracle_of(OracleOfTheFamily)           # fixture of conftest.py: processor and tiny model, once a session
    oracle.changed(before, after)  -> bool [B, T]   # positions of inputs_embeds that differ: who sees the paint
    oracle.painted(before, after)  -> float [B, T]  # the painted share of every visual token, by a mean filter
    disagreements(oracle, family, examples)         # prepare() against both; [] means exact to the token
    repaint(example, paint=True | False)            # the example in grey, its evidence painted or not
    random_evidence(rng, media, medium)             # one part: a box, a small box, frames, or the whole medium

`before` and `after` are model inputs of the same prompts without and with paint. A test needs no more than

    assert disagreements(oracle, FAMILIES["qwen3_vl"], [example]) == []

Boxes must have whole-pixel borders and the parts of one medium must not overlap in a frame, so that paint is exact.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoModel

from corehead_hf import Evidence, Example, load_processor
from corehead_hf.data.example import Video

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))
from glyphs_checkpoint import RECIPES, write_checkpoint  # noqa: E402

sys.path.pop(0)
# In the middle of the range, so that the overshoot of bicubic resampling is not clipped.
GREY, PAINT = 64, 192
# Last layers of a vision transformer's residual branches, and the layer scales of InternVL's.
BRANCH_ENDS = (
    ".attn.proj.",
    ".mlp.linear_fc2.",
    ".out_proj.",
    ".mlp.fc2.",
    ".projection_layer.",
    "lambda_1",
    "lambda_2",
)


class Oracle(ABC):
    """The real processor and a tiny model of the real class whose visual features see their own pixels only.

    Args:
        folder: an empty folder; the checkpoint's processor files go there.

    Attributes:
        model_type: row of FAMILIES, and of the recipes whose tokenizer and chat template are used.
        vision_config: tiny, with the Hub checkpoint's image and patch sizes.
        settings: further entries of config.json.
        image_processor, video_processor, processor_options: the Hub checkpoint's published values.
        tolerance: of the painted share, bicubic resampling against exact rectangles.
        sliver: a token whose share of the evidence is at most this may be missed by nearest-neighbour resampling: one
            resampled pixel along one side of a token.
    """

    model_type: str
    vision_config: dict[str, Any]
    settings: dict[str, Any] = {}
    image_processor: dict[str, Any]
    video_processor: dict[str, Any]
    processor_options: dict[str, Any] = {}
    tolerance: float
    sliver: float

    def __init__(self, folder: Path) -> None:
        recipe = RECIPES[self.model_type]
        text = recipe.config["text_config"] | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 16}
        config = recipe.config | {"text_config": text, "vision_config": self.vision_config} | self.settings
        parts = {"image_processor": self.image_processor, "video_processor": self.video_processor}
        parts |= {"processor": self.processor_options, "config": config}
        write_checkpoint(replace(recipe, **{k: getattr(recipe, k) | v for k, v in parts.items()}), folder)
        self.processor = load_processor(folder)
        torch.manual_seed(0)
        self.model = AutoModel.from_config(AutoConfig.from_pretrained(folder)).eval()
        localise(self.model.visual if hasattr(self.model, "visual") else self.model.vision_tower)

    @abstractmethod
    def probe(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Per placeholder id, the painted share of each of its tokens over the whole batch, float [N], in order.

        The library's own packing with a mean filter as patch embedding; newline tokens are 0.
        """

    def painted(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> np.ndarray:
        """float64 [B, T]: the painted share of every visual token, 0 elsewhere."""
        share = torch.zeros(before["input_ids"].shape, dtype=torch.float64)
        for placeholder, values in self.probe(before, after).items():
            where = before["input_ids"] == placeholder
            assert int(where.sum()) == len(values), "the probe packs another number of tokens than the prompt has"
            share[where] = values.double()  # row by row, as the models' masked_scatter
        return share.numpy()

    def changed(self, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> np.ndarray:
        """bool [B, T]: positions of the inputs_embeds that the language model gets and that differ."""
        assert torch.equal(before["input_ids"], after["input_ids"])
        difference = self.embeddings(before) - self.embeddings(after)
        return (difference.abs().amax(dim=-1) > 1e-6).numpy()

    @torch.no_grad()
    def embeddings(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, T, hidden], exactly as handed to the language model."""
        caught = []

        def stop(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            caught.append(kwargs["inputs_embeds"].clone())
            raise StopIteration

        hook = self.model.language_model.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.model(**inputs)
        except StopIteration:
            pass
        finally:
            hook.remove()
        return caught[0]

    @contextmanager
    def nearest(self) -> Iterator[None]:
        """Resize by nearest neighbour inside the block: no pixel outside the painted ones can show paint."""
        parts = [self.processor.image_processor, getattr(self.processor, "video_processor", None)]
        before = [(part, part.resample) for part in parts if part is not None]
        for part, _ in before:
            part.resample = Image.Resampling.NEAREST
        try:
            yield
        finally:
            for part, resample in before:
                part.resample = resample


def localise(tower: nn.Module) -> None:
    """Zero a vision transformer's residual branches, so that a patch's feature depends on its own pixels only."""
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "merger" not in name and any(end in name for end in BRANCH_ENDS):
                parameter.zero_()
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.5)


def repaint(example: Example, paint: bool) -> Example:
    """The example with all media grey, and its evidence painted where asked."""
    arrays = [np.full_like(m.frames if isinstance(m, Video) else m, GREY) for m in example.media]
    for part in example.evidence if paint else ():
        left, top, right, bottom = (None,) * 4 if part.box is None else (int(edge) for edge in part.box)
        frames = (slice(None),) if part.frames is None else (list(part.frames),)
        place = frames if isinstance(example.media[part.media], Video) else ()
        arrays[part.media][(*place, slice(top, bottom), slice(left, right))] = PAINT
    media = [replace(m, frames=a) if isinstance(m, Video) else a for m, a in zip(example.media, arrays, strict=True)]
    return replace(example, media=tuple(media))


def disagreements(oracle: Oracle, family: Any, examples: Sequence[Example]) -> list[str]:
    """What the oracle sees of the evidence against family.prepare; [] where they agree.

    Checked: the two oracles against each other, every token that changes against the evidence mask, every token of the
    evidence mask against what changes, coverage against the painted share, and the mask at min_coverage=0.5.
    """
    grey, paint = ([repaint(example, paint) for example in examples] for paint in (False, True))
    prepared = family.prepare(oracle.processor, grey)
    half = family.prepare(oracle.processor, grey, min_coverage=0.5) if _has_half(prepared) else None
    smooth = oracle.painted(prepared.inputs, family.prepare(oracle.processor, paint).inputs)
    with oracle.nearest():
        before, after = (family.prepare(oracle.processor, batch).inputs for batch in (grey, paint))
    changed = oracle.changed(before, after)
    expected = coverage_of(prepared)
    evidence, visual = prepared.evidence_mask.numpy(), prepared.visual_mask.numpy()
    found = {
        "the oracles disagree": changed != (np.abs(oracle.painted(before, after)) > 1e-7),
        "no visual token, but it changes": changed & ~visual,
        "not in the evidence mask, but it changes": changed & ~evidence,
        "in the evidence mask, but it does not change": evidence & ~changed & (expected > oracle.sliver),
        "another share is painted than it covers": np.abs(smooth - expected) > oracle.tolerance,
    }
    if half is not None:
        clear = np.abs(smooth - 0.5) > oracle.tolerance
        found["wrong at min_coverage=0.5"] = visual & clear & (half.evidence_mask.numpy() != (smooth >= 0.5))
    return [f"{what}: {_places(where, prepared, expected, smooth)}" for what, where in found.items() if where.any()]


def coverage_of(prepared: Any) -> np.ndarray:
    """float64 [B, T]: the coverage that prepare() gives each token, from its geometry."""
    cover = np.zeros(prepared.visual_mask.shape)
    for row, example in enumerate(prepared.examples):
        for medium, (tokens, where) in enumerate(zip(prepared.geometry[row], prepared.columns[row], strict=True)):
            cover[row, where] = tokens.coverage([part for part in example.evidence if part.media == medium])
    return cover


def _has_half(prepared: Any) -> bool:
    """Whether every example has a token that is half covered; prepare refuses where one has none."""
    return bool((coverage_of(prepared) >= 0.5).any(axis=1).all())


def _places(where: np.ndarray, prepared: Any, expected: np.ndarray, smooth: np.ndarray) -> str:
    ranks = np.cumsum(prepared.visual_mask.numpy(), axis=1) - 1
    shown = [
        f"row {row} visual token {ranks[row, column]} (covers {expected[row, column]:.4f}, painted "
        f"{smooth[row, column]:.4f})"
        for row, column in np.argwhere(where)[:4]
    ]
    return f"{int(where.sum())} tokens, " + "; ".join(shown)


def random_evidence(rng: np.random.Generator, media: Sequence[np.ndarray | Video], medium: int) -> Evidence:
    """A part of one medium: a box, a small box or the whole of it; of a video also some of its frames."""
    shown = media[medium]
    array = shown.frames if isinstance(shown, Video) else shown
    height, width = array.shape[-3:-1]
    frames = None
    if isinstance(shown, Video) and rng.random() < 0.7:
        count = int(rng.integers(1, len(array) + 1))
        frames = tuple(sorted(int(f) for f in rng.choice(len(array), count, replace=False)))
    kind = rng.choice(["box", "small", "whole"], p=[0.6, 0.25, 0.15])
    if kind == "whole":
        return Evidence(medium, None, frames)
    most = 24 if kind == "small" else max(height, width)
    left, top = int(rng.integers(0, width - 1)), int(rng.integers(0, height - 1))
    right = int(rng.integers(left + 1, min(width, left + most) + 1))
    bottom = int(rng.integers(top + 1, min(height, top + most) + 1))
    return Evidence(medium, (left, top, right, bottom), frames)
