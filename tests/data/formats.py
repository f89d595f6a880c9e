"""Hand-made files in the very formats the data sets are published in: same names, keys, types and conventions."""

import io
import json

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet


def picture(width, height, value=0):
    """A grey uint8 [height, width, 3] of one value, so that pictures can be told apart after JPEG."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def encoded(width, height, value=0, kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(picture(width, height, value)).save(stream, kind)
    return stream.getvalue()


def write_bytes(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_image(path, width=40, height=30, value=0):
    return write_bytes(path, encoded(width, height, value, "PNG" if path.suffix == ".png" else "JPEG"))


def write_lines(path, rows):
    """A JSON lines file; a row that is a str is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def write_video(path, frames, width=64, height=48, fps=10, times=None):
    """An mp4 of grey frames whose value tells their number: 4 * number. times: presentation times in frames."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(width, height, 4 * number), format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_numbers(frames):
    """Which of write_video's frames these are."""
    return np.rint(frames.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


# --- RefCOCOg -------------------------------------------------------------------------------------------------------

INSTRUCTION = "Please carefully observe the area circled in the image and come up with a caption for the area."


def refcocog_row(answer, bbox, width=64, height=48, value=0, image=None, question_id="469306"):
    """A row with pixels: bbox is x, y, width, height."""
    return {
        "question_id": question_id,
        "image": {"bytes": encoded(width, height, value) if image is None else image, "path": None},
        "question": INSTRUCTION,
        "answer": answer,
        "segmentation": [1.0, 2.0, 3.0],
        "bbox": bbox,
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000296747_0.jpg",
    }


def write_refcocog(folder, rows, split="test"):
    schema = pa.schema(
        [
            ("question_id", pa.string()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("question", pa.string()),
            ("answer", pa.list_(pa.string())),
            ("segmentation", pa.list_(pa.float32())),
            ("bbox", pa.list_(pa.float32())),
            ("iscrowd", pa.int8()),
            ("file_name", pa.string()),
        ]
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def refcocog_annotation(sentences, bbox, xywh, size=(64, 48), ref_id=7, file_name="COCO_train2014_000000000009.jpg"):
    """A row of annotations only: bbox is left, top, right, bottom; raw_anns holds x, y, width, height."""
    width, height = size
    return {
        "image_id": 9,
        "ann_id": 1,
        "ref_id": ref_id,
        "split": "test",
        "sentences": [
            {"raw": text, "sent": text.lower(), "sent_id": i, "tokens": text.lower().split()}
            for i, text in enumerate(sentences)
        ],
        "category_id": 1,
        "file_name": file_name,
        "raw_anns": json.dumps({"bbox": xywh, "iscrowd": 0, "id": 1}),
        "raw_image_info": json.dumps({"width": width, "height": height, "file_name": file_name}),
        "image_path": f"coco/train2014/{file_name}",
        "bbox": bbox,
        "captions": [text.lower() for text in sentences],
    }


def write_refcocog_annotations(folder, rows, split="test"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    name = f"{split}-00000-of-00001-2bc5a0e5ab1bd9ff.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), folder / "data" / name)
    return folder


# --- VidSTG and VidOR -----------------------------------------------------------------------------------------------


def vidstg_row(vid="10712559773", frames=20, segment=(2, 19), gt=(5, 9), question="who is watching?", **more):
    target = more.pop("target_id", 2)
    return {
        "vid": vid,
        "fps": 10.0,
        "frame_count": frames,
        "width": 64,
        "height": 48,
        "used_segment": {"begin_fid": segment[0], "end_fid": segment[1]},
        "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 2, "category": "child"}],
        "used_relation": {
            "subject_tid": 2,
            "object_tid": 0,
            "predicate": "watch",
            "begin_fid": gt[0],
            "end_fid": gt[1],
        },
        "temporal_gt": {"begin_fid": gt[0], "end_fid": gt[1]},
        "captions": [{"description": "the child is watching the adult.", "type": "person", "target_id": target}],
        "questions": [{"description": question, "type": "person", "target_id": target}],
        **more,
    }


def write_vidstg(folder, rows, split="test"):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"{split}_annotations.json").write_text(json.dumps(rows))
    (folder / "video").mkdir(exist_ok=True)
    return folder


def write_vidor(folder, vid, boxes, frames=20):
    """VidOR's file of one video; boxes: {frame: [(tid, (xmin, ymin, xmax, ymax)), ...]}."""
    entry = {"generated": 0, "tracker": "none"}
    trajectories = [
        [
            {"tid": tid, "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)), **entry}
            for tid, box in boxes.get(frame, [])
        ]
        for frame in range(frames)
    ]
    content = {
        "version": "VERSION 1.0",
        "video_id": vid,
        "video_path": f"1025/{vid}.mp4",
        "frame_count": frames,
        "fps": 10.0,
        "width": 64,
        "height": 48,
        "subject/objects": [{"tid": 2, "category": "child"}],
        "trajectories": trajectories,
        "relation_instances": [],
    }
    write_bytes(folder / "annotation" / "validation" / "1025" / f"{vid}.json", json.dumps(content).encode())


# --- MMDocIR --------------------------------------------------------------------------------------------------------


def mmdocir_question(text, layouts, page_id=None, **more):
    """layouts: (page, box) on pages of 60 x 80 points."""
    mapping = [{"page": page, "page_size": [60.0, 80.0], "bbox": list(box)} for page, box in layouts]
    return {
        "Q": text,
        "A": "Less well-off",
        "page_id": sorted({page for page, _ in layouts}) if page_id is None else page_id,
        "type": "['Chart']",
        "layout_mapping": mapping,
        **more,
    }


def mmdocir_layout(kind, page, box, text=None, name="a.pdf", value=0):
    return {
        "doc_name": name,
        "domain": "Research report / Introduction",
        "type": kind,
        "layout_id": 1,
        "page_id": page,
        "image_path": f"{name}_{page}.jpg",
        "image_binary": encoded(24, 16, value),
        "text": text,
        "ocr_text": None if text else "ocr",
        "vlm_text": None if text else "vlm",
        "bbox": [float(side) for side in box],
        "page_size": [60.0, 80.0],
    }


def mmdocir_page(number, name="a.pdf", value=0, size=(120, 160)):
    return {
        "doc_name": name,
        "domain": "Research report / Introduction",
        "passage_id": str(number),
        "image_path": f"{name}_{number}.jpg",
        "image_binary": encoded(*size, value),
        "ocr_text": "ocr",
        "vlm_text": "vlm",
    }


def write_mmdocir(folder, documents, layouts=(), pages=()):
    """documents: (name, page_indices, layout_indices, questions)."""
    rows = [
        {"doc_name": name, "domain": "x", "page_indices": p, "layout_indices": n, "questions": questions}
        for name, p, n, questions in documents
    ]
    write_lines(folder / "MMDocIR_annotations.jsonl", rows)
    for kind, table in (("layouts", layouts), ("pages", pages)):
        if table:
            parquet.write_table(pa.Table.from_pylist(list(table)), folder / f"MMDocIR_{kind}.parquet")
    return folder


# --- MMLongBench and MMLongBench-Doc --------------------------------------------------------------------------------


def mmlongbench_row(pages, answer_pages, doc_name="4190345", identity="longdocurl_1", **more):
    return {
        "id": identity,
        "doc_name": doc_name,
        "question": "What is the total?",
        "answer": "12",
        "answer_format": "String",
        "answer_sources": ["Chart"],
        "ans_page_list": answer_pages,
        "page_list": pages,
        "length": 7990,
        **more,
    }


def write_mmlongbench(folder, rows, task="longdocurl", length=8):
    """The annotation file, and every page it names, page i of a row with grey value 8 * i."""
    write_lines(folder / "mmlb_data" / "documentQA" / f"{task}_K{length}.jsonl", rows)
    (folder / "mmlb_image").mkdir(exist_ok=True)
    for row in rows:
        for i, page in enumerate(row["page_list"]):
            write_image(folder / "mmlb_image" / page, value=8 * i)
    return folder


def mmlongbench_doc_row(evidence_pages, doc_id="PH_2016.pdf", question="How many?"):
    """All values are strings, evidence_pages too."""
    return {
        "doc_id": doc_id,
        "doc_type": "Research report / Introduction",
        "question": question,
        "answer": "Less well-off",
        "evidence_pages": evidence_pages,
        "evidence_sources": "['Chart']",
        "answer_format": "Str",
    }


def pdf(pages):
    """A PDF of blank pages, (width, height) in points each."""
    kids = " ".join(f"{i + 3} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects += [f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] >>" for width, height in pages]
    text, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(text))
        text += f"{number} 0 obj\n{body}\nendobj\n"
    start = len(text)
    text += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{at:010d} 00000 n \n" for at in offsets)
    return (text + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n").encode()


# --- MLVU and Video-MME ---------------------------------------------------------------------------------------------

MLVU_OPTIONS = ("Yellow", "Red", "Green", "Blue")


def mlvu_official_row(question="What colour is the bag?", answer="Red", kind="plotQA", video="movie101_66.mp4", **more):
    """A row of MLVU/MVLU: the answer is an option's text."""
    return {
        "video": video,
        "duration": 2.0,
        "question": question,
        "candidates": list(MLVU_OPTIONS),
        "answer": answer,
        "question_type": kind,
        **more,
    }


def write_mlvu_official(folder, files):
    """files: {"1_plotQA": rows}; every video a row names is written beside, 20 frames."""
    for stem, rows in files.items():
        write_bytes(folder / "MLVU" / "json" / f"{stem}.json", json.dumps(rows, indent=2).encode())
        for row in rows:
            write_video(folder / "MLVU" / "video" / stem / row["video"], 20)
    return folder


def mlvu_row(question="What colour is the bag?", answer="B", task="plotQA", video="movie101_66.mp4", **more):
    """A row of sy1998/MLVU_dev: the question names the options, the answer is a letter."""
    lines = [f"({letter}) {option}" for letter, option in zip("ABCD", MLVU_OPTIONS, strict=True)]
    return {
        "video_name": video,
        "question": "\n".join([question, *lines]),
        "candidates": list(MLVU_OPTIONS),
        "answer": answer,
        "task_type": task,
        **more,
    }


def write_table(path, rows):
    """Rows as .parquet, .jsonl or .json, by the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        write_lines(path, rows)
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def video_mme_row(question_id="001-1", task="OCR Problems", duration="short", answer="C", video="fFjv93ACGo8", **more):
    return {
        "video_id": question_id[:3],
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": f"https://www.youtube.com/watch?v={video}",
        "videoID": video,
        "question_id": question_id,
        "task_type": task,
        "question": "Which fruit is shown?",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. Nuts."],
        "answer": answer,
        **more,
    }


def write_video_mme(folder, rows, suffix="parquet"):
    """The rows, and every video they name, 20 frames at 10 a second."""
    write_table(folder / "videomme" / f"test-00000-of-00001.{suffix}", rows)
    for name in sorted({row["videoID"] for row in rows}):
        write_video(folder / "data" / f"{name}.mp4", 20)
    return folder


def subtitle(number, start, end, text):
    """A block of a Video-MME .srt file, times in seconds below a minute."""
    times = " --> ".join(f"00:00:{int(at):02d},{round(at % 1 * 1000):03d}" for at in (start, end))
    return f'{number}\n{times}\n<font color="white" size=".72c">{text}</font>\n\n'
