"""Scenes made by hand, and a reader of pages that shares no code with their writer."""

import base64
import json
import re
import zlib

import numpy as np

from corehead_hf import Evidence, Example, Video
from corehead_hf.explorer import Scene
from corehead_hf.explorer.scene import cells_of
from corehead_hf.plots.pictures import pictures_of

HOSTILE = (
    '</script><script>hacked = 1</script><img src=x onerror="hacked = 2"><!-- {{DATA}} \u2028 & \ud800 https://x.y/'
)


def embedded(page):
    """The data of a page's text."""
    (block,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, flags=re.S)
    return json.loads(block)


def unpacked(entry):
    raw = zlib.decompress(base64.b64decode(entry["data"]))
    return np.frombuffer(raw, {"uint8": "u1", "int32": "<i4", "float32": "<f4"}[entry["dtype"]]).reshape(entry["shape"])


def example_of(media, *evidence, question="Which?", answer="that"):
    return Example("x", tuple(media), question, answer, evidence)


def picture(height=8, width=8, value=200):
    return np.full((height, width, 3), value, dtype=np.uint8)


def video(count, side=8, **options):
    return Video(np.full((count, side, side, 3), 200, dtype=np.uint8), **{"fps": 4.0, **options})


def scene_by_hand(example, geometry, rows, shape, *, max_frames=16, counted=None, **changes):
    """A Scene of given rows [H, N]; heads rank by their attention on the tokens `counted`, token 0 by default."""
    rows = np.asarray(rows, dtype=np.float32)
    count = rows.shape[1]
    counted = np.arange(count) == 0 if counted is None else counted
    ram = rows[:, counted].sum(axis=1)
    pictures, _ = pictures_of(example, max_frames)
    given = {
        "model": "tiny",
        "dataset": "hand",
        "scores": None,
        "chance": 0.1,
        "columns": np.arange(3, count + 3, dtype=np.int32),
        "facts": (("Name", "value"),),
        "notes": (),
        "ranking": np.argsort(-ram, kind="stable").astype(np.int32),
    }
    return Scene(
        example=example, shape=shape, ram=ram, vision=rows.sum(axis=1), text=1 - rows.sum(axis=1), rows=rows,
        counted=counted.astype(np.uint8), pictures=tuple(pictures),
        cells=tuple(cells_of(geometry, each) for each in pictures), **{**given, **changes},
    )  # fmt: skip


def real_size(side=1000, seed=0):
    """36 x 32 heads on 43 x 63 tokens, as of Qwen3-VL-8B and one page; the rows are noise, which deflates worst."""
    from corehead_hf.families.geometry import grid

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (side, side * 3 // 2, 3), dtype=np.uint8)
    example = example_of([pixels], Evidence(0, (side * 0.3, side * 0.2, side * 0.5, side * 0.4)))
    geometry = (grid(pixels.shape, 43, 63),)
    rows = rng.gamma(0.3, size=(36 * 32, 43 * 63)).astype(np.float32)
    rows /= rows.sum(axis=1, keepdims=True)
    return scene_by_hand(example, geometry, rows, (36, 32), counted=geometry[0].coverage(example.evidence) > 0)
