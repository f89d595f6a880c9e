"""corehead plot: head maps, saved studies and benchmark rows as figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.loading import add_rule_arguments
from corehead_hf.commands.output import Output, add_format_argument
from corehead_hf.commands.plot_sources import read_map, read_result, read_rows
from corehead_hf.commands.studying import add_subject_arguments, save_figure
from corehead_hf.commands.values import count_or_share, figure_path, named_value, positive, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = "draw head maps, saved studies and benchmark rows"


@dataclass(frozen=True)
class Kind:
    """One KIND of figure.

    Attributes:
        help: what it shows.
        sources: what its SOURCE is called; more than one where it ends in "...".
        draw: (the parsed arguments, corehead_hf.plots) -> the figure.
        options: adds what only this KIND has.
    """

    help: str
    sources: str
    draw: Callable[[argparse.Namespace, Any], Figure]
    options: Callable[[argparse.ArgumentParser], None] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options: a sub-command per KIND."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in KINDS.items():
        one = kinds.add_parser(name, help=kind.help, description=kind.help)
        if kind.sources:
            several = {"nargs": "+"} if kind.sources.endswith("...") else {}
            one.add_argument("source", metavar=kind.sources.removesuffix("..."), **several)  # type: ignore[arg-type]
        if kind.options is not None:
            kind.options(one)
        one.add_argument("--out", type=figure_path, required=True, metavar="FILE", help="a .png, .svg or .pdf")
        one.add_argument("--dpi", type=positive, help="dots per inch of a .png (default: the figure's own)")
        add_format_argument(one, argparse.SUPPRESS)  # also before KIND, whose default must not win


def run(arguments: argparse.Namespace) -> Output:
    """Draw and save."""
    from corehead_hf import plots

    plots.require_matplotlib()
    figure = KINDS[arguments.kind].draw(arguments, plots)
    save_figure(figure, arguments.out, arguments.dpi)
    across, up = figure.get_size_inches().tolist()
    text = f"{arguments.kind}: {across:.1f} x {up:.1f} inches, saved in {arguments.out}"
    return Output(text, {"kind": arguments.kind, "inches": [across, up], "out": str(arguments.out)})


def _heatmap(arguments: argparse.Namespace, plots: Any) -> Figure:
    core = {name: read_map(path, "heatmap") for name, path in _named(arguments.source)}
    vision = [read_map(path, "heatmap") for path in arguments.vision]
    if vision and len(vision) != len(core):
        raise ValueError(f"--vision was given {len(vision)} maps beside {len(core)}; give as many, in the same order.")
    if len(core) == 1 and not vision:
        (head_map,) = core.values()
        return plots.head_heatmap(head_map, mark=head_map.top(arguments.keep))
    return plots.head_heatmaps(core, dict(zip(core, vision, strict=True)) if vision else None, keep=arguments.keep)


def _convergence(arguments: argparse.Namespace, plots: Any) -> Figure:
    maps = {name: read_map(path, "convergence") for name, path in _named(arguments.source)}
    only = next(iter(maps.values())) if len(maps) == 1 else maps
    return plots.convergence_curve(only, until_stable=arguments.until_stable)


def _latency(arguments: argparse.Namespace, plots: Any) -> Figure:
    return plots.latency_curve(read_rows(Path(arguments.source), arguments.where))


def _grid(arguments: argparse.Namespace, plots: Any) -> Figure:
    named = [(name, read_result(Path(path), "grid")) for name, path in _named(arguments.source)]
    return plots.hybrid_grid_curves(named[0][1] if len(named) == 1 else dict(named))


def _overlay(arguments: argparse.Namespace, plots: Any) -> Figure:
    from corehead_hf.commands.overlay import draw_overlay

    return draw_overlay(arguments, plots)


def _study(function: str, *passed_on: str) -> Callable[[argparse.Namespace, Any], Figure]:
    """Draws a saved study with a function of corehead_hf.plots, and options that it takes under the same name."""

    def draw(arguments: argparse.Namespace, plots: Any) -> Figure:
        study = read_result(Path(arguments.source), arguments.kind)
        return getattr(plots, function)(study, **{name: getattr(arguments, name) for name in passed_on})

    return draw


def _named(sources: list[str]) -> list[tuple[str, str]]:
    """NAME=MAP, or MAP under its folder's name."""
    named = [
        source.split("=", 1) if "=" in source and not Path(source).exists() else [Path(source).resolve().name, source]
        for source in sources
    ]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(f"maps named {', '.join(names)} were given; tell them apart as NAME=MAP.")
    return [(name, path) for name, path in named]


def _heatmap_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--vision", nargs="+", default=[], metavar="MAP", help="maps of measure --target visual, below, in their order")
    add("--keep", type=count_or_share, default=0.05, help="top heads to frame, a share or a count (default: 0.05)")


def _convergence_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--until-stable", type=share, metavar="RHO", help="draw the threshold of measure")


def _latency_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "only rows with this value, such as kind=prefill; one kind, model and gpu make one figure"
    add("--where", type=named_value, action="append", default=[], metavar="COLUMN=VALUE", help=text)


def _ablation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", nargs="+", default=["zero"], help="of ablation, a panel each (default: zero)")


def _overlay_options(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser, named=False)
    add_rule_arguments(parser)
    add = parser.add_argument
    add("--example", default="0", metavar="ID|N", help="its id or, where no id is alike, its number (default: 0)")
    add("--heads", type=positive, default=1, help="as many top and bottom heads (default: 1)")
    add("--max-frames", type=positive, default=8, help="frames of a video that are shown (default: 8)")


KINDS = {
    "heatmap": Kind("RAM of every head, maps side by side, CoRe above vision", "MAP...", _heatmap, _heatmap_options),
    "stability": Kind("in how many data sets each head is on top", "RESULT", _study("stability_map")),
    "spearman": Kind("how alike data sets rank the heads", "RESULT", _study("spearman_matrix")),
    "ablation": Kind(
        "accuracy against ablated heads", "RESULT", _study("ablation_curve", "variant"), _ablation_options
    ),
    "key-tokens": Kind("key token ratio and hit rate beside chance", "RESULT", _study("key_token_bars")),
    "coverage": Kind("evidence covered by groups of heads", "RESULT", _study("coverage_curve")),
    "vision-overlap": Kind("CoRe score against vision score of every head", "RESULT", _study("vision_overlap")),
    "keep": Kind("accuracy and speed-up against dense heads", "RESULT", _study("keep_curve")),
    "grid": Kind("accuracy against KV entries read, a panel a sink and model", "RESULT...", _grid),
    "prefill": Kind("time and speed-up of prefills against length", "RESULT", _study("prefill_curve")),
    "latency": Kind("time against length, with the break-even", "CSV", _latency, _latency_options),
    "convergence": Kind("how much rankings still changed", "MAP...", _convergence, _convergence_options),
    "overlay": Kind("where top and bottom heads look in an example", "", _overlay, _overlay_options),
}
