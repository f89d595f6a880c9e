"""measure: Examples in, head map out. One prefill a batch, question rows only, exact sums over the examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from corehead_hf.data.example import Example
from corehead_hf.families import family_of
from corehead_hf.families.geometry import view_rule
from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.fields import check_provenance, model_shape, public_name
from corehead_hf.measuring.batch import BatchReader, input_device
from corehead_hf.measuring.dealing import deal, process_state
from corehead_hf.measuring.fingerprint import fingerprint, package_versions
from corehead_hf.measuring.shards import Shards
from corehead_hf.measuring.slots import data_options, slots
from corehead_hf.measuring.tally import Tally
from corehead_hf.patching import native_model

TARGETS = ("evidence", "visual")


def measure(
    model: Any,
    processor: Any,
    examples: Iterable[Example],
    *,
    dataset: str,
    base_model: str | None = None,
    base_model_revision: str | None = None,
    batch_size: int = 8,
    views: str = "all",
    min_coverage: float = 0.0,
    on_error: str = "raise",
    resume_from: str | Path | None = None,
    keep_rows: bool = False,
    until_stable: float | None = None,
    target: str = "evidence",
) -> HeadMap:
    """Rank a model's heads by Retrieval Attention Mass over annotated examples (Algorithm 1).

    Under torchrun or accelerate launch the batches are dealt out to the processes and every process returns the map.
    The same device, threads and batches give the same bits, whatever the number of processes and interruptions.

    Args:
        model: a CoRe-wrapped model.
        processor: its processor; see load_processor.
        examples: any iterable, the same in every process; consecutive ones share a left-padded batch. Of a data set
            from corehead_hf.data.load only what is still to be measured is decoded.
        dataset: a name for the data, kept in the head map.
        base_model: the model's Hub id or name, kept in the head map; None takes where it was loaded from.
        base_model_revision: the commit the weights came from, kept in the head map; None for a local model.
        batch_size: examples a prefill.
        views, min_coverage: which visual tokens count as evidence, see Family.prepare; kept in the head map.
        on_error: what an example does that cannot be mapped or measured: "raise", or "skip" it, logged and counted.
            Out of memory never raises: the batch is measured one by one, and an example that still fails is skipped.
        resume_from: a folder where every outcome is kept as soon as it is known; a run that was killed goes on from
            there. An example is known by its place and id: give a changed one another id. Read the folder with
            corehead_hf.measuring.read_measured: RAM [L, Hq] of every example, reasons of skips.
        keep_rows: also keep each example's question-averaged rows there, 4 * L * Hq * S bytes an example: 0.5 GB for
            1152 heads and 100K tokens.
        until_stable: stop once Spearman's rho between the ranking so far and that of the first half of the examples is
            at least this at three checks in a row; see corehead_hf.measuring.convergence for when one is due.
        target: what attention is summed on: "evidence", for RAM, or "visual", all visual tokens of the example,
            newline tokens included: the vision-head score of §4.2, which the map then holds in place of RAM, with the
            chance level that goes with it; kept in the head map as its view_rule.

    Returns:
        HeadMap of the mean RAM per head, with its standard deviation over examples, the chance level, the number of
        examples skipped, and the convergence curve.

    Raises:
        ValueError: no examples that can be measured, an id that stands twice, a model without a name (built from a
            configuration) and no base_model, an example that the family cannot map, an argument out of range, or a
            resume_from that holds another configuration or other data.
    """
    _check_arguments(batch_size, on_error, keep_rows, resume_from)
    _check_target(target, views, min_coverage)
    native = native_model(model)
    about: dict[str, Any] = {
        "base_model_name_or_path": public_name(native.config._name_or_path) if base_model is None else base_model,
        "base_model_revision": base_model_revision,
        "dataset": dataset,
        "question_rule": family_of(native).question_rule,
        "view_rule": view_rule(views, min_coverage, target),
    }
    state, shape, versions = process_state(), model_shape(native.config), package_versions()
    # Now, not when a long run is over.
    check_provenance({**about, **shape, "num_examples": 1, "versions": versions})
    tally = Tally(shape["num_layers"], shape["num_heads"], until_stable, examples, state.is_main_process)
    keeping: AbstractContextManager[Shards | None] = nullcontext()
    if resume_from is not None:
        settings = {**about, "batch_size": batch_size, "keep_rows": keep_rows, **data_options(examples)}
        with state.main_process_first():
            mark = fingerprint(native, processor, input_device(native), **settings)
            keeping = closing(Shards(resume_from, mark))
    reader = BatchReader(model, processor, views, min_coverage, on_error, keep_rows, target)
    with keeping as shards, _progress(examples, state.is_main_process) as progress:
        for outcome in deal(slots(examples), batch_size, reader.outcomes, shards, state):
            progress.update(1)
            if tally.add(outcome):
                break
    return HeadMap(**about, **shape, **tally.fields(dataset), versions=versions)


def _check_arguments(batch_size: int, on_error: str, keep_rows: bool, resume_from: str | Path | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} was asked; it must be at least 1.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r} was given; it is 'raise' or 'skip'.")
    if keep_rows and resume_from is None:
        raise ValueError("keep_rows=True was asked without a folder to keep them in; give resume_from.")


def _check_target(target: str, views: str, min_coverage: float) -> None:
    if target not in TARGETS:
        raise ValueError(f"target={target!r} was given; it is one of {', '.join(TARGETS)}.")
    if target == "visual" and (views != "all" or min_coverage):
        raise ValueError(
            f"target='visual' was given with views={views!r} and min_coverage={min_coverage}; these choose among the "
            "tokens that show evidence, and all visual tokens count here. Leave them out."
        )


@contextmanager
def _progress(examples: Iterable[Example], shown: bool) -> Iterator[Any]:
    known = len(examples) if isinstance(examples, Sized) else getattr(examples, "limit", None)
    options: dict[str, Any] = {} if shown else {"disable": True}
    with transformers_logging.tqdm(total=known, desc="measuring RAM", unit="example", **options) as progress:
        yield progress
