"""A model as ModelArguments describe it, answering conversations: what every harness needs of us, and no harness."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from transformers import AutoConfig

from corehead_hf.analysis.groups import draw_groups
from corehead_hf.auto import AutoCoReModel
from corehead_hf.families import Family, family_of_config, inputs_to
from corehead_hf.head_map.picks import head_count
from corehead_hf.integrations.arguments import HYBRID_OPTIONS, ModelArguments
from corehead_hf.integrations.conversation import Conversation
from corehead_hf.integrations.generation import Answer, Generation
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model
from corehead_hf.processor import load_processor

logger = logging.getLogger(__name__)


class Answerer:
    """A model that is loaded, with hybrid prefill or an ablation switched on for all its prompts.

    Args:
        arguments: what it is, and what CoRe does to it.
        device: where it runs, unless arguments.device_map says.

    Raises:
        ValueError: the model type is not supported, an argument is for another family, or the head map does not fit.
        HeadMapHubError: the head map cannot be had.
    """

    def __init__(self, arguments: ModelArguments, device: torch.device) -> None:
        self.arguments = arguments
        place = {} if arguments.revision is None else {"revision": arguments.revision}
        self.family = family_of_config(AutoConfig.from_pretrained(arguments.pretrained, **place))
        self.processor = load_processor(arguments.pretrained, **place)
        set_picture_sizes(self.processor, self.family, arguments)
        options = {"attn_implementation": arguments.attn_implementation, "device_map": arguments.device_map}
        self.model = AutoCoReModel.from_pretrained(
            arguments.pretrained,
            head_map=arguments.head_map,
            head_map_revision=arguments.head_map_revision,
            dtype=arguments.dtype,
            **place,
            **{name: value for name, value in options.items() if value is not None},
        )
        if arguments.device_map is None:
            self.model.to(device)
        if arguments.is_hybrid:
            chosen = {name: getattr(arguments, name) for name in HYBRID_OPTIONS}
            self.model.enable_hybrid(arguments.keep, heads=arguments.heads, **arguments.of_sizes(), **chosen)
        self.ablated = None if arguments.ablate is None else _heads_to_ablate(self.model.head_map, arguments)
        self.num_failed = 0
        self._warned: set[str] = set()

    def answer(self, conversations: Sequence[Conversation], asked: Mapping[str, Any]) -> list[Answer]:
        """One answer per conversation, generated together where memory and the model allow it.

        Args:
            asked: generation_kwargs of the task.

        Raises:
            ValueError: a prompt cannot be encoded, and on_error is "raise".
            torch.OutOfMemoryError: for a single prompt, and on_error is "raise".
        """
        generation = Generation.read(asked)
        for name in set(generation.unused) - self._warned:
            self._warned.add(name)
            logger.warning("%s=%r of a task's generation_kwargs is unknown to generate() and unused", name, asked[name])
        together = self._attempt(conversations, generation)
        if together is not None:
            return together
        return [self._alone(conversation, generation) for conversation in conversations]

    def _attempt(self, conversations: Sequence[Conversation], generation: Generation) -> list[Answer] | None:
        """None where prompts have to be answered one by one: for memory, or as LLaVA-OneVision's videos differ."""
        if len(conversations) == 1:
            return None
        try:
            return self._generate(conversations, generation)
        except (ValueError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
        # Only here, where the error no longer holds the tensors of what failed.
        clear_device_cache(garbage_collection=True)
        logger.info("%d prompts are answered one by one: %s", len(conversations), reason)
        return None

    def _alone(self, conversation: Conversation, generation: Generation) -> Answer:
        try:
            return self._generate([conversation], generation)[0]
        except (ValueError, torch.OutOfMemoryError) as error:
            if self.arguments.on_error == "raise":
                raise
            self.failed(conversation.example.id, error)
        clear_device_cache(garbage_collection=True)
        return Answer("")

    def failed(self, name: str, error: BaseException) -> None:
        """Count a prompt that could not be answered, and say so."""
        self.num_failed += 1
        logger.warning("%s is answered by an empty text: %s", name, error)

    def _generate(self, conversations: Sequence[Conversation], generation: Generation) -> list[Answer]:
        inputs = self.encode(conversations)
        with self._ablation(inputs["input_ids"], conversations):
            tokens = self.model.generate(**inputs, **generation.options)
        start, tokenizer = inputs["input_ids"].shape[1], self.processor.tokenizer
        read, written = inputs["attention_mask"].sum(dim=1), (tokens[:, start:] != tokenizer.pad_token_id).sum(dim=1)
        texts = tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        counts = zip(texts, read.tolist(), written.tolist(), strict=True)
        return [Answer(generation.cut(text), *pair) for text, *pair in counts]

    def encode(self, conversations: Sequence[Conversation]) -> dict[str, torch.Tensor]:
        """Model inputs, left-padded, where the model wants them.

        Raises:
            ValueError: a text holds the token that stands for a picture, or the family cannot take these media.
        """
        texts = [self._render(conversation) for conversation in conversations]
        examples = [conversation.example for conversation in conversations]
        inputs = self.family.encode(self.processor, texts, examples, flat_images=self.arguments.flat_images)
        native = native_model(self.model)
        return inputs_to(inputs, input_device(native), native.dtype)

    def _render(self, conversation: Conversation) -> str:
        marks = (self.processor.image_token, self.processor.video_token)
        for message in conversation.messages:
            for part in message["content"]:
                found = [mark for mark in marks if mark in part.get("text", "")]
                if found:
                    raise ValueError(
                        f"{conversation.example.id}: the task's text holds {found[0]}, which stands for a picture in "
                        f"prompts of {self.family.model_type} - {part['text']!r:.80} - give the task a doc_to_messages "
                        "that puts pictures where they belong."
                    )
        return self.processor.apply_chat_template(conversation.messages, tokenize=False, add_generation_prompt=True)

    def _ablation(self, ids: torch.Tensor, conversations: Sequence[Conversation]) -> AbstractContextManager[Any]:
        if self.ablated is None:
            return nullcontext()
        options: dict[str, Any] = {}
        if self.arguments.ablate_variant == "visual":
            examples = [conversation.example for conversation in conversations]
            marks = {mark for example in examples for mark, _ in self.family.placeholders(self.processor, example)}
            options["visual_mask"] = torch.isin(ids, torch.tensor(sorted(marks), device=ids.device))
        elif self.arguments.ablate_variant == "stream":
            options = dict(self.arguments.of_sizes())
        return self.model.ablate_heads(self.ablated, self.arguments.ablate_variant, **options)


def set_picture_sizes(processor: Any, family: Family, arguments: ModelArguments) -> None:
    """Give a processor the sizes that were asked for.

    Raises:
        ValueError: they are those of another family, contradict the processor's own, or there is no video processor.
    """
    belongs = {
        **dict.fromkeys(("min_pixels", "max_pixels", "video_max_pixels"), ("qwen3_vl", "qwen3_vl_moe")),
        **dict.fromkeys(("min_tiles", "max_tiles"), ("internvl",)),
        "flat_images": ("llava_onevision",),
    }
    for name, types in belongs.items():
        if getattr(arguments, name) and family.model_type not in types:
            raise ValueError(
                f"{name}={getattr(arguments, name)} was given - it is for {' and '.join(types)}, this model is "
                f"{family.model_type} - leave it out."
            )
    if arguments.video_max_pixels is not None:
        moving = processor.video_processor
        if moving is None:
            raise ValueError(
                f"video_max_pixels={arguments.video_max_pixels} was given - the processor takes no videos, torchvision "
                "is missing - pip install 'corehead-hf[video]', or leave it out."
            )
        own = dict(moving.size)
        _, most = _limits(arguments, (None, "video_max_pixels"), (own["shortest_edge"], own["longest_edge"]))
        moving.size = {**own, "longest_edge": most}
    still = processor.image_processor
    if arguments.min_tiles or arguments.max_tiles:
        own_tiles = still.min_patches, still.max_patches
        still.min_patches, still.max_patches = _limits(arguments, ("min_tiles", "max_tiles"), own_tiles)
    if arguments.min_pixels or arguments.max_pixels:
        own = dict(still.size)
        own_pixels = own["shortest_edge"], own["longest_edge"]
        least, most = _limits(arguments, ("min_pixels", "max_pixels"), own_pixels)
        still.size = {**own, "shortest_edge": least, "longest_edge": most}
        if hasattr(still, "min_pixels"):  # what transformers 4.57 goes by
            still.min_pixels, still.max_pixels = least, most


def _limits(arguments: ModelArguments, names: tuple[str | None, str], own: tuple[int, int]) -> tuple[int, int]:
    """The least and the most: of the arguments with these names, or a processor's own where one is not given."""
    asked = [name and getattr(arguments, name) for name in names]
    least, most = (new or old for new, old in zip(asked, own, strict=True))
    if least > most:
        told = ", ".join(f"{name}={value}" for name, value in zip(names, asked, strict=True) if value)
        raise ValueError(
            f"{told} was given - the processor's own limits are {own[0]} and {own[1]}, so the least, {least}, is above "
            f"the most, {most} - give one between them{', or both limits' if names[0] else ''}."
        )
    return least, most


def _heads_to_ablate(head_map: Any, arguments: ModelArguments) -> torch.Tensor:
    """bool [L, Hq]."""
    assert arguments.ablate is not None and arguments.ablate_count is not None
    layers, heads = head_map.num_layers, head_map.num_heads
    try:
        head_count(arguments.ablate_count, layers, heads)
    except ValueError as error:
        raise ValueError(
            f"ablate_count={arguments.ablate_count!r} was given - the model has {layers} layers x {heads} heads - give "
            f"a count in 1..{layers * heads}, or a share in (0, 1] that is at least one head."
        ) from error
    groups = draw_groups(head_map, (arguments.ablate_count,), (arguments.ablate,), (arguments.seed,))
    if not groups:
        raise ValueError(
            f"ablate={arguments.ablate} of {arguments.ablate_count} heads was asked for - the top ones leave fewer "
            "than that - lower ablate_count."
        )
    return groups[0].heads
