"""What a model family is to CoRe: which text towers it has, and where a picture's pixels stand in the token sequence.

Family.prepare turns Examples into model inputs with question and evidence masks, read off the real processor's output.
A family's own file adds only geometry: the source rectangle of every visual token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from corehead_hf.data.example import Box, Example

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in native pixels


@dataclass(frozen=True)
class Prepared:
    """Model inputs of a batch of examples, left-padded, and the masks the measures need.

    Attributes:
        inputs: keyword arguments of the model's forward.
        question_mask: bool [B, T], the tokens of each question's text.
        evidence_mask: bool [B, T], the visual tokens that overlap the evidence.
        visual_mask: bool [B, T], all visual tokens, newline tokens included.
        examples: the B examples.
        places: per example, for each visual token in order: the image it shows and its rectangle there, None for a
            token that shows no place (a newline).
    """

    inputs: dict[str, torch.Tensor]
    question_mask: torch.Tensor
    evidence_mask: torch.Tensor
    visual_mask: torch.Tensor
    examples: tuple[Example, ...]
    places: tuple[list[tuple[int, Rectangle | None]], ...]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Prepared:
        """The same on a device; floating inputs (pixels) in `dtype` where one is given."""
        moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in self.inputs.items()}
        masks = (self.question_mask, self.evidence_mask, self.visual_mask)
        question, evidence, visual = (mask.to(device) for mask in masks)
        return replace(self, inputs=moved, question_mask=question, evidence_mask=evidence, visual_mask=visual)


class Family(ABC):
    """One model family. Instances are stateless; the table FAMILIES holds one per `model_type`."""

    model_type: ClassVar[str]
    text_model_types: ClassVar[tuple[str, ...]]
    processor_class: ClassVar[str]
    question_rule: ClassVar[str] = "tokens overlapping the last occurrence of the question's text"
    view_rule: ClassVar[str]

    def text_model(self, model: nn.Module) -> nn.Module:
        """The text decoder stack of a native model of this family."""
        return model.model.language_model  # type: ignore[union-attr, return-value]

    @abstractmethod
    def token_rectangles(
        self, processor: Any, inputs: dict[str, Any], examples: Sequence[Example]
    ) -> list[list[list[Rectangle | None]]]:
        """Per example and image: the native-pixel rectangle of every visual token, None where it shows no place."""

    def prepare(self, processor: Any, examples: Example | Sequence[Example]) -> Prepared:
        """Examples to model inputs and masks, exact to the token, with nothing inserted into the prompt.

        Args:
            processor: the family's real processor, with a chat template and a fast tokenizer.
            examples: one or several; the batch is left-padded.

        Raises:
            ValueError: the processor is another family's, a question cannot be found in its rendered prompt, or the
                placeholders do not match the geometry.
        """
        batch = (examples,) if isinstance(examples, Example) else tuple(examples)
        if not type(processor).__name__.endswith(self.processor_class):
            raise ValueError(
                f"{self.model_type} needs a {self.processor_class}; got {type(processor).__name__}. "
                "Load the processor from the model's own folder with corehead_hf.load_processor."
            )
        texts = [self._render(processor, example) for example in batch]
        images = [list(example.images) for example in batch]
        encoded = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        inputs = dict(encoded)
        ids = inputs["input_ids"]
        visual_mask = ids == processor.image_token_id
        evidence_mask = torch.zeros_like(visual_mask)
        places = []
        for row, rectangles in enumerate(self.token_rectangles(processor, inputs, batch)):
            example, columns = batch[row], visual_mask[row].nonzero().flatten()
            places.append([(image, rect) for image, rects in enumerate(rectangles) for rect in rects])
            if len(columns) != len(places[row]):
                raise ValueError(
                    f"example {example.id!r}: {len(columns)} visual tokens in the prompt, {len(places[row])} by the "
                    f"geometry of {self.model_type}. This form of input is not mapped; see the family's file."
                )
            shown = [any(_overlaps(rect, image, box) for box in example.evidence) for image, rect in places[row]]
            evidence_mask[row, columns] = torch.tensor(shown, dtype=torch.bool)
        question_mask = torch.stack([_question_rows(processor.tokenizer, ids[i], e) for i, e in enumerate(batch)])
        return Prepared(inputs, question_mask, evidence_mask, visual_mask, batch, tuple(places))

    def _render(self, processor: Any, example: Example) -> str:
        content = [{"type": "image"} for _ in example.images] + [{"type": "text", "text": example.question}]
        messages = [{"role": "user", "content": content}]
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def uniform_grid(shape: tuple[int, ...], rows: int, columns: int) -> list[Rectangle | None]:
    """The rectangles of an image stretched onto rows x columns tokens, row-major."""
    dy, dx = shape[0] / rows, shape[1] / columns
    return [(c * dx, r * dy, (c + 1) * dx, (r + 1) * dy) for r in range(rows) for c in range(columns)]


def _overlaps(rect: Rectangle | None, image: int, box: Box) -> bool:
    if rect is None or image != box.image:
        return False
    left, top, right, bottom = rect
    return left < box.right and box.left < right and top < box.bottom and box.top < bottom


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
