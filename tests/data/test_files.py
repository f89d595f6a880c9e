"""Pictures, videos, JSON and parquet as they come from disk or the Hub."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from formats import encoded, frame_numbers, picture, write_bytes, write_image, write_video
from PIL import Image
from pyarrow import parquet

from corehead_hf import data
from corehead_hf.data.example_set import RowError
from corehead_hf.data.files import CHUNK, RowCursor, json_array, parquet_batches, resolve
from corehead_hf.data.image_file import read_image
from corehead_hf.data.mmlongbench_doc import _rendered
from corehead_hf.data.video_file import frame_rate, frame_times, read_frames, read_video, sample_evenly


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "image, kind, expected",
    [
        (Image.new("L", (4, 3), 90), "PNG", (90, 90, 90)),
        (Image.new("1", (4, 3), 1), "PNG", (255, 255, 255)),
        (Image.new("P", (4, 3), 0), "PNG", (0, 0, 0)),
        (Image.new("LA", (4, 3), (90, 255)), "PNG", (90, 90, 90)),
        (Image.new("RGBA", (4, 3), (10, 20, 30, 255)), "PNG", (10, 20, 30)),
        (Image.new("RGBA", (4, 3), (10, 20, 30, 0)), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (4, 3), (0, 0, 0, 255)), "JPEG", (0, 0, 0)),
        (Image.new("CMYK", (4, 3), (0, 0, 0, 0)), "JPEG", (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 90 * 256 + 200, dtype=np.uint16)), "PNG", (90, 90, 90)),
    ],
)
def test_pictures_become_rgb(image, kind, expected):
    pixels = read_image(saved(image, kind))
    assert pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # JPEG


def test_a_transparent_palette_shows_white():
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (read_image(saved(image, "PNG", transparency=1)) == 255).all()
    assert (read_image(saved(image, "PNG")) == (10, 20, 30)).all()


def test_exif_orientation_is_applied_only_on_request(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show upright
    path = write_bytes(tmp_path / "a.jpg", saved(Image.fromarray(picture(40, 20)), "JPEG", exif=exif))
    assert read_image(path).shape == (20, 40, 3)
    assert read_image(path, exif=True).shape == (40, 20, 3)


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "cannot be decoded"), (b"no picture", "cannot be decoded"), (encoded(99, 99)[:-200], "truncated")],
)
def test_broken_pictures_are_named(tmp_path, content, reason):
    path = write_bytes(tmp_path / "bad.jpg", content)
    with pytest.raises(RowError, match=rf"bad\.jpg.*{reason}"):
        read_image(path)
    with pytest.raises(RowError, match="absent.jpg does not exist"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(RowError, match="whose range is unknown"):
        read_image(saved(Image.new("F", (4, 3)), "TIFF"))


def test_frames_are_those_that_were_asked(tmp_path):
    path = write_video(tmp_path / "a.mp4", 40)
    assert len(frame_times(path)) == 40 and frame_rate(path) == 10
    frames = read_frames(path, [0, 1, 7, 25, 39])
    assert frames.dtype == np.uint8 and frames.shape == (5, 48, 64, 3)
    assert frame_numbers(frames) == [0, 1, 7, 25, 39]
    video = read_video(path, 4)
    assert video.frame_ids == (0, 13, 26, 39) and frame_numbers(video.frames) == [0, 13, 26, 39] and video.fps == 10
    assert read_video(path, 99).frame_ids == tuple(range(40))
    assert read_video(path, [5, 8]).frame_ids == (5, 8)


def test_frames_behind_the_end_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", 12)
    with pytest.raises(RowError, match=r"frame 12 was asked of .*a\.mp4, which has 12 frames"):
        read_frames(path, [3, 12])


def test_broken_videos_are_named(tmp_path):
    with pytest.raises(RowError, match=r"bad\.mp4 cannot be decoded"):
        read_frames(write_bytes(tmp_path / "bad.mp4", b"no video"), [0])
    with pytest.raises(RowError, match="does not exist"):
        frame_times(tmp_path / "absent.mp4")
    with pytest.raises(RowError, match="holds no video|cannot be decoded|no frames"):
        frame_times(write_bytes(tmp_path / "a.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"))
    for ids in ([], [2, 1], [1, 1], [-1]):
        with pytest.raises(ValueError, match="strictly rising"):
            read_frames(write_video(tmp_path / "a.mp4", 3), ids)


def test_even_sampling_by_hand():
    assert sample_evenly(2, 19, 4) == (2, 8, 13, 19)  # 2, 7.67, 13.33, 19
    assert sample_evenly(0, 2, 128) == (0, 1, 2)
    assert sample_evenly(5, 5, 3) == (5,)
    for last in range(1, 400):  # rounding never names a frame twice
        ids = sample_evenly(0, last, 128)
        assert len(set(ids)) == len(ids) == min(128, last + 1) and ids[-1] == last


def test_a_json_list_is_read_piece_by_piece(tmp_path):
    rows = [{"n": i, "text": "ü ] } , [" * (i % 40)} for i in range(4000)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 4 * CHUNK
    assert list(json_array(path)) == list(enumerate(rows))
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    found = []
    with pytest.raises(ValueError, match=r"rows\.json: row 3999 is not sound JSON"):
        for number, _ in json_array(path):
            found.append(number)
    assert found == list(range(3999))
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a JSON list"):
        next(json_array(path))
    path.write_text("[]")
    assert list(json_array(path)) == []
    path.write_text('[{"a": 1}]\n[{"b": 2}]\n')
    with pytest.raises(ValueError, match="more stands behind the end of its list"):
        list(json_array(path))


def test_rows_by_number_are_read_in_one_pass(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"n": list(range(100)), "other": [0] * 100}), path, row_group_size=30)
    opened = []
    monkeypatch.setattr(
        parquet, "ParquetFile", lambda *a, real=parquet.ParquetFile, **k: opened.append(1) or real(*a, **k)
    )
    cursor = RowCursor(path, ["n"])
    for first, last in ((0, 0), (3, 40), (41, 41), (41, 99), (95, 99)):
        assert cursor.take(first, last) == [{"n": n} for n in range(first, last + 1)]
    before = len(opened)
    assert before <= 2  # the last range starts in the batch that is held
    assert cursor.take(5, 6) == [{"n": 5}, {"n": 6}] and len(opened) == before + 1
    with pytest.raises(ValueError, match=r"rows 98\.\.100 were asked of .*t\.parquet, which has 100 rows"):
        cursor.take(98, 100)


def test_wrong_files_are_named(tmp_path):
    path = write_image(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as a parquet file"):
        next(parquet_batches(path, ["n"]))
    parquet.write_table(pa.table({"n": [1]}), path)
    with pytest.raises(ValueError, match="has no column bbox, text; it has n"):
        next(parquet_batches(path, ["n", "bbox", "text"]))


def test_a_hub_id_is_fetched_through_the_client(tmp_path, monkeypatch):
    import huggingface_hub
    from formats import refcocog_row, write_refcocog

    write_refcocog(tmp_path / "snapshot", [refcocog_row(["the dog"], [1, 2, 3, 4])])
    calls = []

    def snapshot_download(repo_id, **options):
        calls.append((repo_id, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    examples = data.load("refcocog", "someone/RefCOCOg", revision="abc", split="test")
    assert [example.question for example in examples] == ["the dog"]
    options = {"repo_type": "dataset", "revision": "abc", "allow_patterns": ["*test-*.parquet"]}
    assert calls == [("someone/RefCOCOg", options)]


def test_what_is_neither_folder_nor_hub_data_set_is_refused(tmp_path):
    for path in (tmp_path / "absent", "a/b/c", "absent"):
        with pytest.raises(ValueError, match="no such file or folder, and it is no Hub id"):
            resolve(path)
    with pytest.raises(ValueError, match="fetching it from the Hub as a data set failed"):  # tests run offline
        resolve("no-such-owner/no-such-data-set")


@pytest.mark.parametrize(
    "module, read, extra",
    [
        ("av", lambda path: len(frame_times(path)), "video"),
        ("pyarrow", lambda path: next(parquet_batches(path, ["n"])), "data"),
        ("pypdfium2", lambda path: _rendered(path, 144, None), "pdf"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, module, read, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"corehead-hf\[{extra}\]"):
        read(tmp_path / "any")


def test_nothing_heavy_is_imported_before_it_is_used():
    code = "import sys; import corehead_hf.data; print({'av', 'pyarrow', 'torch', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_video_that_is_cut_off_behind_its_index_is_refused(tmp_path):
    """Its header still tells all frames: half of a video must not pass for the whole one."""
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for _ in range(40):
            noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    assert read_video(path, 4).frame_ids == (0, 13, 26, 39)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RowError, match=r"is cut off: its header tells 40 frames, it holds \d+\."):
        read_video(path, 4)
    assert len(read_video(path, [0, 3]).frames) == 2  # frames that are asked for by number are there
