"""evaluate: Examples in, a benchmark's accuracy out. Greedy answers of the model as it stands, scored one by one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from corehead_hf.analysis.intervals import check_confidence, require_scipy
from corehead_hf.analysis.passes import warn_if_short
from corehead_hf.data.example import Example
from corehead_hf.evaluation.answering import Answerer
from corehead_hf.evaluation.count import Count
from corehead_hf.evaluation.evaluation import Evaluation
from corehead_hf.evaluation.records import Answer, Answers
from corehead_hf.evaluation.setting import setting_mark, setting_of
from corehead_hf.head_map.fields import public_name
from corehead_hf.measuring.batch import input_device
from corehead_hf.measuring.dealing import deal, process_state
from corehead_hf.measuring.fingerprint import fingerprint
from corehead_hf.measuring.slots import data_options, slots
from corehead_hf.patching import native_model
from corehead_hf.scoring import AVERAGES, MAX_NEW_TOKENS, SCORERS, Average, Scorer

logger = logging.getLogger(__name__)

# Kinds of skipped examples: what on_error is about, and what may be gone by the next run.
_REFUSED = ("no_answer", "refused", "not_scored")
_MENDABLE = ("out_of_memory", "missing_media", "corrupt_media", "frames_out_of_range")
# Arguments of generate that evaluate gives itself.
_OURS = ("max_new_tokens", "do_sample", "num_return_sequences", "return_dict_in_generate")


def evaluate(
    model: Any,
    processor: Any,
    examples: Iterable[Example],
    *,
    dataset: str,
    scorer: Scorer | None = None,
    average: Average | None = None,
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    on_error: str = "skip",
    resume_from: str | Path | None = None,
    generation: Mapping[str, Any] | None = None,
    on_answer: Callable[[Answer], None] | None = None,
    confidence: float = 0.95,
) -> Evaluation:
    """Let a model answer a benchmark's questions, greedily, and score what it says as the benchmark does.

    The model runs as it stands: turn hybrid prefill on, or enter ablate_heads, before. Under torchrun or accelerate
    launch the batches are dealt out to the processes and every process returns the evaluation. The same device, threads
    and batches give the same answers, whatever the number of processes and interruptions.

    Args:
        model: a CoRe-wrapped model.
        processor: its processor; see load_processor.
        examples: any iterable, the same in every process; consecutive ones share a left-padded batch. Of a data set
            from corehead_hf.data.load only what is still to be answered is decoded, and its own on_error says what a
            broken row or a missing video does: "skip" leaves it out, counted.
        dataset: a name of corehead_hf.scoring.SCORERS, or with scorer any name; kept in the result.
        scorer: (generated text, Example) -> Scored; None takes the data set's. A fingerprint knows it by its name only.
        average: how scores are grouped and averaged; None takes the data set's, with a scorer the mean over examples.
        batch_size: examples a generation.
        max_new_tokens: of an answer; None takes the data set's, with a scorer that of "jsonl".
        on_error: what an example does that cannot be answered or scored: "raise", or "skip" it, logged and counted. Out
            of memory never raises: the batch is answered one by one, and an example that still fails is skipped.
        resume_from: a folder where every answer is kept as soon as it is known; a run that was killed goes on from
            there. Read the folder with read_answers.
        generation: further arguments of generate, JSON values, such as {"num_beams": 4}.
        on_answer: called with every Answer in the order of the data, in every process; also with skipped ones.
        confidence: of the intervals.

    Raises:
        ValueError: nothing was answered, an id that stands twice, an unknown data set, a mode is on that no evaluation
            can have, an argument is out of range, or a resume_from that holds another configuration or other data
                (pictures and videos are not compared), or with on_error="raise" examples that were skipped.
        ImportError: scipy is missing.
    """
    if scorer is None and dataset not in SCORERS:
        raise ValueError(
            f"dataset={dataset!r} was given without a scorer; scorers are known of {', '.join(SCORERS)}. Give scorer=."
        )
    if average is None:
        average = AVERAGES[dataset] if scorer is None else Average()
    if max_new_tokens is None:
        max_new_tokens = MAX_NEW_TOKENS[dataset] if scorer is None else MAX_NEW_TOKENS["jsonl"]
    scorer = scorer or SCORERS[dataset]
    _check_arguments(batch_size, max_new_tokens, on_error, confidence)
    native, state, setting = native_model(model), process_state(), setting_of(model)
    options = _options(native, processor, max_new_tokens, generation)
    keeping: AbstractContextManager[Answers | None] = nullcontext()
    if resume_from is not None:
        settings = {"dataset": dataset, "scorer": _name(scorer), "batch_size": batch_size, "generation": options}
        settings |= {"generation_config": _digest(native.generation_config), **setting_mark(model)}
        settings |= {"average": str(average), **data_options(examples)}
        kept_answers = Answers(resume_from, fingerprint(native, processor, input_device(native), **settings))
        _tell_skipped(kept_answers.skipped, resume_from, on_error, state.is_main_process)
        keeping = closing(kept_answers)
    answerer = Answerer(model, processor, scorer, average, on_error, options)
    count = Count(examples, state.is_main_process)
    with keeping as kept, _progress(examples, state.is_main_process) as progress:
        for answer in deal(slots(examples), batch_size, answerer.answers, kept, state):
            progress.update(1)
            if on_answer is not None:
                on_answer(answer)
            if count.add(answer):
                break
    about: dict[str, Any] = {
        "model": public_name(native.config._name_or_path) or type(native).__name__,
        "dataset": dataset,
    }
    about |= {"setting": setting, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    found = Evaluation.of(count.finished(dataset), average, scorer, confidence, **about)
    for window in setting.windows if state.is_main_process else ():
        warn_if_short("answered", found.longest_prompt, window)
    return found


def _check_arguments(batch_size: int, max_new_tokens: int, on_error: str, confidence: float) -> None:
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name}={value} was asked; it must be at least 1.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r} was given; it is 'raise' or 'skip'.")
    check_confidence(confidence)
    require_scipy()  # now, not when a long run is over


def _options(native: Any, processor: Any, max_new_tokens: int, generation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of generate: greedy, without the settings of sampling that a checkpoint may bring along."""
    generation = dict(generation or {})
    if ours := [name for name in generation if name in _OURS]:
        raise ValueError(
            f"generation={generation} was given; {', '.join(ours)} is not a matter of it: answers are greedy, one an "
            "example, and their length is max_new_tokens."
        )
    try:
        json.dumps(generation, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"generation={generation} was given; its values must be JSON values.") from None
    options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": max_new_tokens}
    if native.generation_config.pad_token_id is None:
        options["pad_token_id"] = processor.tokenizer.pad_token_id
    return {**options, **generation}


def _digest(generation_config: Any) -> str:
    """Hash of the checkpoint's defaults, which may hold a repetition penalty or the end of a turn."""
    text = json.dumps(generation_config.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _tell_skipped(skipped: Counter[str], folder: str | Path, on_error: str, is_main: bool) -> None:
    """Say what an earlier run left out that this one would not have to, but does not try again.

    Args:
        skipped: of the examples kept in the folder.
    """
    refused = {kind: count for kind, count in skipped.items() if kind in _REFUSED}
    if refused and on_error == "raise":
        raise ValueError(
            f"on_error='raise' was asked - {folder} holds examples that were skipped: {refused} - take their lines "
            "out, or begin in another folder."
        )
    again = refused | {kind: count for kind, count in skipped.items() if kind in _MENDABLE}
    if again and is_main:
        advice = "take their lines out to have them tried"
        logger.warning("%s holds skipped examples, which are not tried again: %s; %s.", folder, again, advice)


def _name(scorer: Scorer) -> str:
    return f"{scorer.__module__}.{getattr(scorer, '__qualname__', type(scorer).__qualname__)}"


@contextmanager
def _progress(examples: Iterable[Example], shown: bool) -> Iterator[Any]:
    known = len(examples) if isinstance(examples, Sized) else getattr(examples, "limit", None)
    options: dict[str, Any] = {} if shown else {"disable": True}
    with transformers_logging.tqdm(total=known, desc="answering", unit="example", **options) as progress:
        yield progress
