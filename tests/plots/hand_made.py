"""Results as the studies give them, made by hand: small ones, and large ones of the paper's sizes."""

import numpy as np
import torch

from corehead_hf import Evidence, Example, HeadMap, Video
from corehead_hf.analysis.ablation import AblationCurve, AblationPoint
from corehead_hf.analysis.attention_cost import Cost
from corehead_hf.analysis.hybrid_grid import GridPoint, HybridGrid
from corehead_hf.analysis.intervals import Estimate
from corehead_hf.analysis.keep_sweep import KeepPoint, KeepSweep
from corehead_hf.analysis.key_tokens import KeyTokenStudy
from corehead_hf.analysis.prefill_latency import LatencyPoint, PrefillLatency
from corehead_hf.analysis.stability import Stability
from corehead_hf.analysis.timing import Quantiles
from corehead_hf.analysis.vision_heads import VisionHeads
from corehead_hf.families import Prepared
from corehead_hf.families.geometry import VISUAL_RULE, concatenate, grid

SHORT = {"model": "tiny", "dataset": "hand"}
LONG = {
    "model": "an-organisation-with-a-name/Qwen3-VL-235B-A22B-Instruct-FP8-finetuned-on-receipts-and-invoices-v2",
    "dataset": "/data/annotated/MMLongBench-DocQA_with_every_page_and_a_rather_long_name_2026-11-21.jsonl",
}
LONG_NAMES = ("RefCOCOg_validation_umd_split_boxes", "VidSTG", "MMDocIR/MMDocIR_Evaluation_Dataset", "問題$1_$2")


def estimate(value, margin=0.0, top=1.0):
    """Not symmetric, so that its ends cannot be mistaken for one another."""
    return Estimate(value, max(0.0, value - margin), min(top, value + 1.5 * margin))


def head_map(scores, names=SHORT, examples=5, **changes):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    layers, heads = scores.shape
    fields = {
        "scores": scores, "count": torch.full((layers,), examples), "spread": torch.zeros(layers, heads),
        "base_model_name_or_path": names["model"], "base_model_revision": None, "model_type": "qwen3_vl",
        "num_layers": layers, "num_heads": heads, "num_kv_heads": 1, "head_dim": 8, "dataset": names["dataset"],
        "num_examples": examples, "question_rule": "all", "view_rule": "all",
        "versions": dict.fromkeys(("torch", "transformers", "corehead_hf"), "1"),
    }  # fmt: skip
    return HeadMap(**fields | changes)


def scores(layers=36, heads=32, seed=0, sharpness=3.0):
    """float64 [L, Hq]: few heads near 0.5, most near 0, the middle layers ahead, as in real models."""
    random = np.random.default_rng(seed)
    depth = np.exp(-(((np.arange(layers) / layers - 0.6) / 0.2) ** 2))[:, None]
    return 0.55 * random.random((layers, heads)) ** (sharpness * 4) * (0.15 + depth) / 1.15


def large_map(names=SHORT, seed=0, layers=36, heads=32, **changes):
    return head_map(scores(layers, heads, seed), names, 500, **changes)


def vision_map(names=SHORT, seed=1, layers=36, heads=32):
    values = 0.9 * np.random.default_rng(seed).beta(1.2, 3, (layers, heads))
    return head_map(values, names, 500, view_rule=VISUAL_RULE)


def stability(names=("a", "b"), layers=2, heads=4, intervals=True, seed=0, share=0.25, model="owner/tiny"):
    """Masks at random, more alike than by chance; counts, universal heads and chance follow from them."""
    random, most = np.random.default_rng(seed), len(names)
    common = random.random((layers, heads))
    values = np.stack([0.7 * common + 0.3 * random.random((layers, heads)) for _ in names]) ** 6
    thresholds = np.percentile(values.reshape(most, -1), 100 * (1 - share), axis=1)
    masks = values >= thresholds[:, None, None]
    counts = masks.sum(axis=0)
    spearman = np.corrcoef(values.reshape(most, -1))
    return Stability(
        model=model, names=tuple(names), num_examples=(64,) * most, share=share, scores=values, spearman=spearman,
        spearman_low=spearman - 0.05 if intervals else None,
        spearman_high=np.minimum(spearman + 0.04, 1) if intervals else None,
        thresholds=thresholds, masks=masks, counts=counts,
        universal=tuple(map(tuple, np.argwhere(counts == most).tolist())),
        universal_low=1 if intervals else None, universal_high=3 if intervals else None,
        frequency=counts / most if intervals else None,
        chance=float(counts.size * np.prod(masks.reshape(most, -1).mean(axis=1))),
    )  # fmt: skip


def ablation(names=SHORT, counts=(1, 2), variants=("zero",), dense=0.9, steep=0.4, chance=0.25, num_heads=20):
    """Accuracy falls with ablated top heads, stays with the others; two seeds a random group."""
    points = []
    for variant in variants:
        for count in counts:
            fallen = chance + (dense - chance) * np.exp(-steep * count)
            for group, value, seeds in (
                ("top", fallen, (None,)),
                ("bottom", dense - 0.01, (None,)),
                ("random", dense - 0.03, (0, 1)),
                ("layer_matched", dense - 0.06, (0, 1)),
            ):
                for seed in seeds:
                    found = estimate(value - 0.04 * (seed or 0), 0.03)
                    points.append(AblationPoint(variant, group, count, seed, found, estimate(dense - found.value)))
    return AblationCurve(
        **names, num_heads=num_heads, num_examples=200, dense=estimate(dense, 0.03), chance=chance,
        points=tuple(points),
    )  # fmt: skip


def keep_sweep(names=SHORT, timed=True, device="NVIDIA H200", num_heads=1152):
    shares = (0.017, 0.026, 0.043, 0.087, 0.13, 0.174, 0.217)
    points = []
    for i, share in enumerate(shares):
        accuracy, speed = estimate(0.66 - 0.03 * 0.5**i, 0.02), 2.4 - 0.09 * i
        times = Quantiles(1.9 / speed, 2 / speed, 2.1 / speed), Quantiles(speed - 0.1, speed, speed + 0.15)
        took, speedup = times if timed else (None, None)
        count = round(share * num_heads)
        points.append(KeepPoint(share, count, share, accuracy, estimate(0.0), took, speedup))
    return KeepSweep(
        **names, device=device, num_heads=num_heads, num_examples=1000, sink_size=128, window_size=2048,
        num_tokens=65536 if timed else None, dense=estimate(0.658, 0.02),
        dense_seconds=Quantiles(1.9, 2.0, 2.1) if timed else None, chance=0.25, points=tuple(points),
    )  # fmt: skip


def hybrid_grid(names=SHORT, sinks=(0, 128), windows=(512, 1024, 2048), counts=(20, 50, 100, 250), num_heads=1152):
    """Accuracy rises with dense heads and the window; prompts of 16K to 64K tokens."""
    points = []
    for sink in sinks:
        for window in windows:
            for count in counts:
                share = count / num_heads
                flops = share + (1 - share) * (sink + window) / 16384
                cost = Cost(min(1.0, 1.3 * flops), 1e14 * flops, flops)
                value = 0.3 + (0.3 - 0.25 * 0.98**count) * window / (window + 100) - (0.1 if sink == 0 else 0)
                found = estimate(value, 0.02)
                points.append(GridPoint(share, count, sink, window, found, estimate(0.66 - value), cost))
    return HybridGrid(
        **names, num_heads=num_heads, num_examples=1000, shortest=16384, longest=65536, mean_tokens=32768.5,
        dense=estimate(0.658, 0.02), dense_flops=1e14, chance=0.25, points=tuple(points),
    )  # fmt: skip


def prefill_latency(
    names=SHORT, lengths=(8192, 16384, 32768, 65536, 131072), counts=(20, 100, 250), lost=(), device="NVIDIA H200"
):
    """Seconds with few dense heads linear in the length, dense ones square; `lost` are (length, count)."""
    points, num_heads = [], 1152
    for n in lengths:
        for count in (num_heads, *counts):
            share, speed = count / num_heads, (1 + n / 3e4) / (1 + count / num_heads * n / 3e4)
            seconds, speedup = (
                Quantiles(0.95 / speed, 1 / speed, 1.1 / speed),
                Quantiles(speed - 0.05, speed, speed + 0.1),
            )
            gone = (n, count) in lost
            points.append(
                LatencyPoint(
                    n,
                    count < num_heads,
                    share,
                    count,
                    36 if count < num_heads else 0,
                    None if gone else seconds,
                    None if gone else 1.02 / speed,
                    None if gone or (n, num_heads) in lost else speedup,
                )
            )
    return PrefillLatency(
        model=names["model"], device=device, dtype="bfloat16", num_layers=36, num_heads=num_heads, sink_size=128,
        window_size=2048, dense_below=0, backend="triton", fuse=False, repeats=5, points=tuple(points),
    )  # fmt: skip


def key_tokens(names=SHORT, sizes=(1, 2, 5, 10, 15, 20, 30, 50, 75, 100)):
    reach = {"top": 0.25, "random": 0.06, "bottom": 0.02}
    coverage = {
        group: tuple(estimate(1 - (1 - p) ** (size**0.6), 0.02) for size in sizes) for group, p in reach.items()
    }
    return KeyTokenStudy(
        **names, num_examples=300, num_heads=1152, k=15,
        ratio={"top": estimate(0.256, 0.02), "bottom": estimate(0.02, 0.004), "random": estimate(0.06, 0.01)},
        hit_rate={"top": estimate(0.19, 0.03), "bottom": estimate(0.0), "random": estimate(0.01, 0.004)},
        ratio_chance=0.05, hit_chance=0.001, group_sizes=tuple(sizes), coverage=coverage,
        coverage_chance=tuple(1 - 0.95**size for size in sizes),
    )  # fmt: skip


def vision_heads(names=SHORT, layers=36, heads=32, count=58):
    core, vision = scores(layers, heads), vision_map(layers=layers, heads=heads).scores.double().numpy()
    tops = [set(np.argsort(-values.ravel(), kind="stable")[:count].tolist()) for values in (core, vision)]
    both = tops[0] & tops[1]
    return VisionHeads(
        **names, share=count / core.size, core=core, vision=vision,
        shared=tuple((place // heads, place % heads) for place in sorted(both)), count=count, overlap=len(both),
        jaccard=len(both) / len(tops[0] | tops[1]), expected=count**2 / core.size, p_value=3e-7, spearman=0.12,
    )  # fmt: skip


def latency(rows, **common):
    """A table of (provider, n, keep, window, p50), sink 128 where there is a window, bars of 5 %."""
    import pandas

    lines = []
    for provider, n, keep, window, p50 in rows:
        sizes = {"sink": None if window is None else 128, "window": window}
        times = {"p20_ms": 0.95 * p50, "p50_ms": p50, "p80_ms": 1.05 * p50}
        lines.append({"provider": provider, "n": n, "keep": keep, **sizes, **times})
    return pandas.DataFrame(lines).astype({"sink": float, "window": float}).assign(**common)


def prefill_table(model="Qwen3-VL-8B bfloat16", gpu="NVIDIA H200"):
    """Two dense kernels and the hybrid path at two settings, 8K to 128K tokens."""
    rows = []
    for n in (8192, 16384, 32768, 65536, 131072):
        linear, square = n / 40, n * n / 1.2e6
        rows += [("dense_flash", n, 1.0, None, linear + 1.1 * square), ("dense_cudnn", n, 1.0, None, linear + square)]
        rows += [
            ("hybrid", n, 0.017, 2048, 1.25 * linear + 60),
            ("hybrid", n, 0.087, 2048, 1.5 * linear + 0.1 * square),
        ]
        rows += [("flex", n, 0.087, 2048, 2.5 * linear + 200 + 1.2 * square)]
    return latency(rows, kind="prefill", model=model, gpu=gpu, date="2026-11-21")


def converging(last=0.99, names=SHORT):
    curve = tuple((n, 1 - (1 - last) * (500 / n) ** 0.8) for n in (*range(16, 257, 16), *range(288, 501, 32)))
    return large_map(names, layers=4, heads=6, convergence=curve)


def of(media, geometry, *evidence, marked=(), length=40, question="Which?", answer="that"):
    """A Prepared whose visual tokens follow column 0, medium after medium."""
    sizes = [len(tokens) for tokens in geometry]
    columns = np.split(np.arange(1, 1 + sum(sizes)), np.cumsum(sizes)[:-1])
    visual, counted = torch.zeros(1, length, dtype=torch.bool), torch.zeros(1, length, dtype=torch.bool)
    visual[0, 1 : 1 + sum(sizes)] = True
    counted[0, list(marked)] = True
    example = Example("x", tuple(media), question, answer, evidence)
    return Prepared({}, visual & False, counted, visual, (example,), (tuple(geometry),), (tuple(columns),))


def video(count, side=8):
    return Video(np.full((count, side, side, 3), 200, dtype=np.uint8), fps=25)


def one_hot(column, length=40):
    row = torch.zeros(length)
    row[column] = 1.0
    return row


def pages(count=3, height=96, width=72, per_page=(8, 6), question="What color is letter A?"):
    """Pages with a gradient, evidence on the last, and rows of a head that finds it and of one that does not."""
    pixels = np.linspace(40, 230, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    tokens = grid(pixels.shape, *per_page)
    length = 2 + count * len(tokens)
    case = of(
        [pixels] * count, [tokens] * count, Evidence(count - 1, (12, 24, 36, 48)), length=length, question=question
    )
    random = np.random.default_rng(0)
    found, lost = random.random(length) * 0.002, random.random(length) * 0.01
    found[1 + (count - 1) * len(tokens) + 2 * per_page[1] + 1 :][:2] = 0.21
    return case, {"top head (22, 5)": torch.tensor(found), "bottom head (3, 30)": torch.tensor(lost)}


def frames(count=8, question="Who opens the door?"):
    """A video of two tokens a side per frame; the evidence is in two frames."""
    clip = Video(np.tile(np.linspace(60, 220, 64).astype(np.uint8)[None, None, :, None], (count, 36, 1, 3)), fps=25)
    tokens = [grid((36, 64), 3, 4, frame=f) for f in range(count)]
    length = 2 + 12 * count
    case = of(
        [clip], [concatenate(tokens)], Evidence(0, (16, 12, 48, 36), frames=(2, 3)), length=length, question=question
    )
    found = np.full(length, 0.001)
    found[1 + 12 * 2 + 5], found[1 + 12 * 3 + 6] = 0.3, 0.2
    return case, {"top head (22, 5)": torch.tensor(found), "bottom head (3, 30)": torch.full((length,), 0.004)}
