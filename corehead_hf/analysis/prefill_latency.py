"""How long a prefill takes, dense and hybrid, against the length of the prompt (Fig. 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from corehead_hf.analysis.backbone_timing import OUT_OF_MEMORY, Case, random_ids, seconds_in_turns
from corehead_hf.analysis.journal import Journal
from corehead_hf.analysis.keeps import dense_counts
from corehead_hf.analysis.passes import check_subject, ranking_mark, warn_if_short
from corehead_hf.analysis.result import Result, data_frame
from corehead_hf.analysis.timing import Quantiles, quantiles
from corehead_hf.head_map import HeadMap
from corehead_hf.kernels.trial import WARM_UPS
from corehead_hf.measuring.batch import input_device
from corehead_hf.measuring.fingerprint import fingerprint
from corehead_hf.patching import native_model

if TYPE_CHECKING:
    from pandas import DataFrame

LENGTHS = (8192, 16384, 32768, 65536, 131072)  # the paper's


@dataclass(frozen=True)
class LatencyPoint:
    """Prefill of one length, dense or with some heads dense.

    Attributes:
        length: tokens.
        hybrid: False of dense prefill, the model as it came.
        keep: the share that was asked for; of a count, its share; 1 of dense prefill.
        count: of dense heads.
        streaming_layers: layers in which a head streams at this length.
        seconds: of a prefill; None where it ran out of memory.
        mean: of the same; None where it ran out of memory.
        speedup: seconds of the dense prefill over these, paired by round; above 1 = faster. None where one of the two
            ran out of memory.
    """

    length: int
    hybrid: bool
    keep: float
    count: int
    streaming_layers: int
    seconds: Quantiles | None
    mean: float | None
    speedup: Quantiles | None


@dataclass(frozen=True, kw_only=True)
class PrefillLatency(Result):
    """Time of a prefill against its length.

    Attributes:
        model: its name.
        device, dtype: that it ran on and in.
        num_layers, num_heads: L, and L * Hq.
        sink_size, window_size: tokens of a streaming head.
        dense_below: as asked for; None is "auto".
        backend: kernels that hybrid attention ran on.
        fuse: whether hybrid prefill ran fused kernels besides.
        repeats: timed rounds.
        points: by length, the dense prefill first, then by count.
    """

    kind: ClassVar[str] = "prefill_latency"

    model: str
    device: str
    dtype: str
    num_layers: int
    num_heads: int
    sink_size: int
    window_size: int
    dense_below: int | None
    backend: str
    fuse: bool
    repeats: int
    points: tuple[LatencyPoint, ...]

    def to_pandas(self) -> DataFrame:
        """One row a point, with the columns of benchmarks/results; NaN where it ran out of memory."""
        nan, rows = float("nan"), self.points
        columns: dict[str, Any] = {"kind": "prefill", "model": self.model, "gpu": self.device, "dtype": self.dtype}
        columns |= {"provider": ["hybrid" if point.hybrid else "dense" for point in rows]}
        columns |= {"n": [point.length for point in rows], "keep": [point.count / self.num_heads for point in rows]}
        for name, size in (("sink", self.sink_size), ("window", self.window_size)):
            columns[name] = [float(size) if point.hybrid else nan for point in rows]
        for name in ("p20", "p50", "p80"):
            columns[f"{name}_ms"] = [1e3 * getattr(point.seconds, name, nan) for point in rows]
        columns["mean_ms"] = [nan if point.mean is None else 1e3 * point.mean for point in rows]
        for name in ("p20", "p50", "p80"):
            columns[f"speedup_{name}"] = [getattr(point.speedup, name, nan) for point in rows]
        columns |= {name: [getattr(point, name) for point in rows] for name in ("count", "streaming_layers")}
        return data_frame(columns)


def prefill_latency(
    model: Any,
    head_map: HeadMap,
    *,
    keeps: Sequence[float | int],
    lengths: Sequence[int] = LENGTHS,
    sink_size: int = 128,
    window_size: int = 2048,
    dense_below: int | Literal["auto"] = 0,
    backend: str = "auto",
    fuse: bool = False,
    repeats: int = 5,
    seed: int = 0,
    resume_from: str | Path | None = None,
) -> PrefillLatency:
    """Time prefills of random token ids, dense and with a few heads dense, at several lengths.

    The paper's protocol (Fig. 7): batch 1, the text backbone alone, two rounds that warm up, CUDA events. The model is
    called as generate() calls it: the KV cache is written, logits are those of the last token. In every round the dense
    prefill and all hybrid ones take their turns, in alternating order, and a speed-up is taken within a round. Dense
    attention is torch's fastest on the device for both, where the model runs on "sdpa"; on Hopper that is not what
    torch takes by itself. What runs out of memory is logged and left out; the rest goes on. Leave the machine idle.

    Args:
        model: a CoRe-wrapped model with no mode on; it is given back so.
        head_map: ranks its heads.
        keeps: dense heads as in HeadMap.top: shares as floats, counts as ints.
        lengths: tokens of the prompts; also beyond what the model was trained on, which changes no time.
        sink_size, window_size, dense_below, backend, fuse: of hybrid prefill, as in enable_hybrid. dense_below=0
            streams at any length beyond the window, "auto" only in layers that are estimated to gain.
        repeats: timed rounds.
        seed: of the token ids.
        resume_from: a file that keeps the times of each length as soon as they are known; a study that was killed goes
            on from there. What ran out of memory is not tried again.

    Raises:
        ValueError: an argument is out of range, the head map is another model's, a mode is on, or resume_from holds
            another study.
    """
    native = native_model(model)
    check_subject("prefill_latency", model, head_map)
    _check(lengths, repeats)
    asked: dict[str, Any] = {"sink_size": sink_size, "window_size": window_size, "dense_below": dense_below}
    asked |= {"backend": backend, "fuse": fuse}
    cases = [Case(1.0, head_map.scores.numel())]
    for count, keep in dense_counts(head_map, keeps).items():
        cases.append(Case(keep, count, {"heads": head_map.top(count), **asked}))
    lengths, device = sorted(set(lengths)), input_device(native)
    streaming, resolved = _streaming_layers(model, cases, lengths)
    warn_if_short("timed", lengths[-1], window_size)
    mark: dict[str, Any] = {}
    if resume_from is not None:
        settings = {**asked, "backend": resolved, "seed": seed}
        ranked = ranking_mark(head_map)
        mark = fingerprint(native, None, device, study="prefill_latency", head_map=ranked, **settings)
    with closing(Journal(resume_from, mark)) as journal:
        seconds = _timed(journal, model, cases, lengths, repeats, seed)
    points = (_points(length, cases, seconds[length], streaming[length]) for length in lengths)
    return PrefillLatency(
        model=head_map.base_model_name_or_path,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(native.dtype).removeprefix("torch."),
        num_layers=head_map.num_layers,
        num_heads=head_map.scores.numel(),
        repeats=repeats,
        points=tuple(point for of_length in points for point in of_length),
        **{**asked, "backend": resolved, "dense_below": None if dense_below == "auto" else dense_below},
    )


def _timed(
    journal: Journal, model: Any, cases: Sequence[Case], lengths: Sequence[int], repeats: int, seed: int
) -> dict[int, np.ndarray]:
    """Seconds by length, float64 [cases, repeats], from the journal or measured now."""
    native, found = native_model(model), {}
    rounds = len(cases) * (WARM_UPS + repeats)
    with transformers_logging.tqdm(total=len(lengths) * rounds, desc="prefill latency", unit="prefill") as progress:
        for length in lengths:
            key = {"length": length, "keep": [case.count for case in cases[1:]], "repeats": repeats}
            seconds = journal.get(key)
            if seconds is None:
                ids = random_ids(native, length, seed).to(input_device(native))
                seconds = seconds_in_turns(model, ids, cases, repeats, progress)
                journal.append(key, seconds)
            else:
                progress.update(rounds)
            found[length] = seconds
    return found


def _check(lengths: Sequence[int], repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"repeats={repeats} was asked for - a timing needs rounds - give at least 1.")
    if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in lengths):
        raise ValueError(
            f"lengths={lengths!r} was asked for - a prefill has 2 tokens or more - give lengths=(8192, 16384), say."
        )


def _streaming_layers(model: Any, cases: Sequence[Case], lengths: Sequence[int]) -> tuple[dict[int, list[int]], str]:
    """By length, in how many layers each case streams; and the backend. Refuses settings before anything is timed."""
    found: dict[int, list[int]] = {length: [] for length in lengths}
    backend = ""
    for case in cases:
        with case.on(model):
            mode, backend = model.hybrid, model.hybrid_backend or backend
            for length, layers in found.items():
                layers.append(0 if mode is None else sum(not dense for dense in mode.dense_layers(length, 0)))
    return found, backend


def _points(
    length: int, cases: Sequence[Case], seconds: np.ndarray, streaming: Sequence[int]
) -> Iterator[LatencyPoint]:
    for case, took, layers in zip(cases, seconds, streaming, strict=True):
        has_run, is_paired = took[0] != OUT_OF_MEMORY, OUT_OF_MEMORY not in (took[0], seconds[0, 0])
        yield LatencyPoint(
            length=length,
            hybrid=case.settings is not None,
            keep=case.keep,
            count=case.count,
            streaming_layers=layers,
            seconds=quantiles(took) if has_run else None,
            mean=float(took.mean()) if has_run else None,
            speedup=quantiles(seconds[0] / took) if is_paired else None,
        )
