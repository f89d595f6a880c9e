"""The page of a scene: numbers and pictures in one JSON block beside fixed code, kept below a size."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from corehead_hf._version import __version__
from corehead_hf.explorer.encode import data_uri, packed, quantised, script_json
from corehead_hf.explorer.scene import Scene, caption

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MAX_BYTES = 5_000_000
SIDES = (1280, 1024, 768, 512)  # pixels of a picture's longer side, tried in this order with the rows of all heads
SMALL_SIDES = (512, 384, 256)  # then these with the rows of fewer heads, until there are at least
FEW_ROWS = 40
STYLES = ("theme.css", "layout.css", "parts.css", "inputs.css")
SCRIPTS = ("colors.js", "data.js", "headmap.js", "picture.js", "board.js", "panel.js", "main.js")


@dataclass(frozen=True)
class Page:
    """A finished page.

    Attributes:
        text: the HTML, in ASCII.
        notes: what is left out or not as one might expect, as the page says it.
        num_rows: heads whose attention rows are in it.
    """

    text: str
    notes: tuple[str, ...]
    num_rows: int


def page_of(scene: Scene, *, max_bytes: int = MAX_BYTES) -> Page:
    """The page of a scene. To stay within max_bytes pictures are shrunk first, then rows of middling heads left out.

    Raises:
        ValueError: not even the smallest page is within max_bytes; the message says what takes how much.
    """
    content, total = _content(scene), len(scene.ranking)
    every = _rows(scene, scene.ranking)
    for side in SIDES:
        notes = [*scene.notes, *_shrunk(scene, side)]
        text = _html({**content, "pictures": _pictures(scene, side), "rows": every, "notes": notes})
        if len(text) <= max_bytes:
            return _finished(scene, Page(text, tuple(notes), total))
    page = None
    for side in SMALL_SIDES:
        base = {**content, "pictures": _pictures(scene, side), "notes": [*scene.notes, *_shrunk(scene, side)]}
        page = _with_ends(scene, base, max_bytes) or page
        if page is not None and page.num_rows >= min(FEW_ROWS, total - 1):
            break
    if page is None:
        least, drawn = len(_ends(scene, base, 1).text), len(script_json(base["pictures"]))
        raise ValueError(
            f"a page of at most {max_bytes} bytes was asked - the smallest has {least}, of which pictures and their "
            f"tokens take {drawn} - pass max_bytes of {least} or more, or show fewer frames with max_frames."
        )
    return _finished(scene, page)


def _with_ends(scene: Scene, base: dict[str, Any], max_bytes: int) -> Page | None:
    """The page with as many rows from both ends of the ranking as fit, or None."""
    best, low, high = None, 1, max(1, (len(scene.ranking) - 1) // 2)
    while low <= high:
        middle = (low + high) // 2
        page = _ends(scene, base, middle)
        if len(page.text) <= max_bytes:
            best, low = page, middle + 1
        else:
            high = middle - 1
    return best


def _ends(scene: Scene, base: dict[str, Any], count: int) -> Page:
    ends = np.unique(np.concatenate([scene.ranking[:count], scene.ranking[-count:]]))
    left_out = f"The page holds the attention of the {count} best- and the {count} worst-ranked heads only."
    content = {**base, "rows": _rows(scene, ends), "notes": [*base["notes"], left_out]}
    return Page(_html(content), tuple(content["notes"]), len(ends))


def write_page(path: str | Path, page: str) -> None:
    """Write a page whole or not at all; its folder is made where missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".page-") as staging:
        whole = Path(staging) / path.name
        whole.write_bytes(page.encode("utf-8"))  # as bytes: a changed line ending would change the script's hash
        os.replace(whole, path)


def _finished(scene: Scene, page: Page) -> Page:
    for note in page.notes[len(scene.notes) :]:  # of the scene's own it has warned itself
        logger.warning("page of example %r: %s", scene.example.id, note)
    return page


def _content(scene: Scene) -> dict[str, Any]:
    """All but pictures, rows and notes."""
    example = scene.example
    numbers = {"ram": scene.ram, "vision": scene.vision, "text": scene.text, "maximum": scene.rows.max(axis=1)}
    numbers |= {} if scene.scores is None else {"score": scene.scores}
    return {
        "format_version": FORMAT_VERSION,
        "corehead_version": __version__,
        "model": scene.model,
        "dataset": scene.dataset,
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "shape": list(scene.shape),
        "chance": scene.chance,
        "ranking": packed(scene.ranking),
        "heads": {name: packed(values.astype(np.float32)) for name, values in numbers.items()},
        "largest": packed(scene.rows.argmax(axis=1).astype(np.int32)),
        "columns": packed(scene.columns),
        "counted": packed(scene.counted),
        "facts": [list(fact) for fact in scene.facts],
    }


def _rows(scene: Scene, heads: np.ndarray) -> dict[str, Any]:
    """Rows of some heads as codes; value = the head's maximum * (code / 255) ** 2."""
    kept = np.unique(heads)
    return {"heads": packed(kept.astype(np.int32)), "codes": packed(quantised(scene.rows[kept])[0])}


def _pictures(scene: Scene, side: int) -> list[dict[str, Any]]:
    """Pictures of at most `side` pixels, and in native pixels the evidence boxes and the tokens' cells."""
    return [
        {
            "caption": caption(scene.example, picture),
            "width": picture.pixels.shape[1],
            "height": picture.pixels.shape[0],
            "src": data_uri(picture.pixels, side),
            "evidence": [[float(edge) for edge in box] for box in picture.evidence(scene.example)],
            "tokens": packed(cells.tokens),
            "boxes": packed(cells.boxes),
        }
        for picture, cells in zip(scene.pictures, scene.cells, strict=True)
    ]


def _shrunk(scene: Scene, side: int) -> list[str]:
    """A note, where pictures are smaller than the first of SIDES would make them."""
    largest = max(max(picture.pixels.shape[:2]) for picture in scene.pictures)
    if side == SIDES[0] or largest <= side:
        return []
    return [f"Pictures are shrunk to {side} pixels to keep the page small; boxes are those of the full pictures."]


def _html(content: dict[str, Any]) -> str:
    """The template with style, code, data, and a policy that allows these and no network."""
    style, script = (_joined(names) for names in (STYLES, SCRIPTS))
    script = f'(() => {{\n"use strict";\n{script}}})();\n'
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    parts = {"POLICY": "; ".join(policy), "STYLE": style, "SCRIPT": script, "DATA": script_json(content)}
    # In one pass: a question may hold the text of a placeholder.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _joined(names: Sequence[str]) -> str:
    return "".join(_asset(name) for name in names)


def _asset(name: str) -> str:
    return (files("corehead_hf.explorer") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
