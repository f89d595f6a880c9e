"""corehead reproduce: the paper's tables and figures for one model, in one command that can be killed and run again."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corehead_hf.commands.loading import load_model
from corehead_hf.commands.output import Output
from corehead_hf.commands.tables import printable
from corehead_hf.commands.values import natural, positive

if TYPE_CHECKING:
    from corehead_hf.reproduce import Plan
    from corehead_hf.reproduce.run import Run

HELP = "measure, ablate, answer and time as the paper does, and write its tables and figures beside its values"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("--model", help="Hub id or folder of the model; with --tiny a tiny model's folder (default there: all shipped)")
    add(
        "--data-root",
        type=Path,
        help="folder with refcocog, vidstg, mmdocir, mmlongbench, mlvu, video-mme, any of them",
    )
    add("--out", type=Path, default=Path("reproduction"), help="folder of everything; run again to go on where it was")
    add("--tiny", action="store_true", help="the same road on tiny models and generated Glyphs, offline, on a CPU")
    add("--only", nargs="+", metavar="STEP", help="of maps, key-tokens, ablation, accuracy, latency (default: all)")
    add("--measured", type=positive, help="examples of each data set that are measured (default: 500)")
    add("--observed", type=positive, help="examples of each whose key tokens are looked for (default: 100)")
    add("--answered", type=positive, help="questions of each benchmark (default: all)")
    add("--frames", type=positive, help="frames a video of MLVU and Video-MME is shown as (default: 64)")
    add("--sink", type=natural, help="sink_size of streaming heads, tokens (default: 128)")
    add("--window", type=positive, help="window_size of streaming heads, tokens (default: 2048)")
    add("--batch-size", type=positive, help="examples a forward (default: 1)")
    add("--dtype", default="auto", help="of the weights: auto, bfloat16, float16, float32 (default: auto)")
    add("--device-map", help='"auto" spreads a big model over devices; default: this process\'s device')
    add("--revision", help="the model's commit, branch or tag on the Hub")


def run(arguments: argparse.Namespace) -> Output | None:
    """Do every plan; in the first process where the reports are, and what was left out."""
    from corehead_hf.reproduce import reproduce
    from corehead_hf.reproduce.report import REPORT_NAME

    runs: list[Run] = []
    for plan, folder in _plans(arguments):
        load = partial(load_model, argparse.Namespace(**{**vars(arguments), "model": plan.model}))
        runs.append(reproduce(plan, folder, load, only=arguments.only))
    if not runs[0].is_main:
        return None
    if arguments.only is None and not any(done.maps for done in runs):
        reasons = "; ".join(f"{name}: {why}" for done in runs for name, why in done.missing.items())
        raise ValueError(f"nothing could be reproduced: no data set could be measured; {reasons}")
    lines, data = [], []
    for done in runs:
        report = str(done.folder / REPORT_NAME)
        lines += [report, *(f"  left out: {printable(name)}: {printable(why)}" for name, why in done.missing.items())]
        data.append({"model": done.plan.model, "report": report, "missing": done.missing})
    return Output("\n".join(lines), {"runs": data})


def _plans(arguments: argparse.Namespace) -> list[tuple[Plan, Path]]:
    from corehead_hf.reproduce import paper_plan, tiny_plan

    names = {"measured": "num_measured", "answered": "num_answered"}
    if not arguments.tiny:
        if arguments.model is None or arguments.data_root is None:
            raise ValueError(
                "--model and --data-root are needed: what to reproduce on what; or give --tiny for neither."
            )
        names |= {"observed": "num_observed", "sink": "sink_size", "window": "window_size"}
        names |= {name: name for name in ("frames", "batch_size", "revision")}
        return [(paper_plan(arguments.model, arguments.data_root, **_given(arguments, names)), arguments.out)]
    others = ("data_root", "observed", "sink", "window", "frames", "batch_size", "revision")
    if given := [name for name in others if getattr(arguments, name) is not None]:
        raise ValueError(f"--{given[0].replace('_', '-')} was given beside --tiny, whose plan is fixed; leave it out.")
    return [(tiny_plan(path, **_given(arguments, names)), arguments.out / path.name) for path in _tiny(arguments.model)]


def _given(arguments: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """The options that were given, by the plan's names; the plan knows the defaults."""
    return {
        name: getattr(arguments, option) for option, name in names.items() if getattr(arguments, option) is not None
    }


def _tiny(model: str | None) -> list[Path]:
    from corehead_hf.demo import find_models

    return list(find_models().values()) if model is None else [Path(model)]
