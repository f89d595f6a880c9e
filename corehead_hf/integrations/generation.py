"""How a task's request is decoded, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

MAX_NEW_TOKENS = 1024  # of a task that names no limit, as with lmms-eval's own internvl_hf and llava_hf
HARNESS_STOP = "\n\n"  # lmms-eval's between few-shot examples, which it sets wherever a task names no stop


@dataclass(frozen=True)
class Answer:
    """Generated text, and how many tokens were read and written for it; None where generation failed."""

    text: str
    num_input: int | None = None
    num_output: int | None = None


@dataclass(frozen=True)
class Generation:
    """How one kind of request is decoded.

    Attributes:
        options: of generate().
        stops: texts that end an answer and are no part of it.
        unused: names that were asked for and mean nothing to generate().
    """

    options: dict[str, Any]
    stops: tuple[str, ...]
    unused: tuple[str, ...]

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> Generation:
        """A task's generation_kwargs; sampled where temperature is above 0, as in lmms-eval's own models, else greedy.

        Raises:
            ValueError: until is neither a text nor a list of texts, temperature is no number, or more than one plain
                answer is asked for.
        """
        left = {name: value for name, value in asked.items() if value is not None}
        _check(left)
        until = left.pop("until", ())
        stops = (until,) if isinstance(until, str) else tuple(until)
        left.pop("do_sample", None)
        options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS}
        if left.get("temperature", 0) > 0:
            options["do_sample"] = True
        else:
            # None, or those of the checkpoint's generation_config.json would be warned about.
            options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            left = {name: value for name, value in left.items() if name not in options or name == "max_new_tokens"}
        known = vars(GenerationConfig())
        options |= {name: value for name, value in left.items() if name in known}
        unused = tuple(sorted(name for name in left if name not in known))
        return cls(options, tuple(stop for stop in stops if stop and stop != HARNESS_STOP), unused)

    def cut(self, text: str) -> str:
        """The text before the first stop."""
        ends = [place for place in map(text.find, self.stops) if place >= 0]
        return text[: min(ends, default=len(text))]


def _check(asked: Mapping[str, Any]) -> None:
    """Refuse what generate() would take and answers cannot be read from, or what is of a wrong kind."""
    until, temperature = asked.get("until", ()), asked.get("temperature", 0)
    texts = until if isinstance(until, list | tuple) else [until]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"until={until!r} was asked for - it is what ends an answer - give a text or a list of texts.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} was asked for - it must be a number from 0 - 0 is greedy.")
    for name, only in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        if asked.get(name, only) != only:
            raise ValueError(f"{name}={asked[name]!r} was asked for - a prompt has one answer, a text - leave it out.")
