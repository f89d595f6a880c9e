"""A reproduction under way: its plan, its folder, its model, and what could not be done."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from corehead_hf.analysis import Result
from corehead_hf.analysis.passes import scores_digest
from corehead_hf.data import ExampleSet, load
from corehead_hf.head_map import HeadMap
from corehead_hf.measuring.batch import input_device
from corehead_hf.measuring.dealing import process_state
from corehead_hf.measuring.fingerprint import OtherConfiguration, differences, fingerprint
from corehead_hf.patching import native_model
from corehead_hf.reproduce.plan import Plan, Source

logger = logging.getLogger(__name__)

PLAN_NAME, MODEL_NAME = "plan.json", "model.json"


class Run:
    """What the steps share.

    Args:
        plan: what is to be done.
        folder: of everything that is made; a run that was killed goes on there.
        load_model: gives the CoRe-wrapped model and its processor; called once, when a step needs them.

    Attributes:
        missing: what could not be done -> why, in the order it was found.
        maps, vision_maps: head maps by data set, those measured or read so far.

    Raises:
        ValueError: the folder holds the run of another plan.
    """

    def __init__(self, plan: Plan, folder: str | Path, load_model: Callable[[], tuple[Any, Any]]) -> None:
        self.plan, self.folder, self._load_model = plan, Path(folder), load_model
        self.state = process_state()
        self.missing: dict[str, str] = {}
        self.maps: dict[str, HeadMap] = {}
        self.vision_maps: dict[str, HeadMap] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.state.main_process_first():
            _claim(self.folder / PLAN_NAME, plan.values, "the run of another plan")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Raises RuntimeError, which no part of a step takes for missing data; OtherConfiguration of another model."""
        try:
            model, processor = self._load_model()
        except (ValueError, OSError, ImportError) as error:
            raise RuntimeError(f"the model {self.plan.model!r} could not be loaded: {error}") from error
        native = native_model(model)
        if self.is_main:  # which may be alone by now: nobody waits
            now = fingerprint(native, processor, input_device(native))
            _claim(self.folder / MODEL_NAME, now, "what another model, or the same one loaded otherwise, gave")
        return model, processor

    @property
    def model(self) -> Any:
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        return self._loaded[1]

    @property
    def is_main(self) -> bool:
        """Whether this process writes results."""
        return self.state.is_main_process

    @cached_property
    def head_map(self) -> HeadMap:
        """The ranking: the pooled map of all measured data sets, every example counting once.

        Raises:
            ValueError: none was measured.
        """
        if not self.maps:
            raise ValueError("the ranking of the heads was needed - no data set could be measured - see the reasons.")
        return HeadMap.merge(list(self.maps.values()))

    @cached_property
    def mark(self) -> str:
        """The folder of results and answers: they are of one ranking, and data that come later make another."""
        return scores_digest(self.head_map)[:8]

    def examples(self, source: Source, limit: int | None = None, answered: bool = False) -> ExampleSet:
        """A data set's examples; wrong rows, and media that are missing or broken, are skipped and counted."""
        options = {**source.options, **(source.answered if answered else {})}
        return load(source.loader, source.path, on_error="skip", limit=limit, **options)

    def place(self, *parts: str) -> Path:
        """A path in the folder, its parts made of letters, digits and dashes, a suffix kept."""
        return self.folder.joinpath(*(re.sub(r"[^\w.]+", "-", part.lower()).strip("-") for part in parts))

    def save(self, result: Result, name: str) -> None:
        """Keep a study's result."""
        path = self.place("results", self.mark, f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        result.save(path)

    def saved(self, name: str) -> Any:
        """A study's result, or None where it was not made yet."""
        path = self.place("results", self.mark, f"{name}.json")
        return Result.load(path) if path.exists() else None

    def draw(self, figure: Any, name: str) -> None:
        """Keep a figure."""
        path = self.place("figures", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Do a part of a step; where its data are missing or hold nothing, say so, keep the reason, and go on."""
        logger.info("%s", name)
        try:
            yield
        except OtherConfiguration:
            raise
        except (ValueError, OSError, ImportError) as error:
            self.missing[name] = str(error)
            logger.warning("%s was left out: %s", name, error)


def _claim(path: Path, values: dict[str, Any], what: str) -> None:
    """Keep values in the folder, whole or not at all; refuse a folder that holds others."""
    now = json.loads(json.dumps(values))
    if not path.exists():
        partial = path.with_name(f"{path.name}.part")
        partial.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"{path} was not written by corehead reproduce, or is damaged; give another folder.")
    if differing := differences(kept, now):
        raise OtherConfiguration(
            f"{path.parent} holds {what}: {'; '.join(differing)}. Results of both would not mix; go "
            "on with the settings it was begun with, or give another folder."
        )
