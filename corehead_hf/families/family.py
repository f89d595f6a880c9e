"""What a model family is to CoRe: which text towers it has, and where a picture's pixels stand in the token sequence.

Family.prepare turns Examples into model inputs with question and evidence masks, read off the real processor's output.
A family's own file adds only geometry: the source rectangle of every visual token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from corehead_hf.data.example import Example, Video
from corehead_hf.families.geometry import VIEWS, Geometry


@dataclass(frozen=True)
class Prepared:
    """Model inputs of a batch of examples, left-padded, and the masks the measures need.

    Attributes:
        inputs: keyword arguments of the model's forward.
        question_mask: bool [B, T], the tokens of each question's text.
        evidence_mask: bool [B, T], the visual tokens that show the evidence.
        visual_mask: bool [B, T], all visual tokens, newline tokens included.
        examples: the B examples.
        geometry: per example and medium, what its visual tokens show.
        columns: per example and medium, int64 [N], where these tokens stand in the row.
    """

    inputs: dict[str, torch.Tensor]
    question_mask: torch.Tensor
    evidence_mask: torch.Tensor
    visual_mask: torch.Tensor
    examples: tuple[Example, ...]
    geometry: tuple[tuple[Geometry, ...], ...]
    columns: tuple[tuple[np.ndarray, ...], ...]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Prepared:
        """The same on a device; floating inputs (pixels) in `dtype` where one is given."""
        moved = inputs_to(self.inputs, device, dtype)
        masks = (self.question_mask, self.evidence_mask, self.visual_mask)
        question, evidence, visual = (mask.to(device) for mask in masks)
        return replace(self, inputs=moved, question_mask=question, evidence_mask=evidence, visual_mask=visual)


def inputs_to(
    inputs: dict[str, torch.Tensor], device: torch.device | str, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Model inputs on a device; floating ones (pixels) in `dtype` where one is given."""
    return {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()}


class Family(ABC):
    """One model family. Instances are stateless; the table FAMILIES holds one per `model_type`."""

    model_type: ClassVar[str]
    text_model_types: ClassVar[tuple[str, ...]]
    processor_class: ClassVar[str]
    question_rule: ClassVar[str] = "tokens overlapping the last occurrence of the question's text"

    def text_model(self, model: nn.Module) -> nn.Module:
        """The text decoder stack of a native model of this family."""
        return model.model.language_model  # type: ignore[union-attr, return-value]

    @abstractmethod
    def geometries(self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]) -> list[list[Geometry]]:
        """Per example and medium, in the order of Example.media: what its visual tokens show.

        Args:
            processor: the family's processor.
            inputs: its output for the batch; sizes are read from it, not computed again, wherever it tells them.
            examples: the batch.
        """

    @abstractmethod
    def encode(
        self, processor: Any, texts: list[str], examples: Sequence[Example], *, flat_images: bool = False
    ) -> dict[str, Any]:
        """The processor's output for rendered prompts: left-padded tensors, frames taken as they are.

        flat_images is that of prepare.
        """

    def placeholders(self, processor: Any, example: Example) -> list[tuple[int, list[int]]]:
        """(placeholder id, the media whose tokens it stands for in prompt order), once per placeholder id."""
        videos = [i for i, medium in enumerate(example.media) if isinstance(medium, Video)]
        images = [i for i in range(len(example.media)) if i not in videos]
        streams = [(processor.image_token_id, images)]
        return [*streams, (processor.video_token_id, videos)] if videos else streams

    def prepare(
        self,
        processor: Any,
        examples: Example | Sequence[Example],
        *,
        views: str = "all",
        min_coverage: float = 0.0,
        flat_images: bool = False,
    ) -> Prepared:
        """Examples to model inputs and masks, exact to the token, with nothing inserted into the prompt.

        Args:
            processor: the family's real processor, with a chat template and a fast tokenizer.
            examples: one or several; the batch is left-padded.
            views: which views of a medium count as evidence where the model sees it more than once (tiles and a
                thumbnail): "all", "hires" (tiles only) or "global" (the view of the whole only).
            min_coverage: the share of a token's pixels in [0, 1] that must show evidence; 0 means any overlap.
            flat_images: hand several images to the processor as one flat list, not example by example. LLaVA-OneVision
                then shows each at any resolution, where it else pads each to a small square; to the other families it
                is the same.

        Raises:
            ValueError: the processor is another family's, an example has no evidence, its question cannot be found in
                its rendered prompt, the placeholders do not match the geometry, or no token shows the evidence.
        """
        if views not in VIEWS or not 0 <= min_coverage <= 1:
            raise ValueError(
                f"views={views!r} and min_coverage={min_coverage} were given; views is one of {', '.join(VIEWS)}, "
                "min_coverage is in [0, 1]."
            )
        batch = (examples,) if isinstance(examples, Example) else tuple(examples)
        for example in batch:
            if not example.evidence:
                raise ValueError(
                    f"example {example.id!r} has no evidence; its RAM would be undefined. Name the parts that hold the "
                    "answer, or only let it be answered, through corehead_hf.evaluation."
                )
        inputs = self.prompt(processor, batch, flat_images=flat_images)
        ids = inputs["input_ids"]
        geometry = tuple(tuple(parts) for parts in self.geometries(processor, inputs, batch))
        columns = tuple(self._columns(processor, *row) for row in zip(ids, batch, geometry, strict=True))
        visual_mask, evidence_mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for row, example in enumerate(batch):
            for medium, (tokens, where) in enumerate(zip(geometry[row], columns[row], strict=True)):
                visual_mask[row, where] = True
                coverage = tokens.coverage([part for part in example.evidence if part.media == medium])
                shown = (coverage >= min_coverage if min_coverage else coverage > 0) & tokens.of_view(views)
                evidence_mask[row, where] = torch.from_numpy(shown)
            if not evidence_mask[row].any():
                raise ValueError(
                    f"example {example.id!r}: no visual token shows its evidence {example.evidence} with "
                    f"views={views!r} and min_coverage={min_coverage}. Lower min_coverage, or take views='all'."
                )
        question_mask = torch.stack([_question_rows(processor.tokenizer, ids[i], e) for i, e in enumerate(batch)])
        return Prepared(inputs, question_mask, evidence_mask, visual_mask, batch, geometry, columns)

    def prompt(self, processor: Any, examples: Sequence[Example], *, flat_images: bool = False) -> dict[str, Any]:
        """Examples to model inputs alone, left-padded: keyword arguments of forward; see prepare.

        Raises:
            ValueError: the processor is another family's.
        """
        if not type(processor).__name__.endswith(self.processor_class):
            raise ValueError(
                f"{self.model_type} needs a {self.processor_class}; got {type(processor).__name__}. "
                "Load the processor from the model's own folder with corehead_hf.load_processor."
            )
        texts = [self.render(processor, example) for example in examples]
        return self.encode(processor, texts, examples, flat_images=flat_images)

    def render(self, processor: Any, example: Example) -> str:
        """The example's prompt as the family's chat template writes it, up to where the answer is to go on."""
        kinds = ["video" if isinstance(medium, Video) else "image" for medium in example.media]
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": kinds[part]} for part in example.turn
        ]
        messages = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text + example.answer_prefix

    def _columns(
        self, processor: Any, ids: torch.Tensor, example: Example, geometry: Sequence[Geometry]
    ) -> tuple[np.ndarray, ...]:
        """Where the tokens of each medium stand in a row of input ids."""
        found: dict[int, np.ndarray] = {}
        for placeholder, media in self.placeholders(processor, example):
            where = (ids == placeholder).nonzero().flatten().numpy()
            expected = sum(len(geometry[medium]) for medium in media)
            if len(where) != expected:
                raise ValueError(
                    f"example {example.id!r}: {len(where)} visual tokens in the prompt, {expected} by the geometry of "
                    f"{self.model_type}. This form of input is not mapped; see the family's file."
                )
            ends = np.cumsum([len(geometry[medium]) for medium in media])[:-1]
            found |= dict(zip(media, np.split(where, ends)[: len(media)], strict=True))
        return tuple(found[medium] for medium in range(len(example.media)))


def video_processor_of(processor: Any) -> Any:
    """A processor's video processor.

    Raises:
        ImportError: it was loaded without torchvision and has none.
    """
    found = getattr(processor, "video_processor", None)
    if found is None:
        raise ImportError(
            "an example has a video, but this processor was loaded without torchvision. A video processor needs "
            "torchvision: pip install 'corehead-hf[video]', then load the processor again with "
            "corehead_hf.load_processor."
        )
    return found


def _question_rows(tokenizer: Any, ids: torch.Tensor, example: Example) -> torch.Tensor:
    """bool [T]: tokens that overlap the last occurrence of the question, found by character offsets."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = text.rfind(example.question)
    if again.input_ids != ids.tolist() or start < 0:
        why = "is not in the rendered prompt"
        if start >= 0:
            why = "stands in a prompt that does not tokenise back to itself"
        raise ValueError(
            f"example {example.id!r}: the question {example.question!r} {why}. Give the question's text as the chat "
            "template renders it, without leading or trailing spaces."
        )
    end = start + len(example.question)
    return torch.tensor([left < end and start < right for left, right in again.offset_mapping])
