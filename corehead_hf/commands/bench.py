"""corehead bench: how long a prefill takes, dense and hybrid, against the length of the prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from corehead_hf.commands.loading import add_model_arguments, load_model
from corehead_hf.commands.output import Output
from corehead_hf.commands.studying import add_result_arguments, check_destinations, finished
from corehead_hf.commands.tables import printable, table
from corehead_hf.commands.values import count_or_share, natural, positive

if TYPE_CHECKING:
    from corehead_hf.analysis.prefill_latency import LatencyPoint, PrefillLatency

HELP = "time a model's prefill, dense and hybrid, at several lengths; leave the machine idle"
# As corehead_hf.analysis has them; written here too, so that --help needs no torch.
LENGTHS = (8192, 16384, 32768, 65536, 131072)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--head-map", required=True, metavar="MAP", help="folder or Hub id of the model's head map")
    add(
        "--keep",
        type=count_or_share,
        nargs="+",
        default=[0.05],
        metavar="K",
        help="dense heads, as counts or as shares; each takes its turns (default: 0.05)",
    )
    add(
        "--lengths",
        type=positive,
        nargs="+",
        default=list(LENGTHS),
        metavar="N",
        help="tokens of the prompts, random ids (default: 8192 to 131072)",
    )
    add("--sink", type=natural, default=128, help="sink_size of streaming heads, tokens (default: 128)")
    add("--window", type=positive, default=2048, help="window_size of streaming heads, tokens (default: 2048)")
    add(
        "--dense-below",
        type=_dense_below,
        default=0,
        metavar="N|auto",
        help="shorter prompts run dense; auto: layers that are not estimated to gain do (default: 0)",
    )
    add("--backend", default="auto", metavar="NAME", help="kernels of hybrid attention (default: auto)")
    add("--fuse", action="store_true", help="hybrid prefill also runs fused norms, rotary positions and SiLU")
    add("--repeats", type=positive, default=5, help="timed rounds after two that warm up (default: 5)")
    add("--seed", type=natural, default=0, help="of the token ids (default: 0)")
    add("--resume-from", type=Path, metavar="FILE", help="keep every length's times here, and go on from what is there")
    add_result_arguments(parser)


def run(arguments: argparse.Namespace) -> Output:
    """Time, save and tell."""
    from corehead_hf.analysis.prefill_latency import prefill_latency
    from corehead_hf.head_map import HeadMap

    check_destinations(arguments)
    head_map = HeadMap.from_pretrained(arguments.head_map)
    model, _ = load_model(arguments)
    names = ("lengths", "dense_below", "backend", "fuse", "repeats", "seed", "resume_from")
    study = prefill_latency(
        model,
        head_map,
        keeps=arguments.keep,
        sink_size=arguments.sink,
        window_size=arguments.window,
        **{name: getattr(arguments, name) for name in names},
    )
    return finished(study, arguments, lambda plots: plots.prefill_curve(study), _text(study))


def _text(study: PrefillLatency) -> list[str]:
    header = ["tokens", "dense heads", "layers that stream", "ms, median", "20 %", "80 %", "mean", "speed-up"]
    return [
        f"{printable(study.model)} {study.dtype} on {printable(study.device)}, {study.num_heads} heads in "
        f"{study.num_layers} layers, hybrid attention on {study.backend}{' with fused kernels' if study.fuse else ''}",
        f"text backbone, random token ids, batch 1, {study.repeats} rounds in turns; all other heads see sink "
        f"{study.sink_size} + window {study.window_size}; speed-up: median of the rounds",
        *table(header, [_row(point) for point in study.points]),
    ]


def _row(point: LatencyPoint) -> list[object]:
    heads: list[object] = [point.length, str(point.count) if point.hybrid else "all", point.streaming_layers]
    if point.seconds is None or point.mean is None:
        return [*heads, "out of memory", None, None, None, None]
    spread = (point.seconds.p50, point.seconds.p20, point.seconds.p80, point.mean)
    speedup = None if point.speedup is None or not point.hybrid else f"{point.speedup.p50:.2f}"
    return [*heads, *(f"{1e3 * seconds:.4g}" for seconds in spread), speedup]


def _dense_below(text: str) -> int | str:
    return text if text == "auto" else natural(text)
