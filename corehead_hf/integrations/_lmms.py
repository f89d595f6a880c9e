"""The model class that lmms-eval (>= 0.7) runs: chat messages in, answers out, through Answerer.

Its own classes of these families are not built upon: each holds other arguments, some cast to bfloat16, take one prompt
at a time or answer "" where generation fails. What differs from them in the prompt: there is no system message but the
chat template's (qwen3_vl of lmms-eval writes "You are a helpful assistant."; system_prompt= gives it), and videos are
sized by the model's own processor.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from transformers.utils import logging as transformers_logging

from corehead_hf.integrations.answerer import Answer, Answerer
from corehead_hf.integrations.arguments import ModelArguments
from corehead_hf.integrations.conversation import Conversation, Frames, read_conversation

logger = logging.getLogger(__name__)


class CoreHead(lmms):
    """A CoRe-wrapped model for lmms-eval. Data-parallel under `accelerate launch`, one model a process.

    Args:
        arguments: those of ModelArguments, by name.

    Raises:
        ValueError: an unknown argument, or one out of range; see ModelArguments.
    """

    is_simple = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = ModelArguments.read(arguments)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = _own_device(self.arguments, self.accelerator)
        self.answerer = Answerer(self.arguments, self._device)
        self.frames = Frames(self.arguments.max_frames, self.arguments.fps)

    @property
    def model(self) -> Any:
        return self.answerer.model

    @property
    def tokenizer(self) -> Any:
        return self.answerer.processor.tokenizer

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def batch_size(self) -> int:
        return self.arguments.batch_size

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """One lmms_eval.api.instance.GenerationResult per request, in order."""
        results: list[Any] = [None] * len(requests)
        seconds, tokens, failed = 0.0, 0, self.answerer.num_failed
        quiet = self._rank != 0
        with transformers_logging.tqdm(total=len(requests), desc="Model Responding", disable=quiet) as progress:
            for batch in _batches(requests, self.batch_size):
                conversations = {place: self._conversation(requests[place]) for place in batch}
                sound = {place: one for place, one in conversations.items() if one is not None}
                asked, start = requests[batch[0]].args[2], time.perf_counter()
                answers = self.answerer.answer(list(sound.values()), asked) if sound else []
                seconds += time.perf_counter() - start
                given = dict.fromkeys(batch, Answer("")) | dict(zip(sound, answers, strict=True))
                for place, answer in given.items():
                    tokens += answer.num_output or 0
                    results[place] = GenerationResult(answer.text, TokenCounts(answer.num_input, answer.num_output))
                    self.cache_hook.add_partial("generate_until", (requests[place].args[0], asked), answer.text)
                progress.update(len(batch))
        failed = self.answerer.num_failed - failed
        if failed:
            logger.warning("%d of %d prompts failed and were answered by an empty text", failed, len(requests))
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, additional_metrics={"failed": failed})
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        raise NotImplementedError(
            "a task that compares likelihoods was asked of corehead - it generates - choose a generate_until task."
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        raise NotImplementedError(
            "a task of several rounds was asked for - corehead answers one - choose a generate_until task."
        )

    def clean(self) -> None:
        """Free the model; lmms-eval calls it before a judge takes the device."""
        self.__dict__.pop("answerer", None)
        super().clean()

    def _conversation(self, request: Any) -> Conversation | None:
        """A request's prompt; None where it cannot be read and on_error is "empty"."""
        _, doc_to_messages, _, number, task, split = request.args
        name = f"{task}, {split} {number}"
        try:
            messages = doc_to_messages(self.task_dict[task][split][number])
            return read_conversation(messages, name, self.frames, self.arguments.system_prompt)
        # Of a missing video, tasks raise FileNotFoundError or call sys.exit (doc_to_visual of mlvu and videomme).
        except (ValueError, OSError, SystemExit) as error:
            if self.arguments.on_error == "raise":
                raise
            self.answerer.failed(name, error)
            return None


def _own_device(arguments: ModelArguments, accelerator: Any) -> torch.device:
    """Where this process runs its model."""
    own = accelerator.device
    if accelerator.num_processes > 1 and (arguments.device_map is not None or arguments.device not in (None, own.type)):
        raise ValueError(
            f"device={arguments.device!r}, device_map={arguments.device_map!r} were given - there are "
            f"{accelerator.num_processes} processes, each on a device of its own, here {own} - leave them out."
        )
    return own if accelerator.num_processes > 1 else torch.device(arguments.device or own)


def _batches(requests: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Places of requests that are decoded alike, in their order, at most `size` together."""
    alike: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        alike.setdefault(json.dumps(request.args[2], sort_keys=True, default=str), []).append(place)
    for places in alike.values():
        for start in range(0, len(places), size):
            yield places[start : start + size]
