"""What a reproduction does: which data, how much of it, at which settings. As values, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from corehead_hf import paper
from corehead_hf.head_map.fields import model_shape

_TINY_BATCH = 8
# Shares of the heads for models the paper does not report: those of Qwen3-VL-8B.
_SHARES = (20 / 1152, 30 / 1152, 50 / 1152, 100 / 1152, 150 / 1152, 200 / 1152, 250 / 1152)


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        name: what results, files and figures call it.
        loader: its name in corehead_hf.data.load.
        path: folder, or None where the data are generated.
        options: of the loader.
        answered: further options where its examples are answered, not measured: of data that hold both kinds.
    """

    name: str
    loader: str
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    answered: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A reproduction of one model.

    Attributes:
        model: Hub id or folder.
        measured: data sets whose head maps are measured (Figures 4, 5, 6b, 6c); their pooled map ranks the heads.
        ablated: the data set whose answers are scored under ablation (Figure 6a).
        mlvu, video_mme: scored with few heads dense (Tables 2 and 4).
        num_measured: examples a head map is measured on, at most.
        num_observed: further examples of each data set whose key tokens are looked for, at most.
        num_answered: questions of each benchmark, at most; None for all.
        budgets: counts of dense heads, rising.
        ablations: counts of ablated heads, rising.
        seeds: of random heads.
        top: heads of the key token ratio.
        lengths: tokens of the timed prompts (Figure 7).
        sink_size, window_size: tokens of a streaming head.
        batch_size: examples a forward.
    """

    model: str
    measured: tuple[Source, ...]
    ablated: Source
    mlvu: Source
    video_mme: Source
    num_measured: int
    num_observed: int
    num_answered: int | None
    budgets: tuple[int, ...]
    ablations: tuple[int, ...]
    seeds: tuple[int, ...]
    top: int
    lengths: tuple[int, ...]
    sink_size: int = 128
    window_size: int = 2048
    batch_size: int = 1

    @property
    def values(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)


def budgets_of(model: str, total: int) -> tuple[int, ...]:
    """The paper's head budgets for a model of this Hub id; for others the shares it used on Qwen3-VL-8B.

    Args:
        total: query heads of the model, L * Hq.
    """
    known = paper.budgets(paper.short_name(model) or "")
    return known or tuple(sorted({max(1, round(share * total)) for share in _SHARES}))


def paper_plan(
    model: str,
    data_root: str | Path,
    *,
    revision: str | None = None,
    num_measured: int = 500,
    num_observed: int = 100,
    num_answered: int | None = None,
    frames: int = 64,
    sink_size: int = 128,
    window_size: int = 2048,
    batch_size: int = 1,
) -> Plan:
    """The paper's road, on data below one folder: refcocog, vidstg, mmdocir, mmlongbench, mlvu, video-mme.

    The paper states neither its numbers of examples nor its frames a video nor which K of MMLongBench it ablated on;
    those here are arguments, or MMLongBench's shortest (8K), and stand in the plan.

    Args:
        data_root: folder with one subfolder a data set, each as published; see its class in corehead_hf.data.
        frames: a video of MLVU and Video-MME is shown as so many frames.
        num_measured, num_observed, num_answered, sink_size, window_size, batch_size: as in Plan.

    Raises:
        OSError: the model's configuration cannot be had.
    """
    root = Path(data_root).expanduser().resolve()  # data/mlvu would be a Hub id
    shape = model_shape(AutoConfig.from_pretrained(model, **({} if revision is None else {"revision": revision})))
    total = shape["num_layers"] * shape["num_heads"]

    def source(name: str, answered: Mapping[str, Any] | None = None, **options: Any) -> Source:
        return Source(name, name, str(root / name), options, answered or {})

    mmlongbench = source("mmlongbench", {"answering": True}, task="mmlongdoc", length=8)
    return Plan(
        model=model,
        measured=(source("refcocog"), source("vidstg"), source("mmdocir"), mmlongbench),
        ablated=mmlongbench,
        mlvu=source("mlvu", frames=frames),
        video_mme=source("video-mme", frames=frames),
        num_measured=num_measured,
        num_observed=num_observed,
        num_answered=num_answered,
        budgets=budgets_of(model, total),
        ablations=(5, 10, 20, 50, 100),
        seeds=(0, 1, 2),
        top=15,
        lengths=(8192, 16384, 32768, 65536, 131072),
        sink_size=sink_size,
        window_size=window_size,
        batch_size=batch_size,
    )


def tiny_plan(model: str | Path, *, num_measured: int = 16, num_answered: int = 12) -> Plan:
    """The same road on a tiny model and generated Glyphs: layouts stand in for data sets; offline, on a CPU.

    Args:
        model: folder of a tiny model.
        num_measured: examples of each layout.
        num_answered: questions of each benchmark's stand-in.
    """

    def layout(name: str, seed: int, **options: Any) -> Source:
        # Enough for what is measured, whole batches of up to eight processes, and, behind it, observed.
        return Source(
            name, "glyphs", None, {"num_examples": 2 * num_measured + 8 * _TINY_BATCH, "seed": seed, **options}
        )

    return Plan(
        model=str(model),
        measured=(
            layout("3 pages", 777, pages=3),
            layout("5 pages", 778, pages=5),
            layout("8 pages", 779, pages=8),
            layout("8 letters", 780, pages=8, num_letters=8),
        ),
        ablated=layout("8 pages, held out", 4242, pages=8),
        mlvu=layout("8 pages in place of MLVU", 4243, pages=8),
        video_mme=layout("5 pages in place of Video-MME", 4244, pages=5),
        num_measured=num_measured,
        num_observed=num_measured,
        num_answered=num_answered,
        budgets=(1, 2, 4, 8),
        ablations=(1, 2, 5),
        seeds=(0,),
        top=3,
        lengths=(64, 256),
        sink_size=4,
        window_size=16,
        batch_size=_TINY_BATCH,
    )
