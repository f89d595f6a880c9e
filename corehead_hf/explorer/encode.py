"""How numbers, pictures and texts are put into a page: quantised, deflated, base64, escaped."""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np
from PIL import Image

LEVELS = 255
JPEG_QUALITY = 85
LOSSLESS_SIDE = 256  # pixels of the longer side up to which a picture is PNG


def quantised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attention in a byte an entry, on a square-root scale of each head's own maximum.

    value = maximum * (code / 255) ** 2, so an entry of a thousandth of the maximum still has code 8.

    Args:
        rows: float32 [H, N], not negative.

    Returns:
        Codes uint8 [H, N], and maxima float32 [H]; a row of zeros has maximum 0 and codes 0. The square root of an
        entry's share in the maximum is kept to half a step, 1/510.
    """
    maxima = rows.max(axis=1, initial=0).astype(np.float32)
    share = np.divide(rows, maxima[:, None], out=np.zeros_like(rows), where=maxima[:, None] > 0)
    np.sqrt(share, out=share)
    share *= LEVELS
    return np.rint(share, out=share).astype(np.uint8), maxima


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array of uint8, int32 or float32 as JSON values: its little-endian bytes, deflated (zlib) and base64."""
    if array.dtype.name not in ("uint8", "int32", "float32"):
        raise TypeError(f"an array of {array.dtype} was to be packed; a page holds uint8, int32 and float32.")
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    data = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def data_uri(pixels: np.ndarray, longest: int) -> str:
    """A picture as a data: URI: PNG up to 256 pixels, JPEG above.

    Args:
        pixels: uint8 [height, width, 3].
        longest: pixels of the longer side; what is larger is shrunk.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    lossless = max(pixels.shape[:2]) <= LOSSLESS_SIDE
    kind, options = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": JPEG_QUALITY, "optimize": True})
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def script_json(value: Any) -> str:
    """Strict JSON in ASCII that no HTML parser takes for markup: < > & stand as \\u003c \\u003e \\u0026.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
