"""Pictures from files or bytes as uint8 RGB arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from corehead_hf.data.example_set import RowError


def read_image(source: Path | bytes, name: str | None = None, *, exif: bool = False) -> np.ndarray:
    """Decode one picture.

    Args:
        source: a file, or the bytes of one.
        name: what messages call it; needed for bytes.
        exif: turn the picture as its EXIF orientation says. False gives the stored pixels, which is what the boxes of
            the published data sets refer to.

    Returns:
        uint8 [height, width, 3]. Grey, palette and CMYK pictures are converted; 16-bit grey keeps its high byte;
        transparent parts show white.

    Raises:
        RowError: the file is missing ("missing_media"), or not a sound picture ("corrupt_media").
    """
    name = name or (source.as_posix() if isinstance(source, Path) else "the image")
    if isinstance(source, Path) and not source.is_file():
        raise RowError("missing_media", f"the image {name} does not exist.")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture) if exif else picture)
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        raise RowError("corrupt_media", f"the image {name} cannot be decoded: {error}.") from error


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError(f"it has {picture.mode} pixels, whose range is unknown; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, layers).convert("RGB"))
    return np.asarray(picture.convert("RGB"))
