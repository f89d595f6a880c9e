"""How numbers, pictures and texts are put into a page."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from corehead_hf.explorer.encode import data_uri, packed, quantised, script_json


def test_codes_are_square_roots_of_the_share_in_the_heads_own_maximum():
    codes, maxima = quantised(np.array([[0, 0.25, 1, 0.01], [0, 0, 0, 0], [2e-6, 0, 0.5e-6, 0]], dtype=np.float32))
    assert codes.tolist() == [[0, 128, 255, 26], [0, 0, 0, 0], [255, 0, 128, 0]]  # 127.5 and 25.5 go to the even one
    assert codes.dtype == np.uint8
    assert maxima.dtype == np.float32 and maxima.tolist() == pytest.approx([1, 0, 2e-6])


def test_no_entry_is_off_by_more_than_half_a_step():
    rng = np.random.default_rng(0)
    rows = rng.gamma(0.2, size=(50, 400)).astype(np.float32)
    codes, maxima = quantised(rows)
    off = np.abs(np.sqrt(rows.astype(np.float64) / maxima[:, None]) - codes / 255)
    assert off.max() <= 0.5 / 255 + 1e-6 and off.max() > 0.45 / 255
    assert (codes.max(axis=1) == 255).all() and np.array_equal(maxima, rows.max(axis=1))


def test_arrays_are_little_endian_deflated_and_base64():
    found = packed(np.array([[1, -2], [3, 400]], dtype=np.int32))
    assert (found["dtype"], found["shape"]) == ("int32", [2, 2])
    raw = zlib.decompress(base64.b64decode(found["data"]))
    assert raw == bytes([1, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 3, 0, 0, 0, 0x90, 1, 0, 0])
    swapped = packed(np.array([1.5], dtype=">f4"))
    assert zlib.decompress(base64.b64decode(swapped["data"])) == bytes([0, 0, 0xC0, 0x3F])
    with pytest.raises(TypeError, match="float64"):
        packed(np.zeros(3))


def picture_in(uri):
    kind, _, data = uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_small_pictures_are_lossless_and_large_ones_are_jpeg_and_bounded():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (64, 256, 3), dtype=np.uint8)
    kind, picture = picture_in(data_uri(small, 1280))
    assert kind == "data:image/png" and np.array_equal(np.asarray(picture), small)
    large = rng.integers(0, 255, (300, 600, 3), dtype=np.uint8)
    kind, picture = picture_in(data_uri(large, 1280))
    assert kind == "data:image/jpeg" and picture.size == (600, 300)
    kind, picture = picture_in(data_uri(large, 200))
    assert kind == "data:image/jpeg" and picture.size == (200, 100)


def test_no_text_can_leave_its_script_block():
    text = "</script><!-- & \u2028 \ud800 \u00e9"
    written = script_json({"a": text})
    assert not set(written) & set("<>&") and written.isascii()
    assert json.loads(written) == {"a": text}
    assert r"\u003c/script\u003e\u003c!-- \u0026" in written
    with pytest.raises(ValueError):
        script_json([float("nan")])
