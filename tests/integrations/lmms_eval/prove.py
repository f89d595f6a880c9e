"""Run the three tiny models through lmms-eval itself and compare every answer with corehead_hf's own.

    python prove.py WORK_FOLDER [--examples 210]

Started by run.sh, in a virtual environment that has lmms-eval. Exits with an error at the first difference.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import datasets
import numpy as np
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.analysis import AnswerScorer
from corehead_hf.analysis.groups import count_from_gap
from corehead_hf.analysis.interventions import Ablations, hybrid
from corehead_hf.data import glyphs
from corehead_hf.data.example import Example
from corehead_hf.data.video_file import read_video
from corehead_hf.demo import PAGES, SINK_SIZE, TEST_SEED, WINDOW_SIZE
from corehead_hf.families import family_of

HERE = Path(__file__).resolve().parent
ARTIFACTS = HERE.parents[2] / "hub_artifacts"
FAMILIES = ("qwen3-vl", "llava-onevision", "internvl")
SIZES = f"sink_size={SINK_SIZE},window_size={WINDOW_SIZE}"
VIDEOS, FRAMES = 6, 4


def make_examples(count):
    each = count // len(PAGES)
    return [list(glyphs.generate(each, seed=TEST_SEED, pages=pages)) for pages in PAGES]


def write_task(batches):
    examples = [example for batch in batches for example in batch]
    columns = {name: [getattr(example, name) for example in examples] for name in ("id", "question", "answer")}
    columns["images"] = [[Image.fromarray(page) for page in example.media] for example in examples]
    text = datasets.Value("string")
    features = {"id": text, "question": text, "answer": text, "images": datasets.Sequence(datasets.Image())}
    datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet("glyphs.parquet")
    return examples


def write_videos(examples):
    """Eight pages as eight frames; the codec keeps every pixel."""
    rows = []
    for example in examples[-VIDEOS:]:
        with av.open(f"{example.id}.mkv", "w") as file:
            stream = file.add_stream("ffv1", rate=2)
            stream.height, stream.width, stream.pix_fmt = *example.media[0].shape[:2], "bgr0"
            for page in example.media:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(page, format="rgb24")))
            file.mux(stream.encode())
        rows.append({"video": f"{example.id}.mkv", "question": example.question, "answer": example.answer})
    datasets.Dataset.from_list(rows).to_parquet("glyphs_video.parquet")
    return rows


def settings(folder):
    """Model arguments, and the same for corehead_hf itself as (what is done, to which heads) or None; by name."""
    head_map = HeadMap.from_pretrained(folder)
    count = count_from_gap(head_map)
    top, bottom = head_map.top(count), head_map.bottom(count)
    loose = head_map.random(count, 1, exclude=top)
    pairs = json.dumps(bottom.nonzero().tolist(), separators=(",", ":"))
    given = f"head_map={folder}"
    return {
        "dense": ("", None),
        "hybrid, top dense": (f"{given},keep={count},{SIZES}", ("hybrid", top)),
        "hybrid, bottom dense": (f"heads={pairs},{SIZES}", ("hybrid", bottom)),
        "top ablated": (f"{given},ablate=top,ablate_count={count}", ("zero", top)),
        "random ablated": (f"{given},ablate=random,ablate_count={count},seed=1", ("zero", loose)),
        "top blind": (f"{given},ablate=top,ablate_count={count},ablate_variant=visual", ("visual", top)),
        "top streaming": (f"{given},ablate=top,ablate_count={count},ablate_variant=stream,{SIZES}", ("stream", top)),
    }


def own_answers(model, processor, prepared, expected):
    """Texts and accuracy by AnswerScorer, in the batches of one length that the demo takes."""
    texts = []

    def match(text, answer):
        texts.append(text)
        return float(text.strip() == answer)

    scorer = AnswerScorer(model, processor, prepared, match=match)
    if expected is None:
        return texts, scorer().mean()
    what, heads = expected
    if what == "hybrid":
        with hybrid(model, heads, SINK_SIZE, WINDOW_SIZE):
            return texts, scorer().mean()
    return texts, scorer(Ablations(model, None, SINK_SIZE, WINDOW_SIZE).of(heads, what)).mean()


def through_lmms_eval(arguments, task, batch_size, model="corehead", limit=None):
    manager = TaskManager("ERROR", include_path=str(HERE), include_defaults=False, model_name=model)
    found = simple_evaluate(
        model=model, limit=limit, model_args=arguments, tasks=[task], task_manager=manager, batch_size=batch_size,
        device="cpu", bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    texts = [sample["filtered_resps"][0] for sample in samples]
    return [text if isinstance(text, str) else text[0] for text in texts], found["results"][task]["accuracy,none"]


def command(arguments, task, *launcher):
    """The lmms-eval command itself; its accuracy from the results file."""
    out = Path("cli") / str(time.time_ns())
    program = launcher or (str(Path(sys.executable).parent / "lmms-eval"), "eval")
    options = ["--model", "corehead", "--model_args", arguments, "--tasks", task, "--include_path", str(HERE)]
    options += ["--output_path", str(out), "--log_samples", "--verbosity", "DEBUG", "--batch_size", "8"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=900)
    if done.returncode:
        return None, done.stdout + done.stderr
    (results,) = out.rglob("*_results.json")
    return json.loads(results.read_text())["results"][task]["accuracy,none"], done.stdout


def check(what, expected, found):
    if expected != found:
        raise SystemExit(f"{what}: lmms-eval gives {found!r}, corehead_hf itself {expected!r}")


def prove(name, batches, videos):
    folder = ARTIFACTS / f"glyphs-{name}"
    cases = settings(f"{folder}-head-map")
    model, processor = AutoCoReModel.from_pretrained(folder, dtype=torch.float32), load_processor(folder)
    family = family_of(model)
    prepared = [family.prepare(processor, batch) for batch in batches]
    pretrained, rows = f"pretrained={folder},dtype=float32", {}
    for setting, (arguments, expected) in cases.items():
        texts, accuracy = own_answers(model, processor, prepared, expected)
        joined = ",".join(filter(None, (pretrained, arguments)))
        start = time.perf_counter()
        # Eight together mixes prompts of several lengths, so that some are padded; AnswerScorer's never are.
        got, measured = through_lmms_eval(joined, "glyphs", 1 if setting == "dense" else 8)
        check(f"{name}, {setting}, answers", texts, got)
        check(f"{name}, {setting}, accuracy", accuracy, measured)
        rows[setting] = measured
        print(f"{name:16} {setting:22} accuracy {measured:.4f}, {time.perf_counter() - start:.1f} s", flush=True)
    start = time.perf_counter()
    joined = f"{pretrained},{cases['hybrid, top dense'][0]}"
    check(f"{name}, the command", rows["hybrid, top dense"], command(joined, "glyphs")[0])
    print(f"{name:16} {'lmms-eval eval':22} accuracy as above, {time.perf_counter() - start:.1f} s", flush=True)
    expected = []
    for row in videos:
        example = Example("video", (read_video(Path(row["video"]), FRAMES),), row["question"], row["answer"], ())
        inputs = family.prompt(processor, [example])
        new = model.generate(**inputs, max_new_tokens=2, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        expected += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    got, _ = through_lmms_eval(f"{pretrained},max_frames={FRAMES}", "glyphs_video", 4)
    check(f"{name}, videos", expected, got)
    print(f"{name:16} {'videos':22} {len(got)} answers equal: {' '.join(got)}", flush=True)
    return rows


def prove_equal_to_a_model_of_lmms_eval():
    """Its own class for InternVL, which casts to bfloat16, must answer alike: prompts and pictures are its own."""
    pretrained = f"pretrained={ARTIFACTS / 'glyphs-internvl'}"
    theirs = through_lmms_eval(f"{pretrained},device_map=cpu", "glyphs", 1, model="internvl_hf", limit=30)
    ours = through_lmms_eval(f"{pretrained},dtype=bfloat16", "glyphs", 1, limit=30)
    check("internvl, lmms-eval's own internvl_hf", theirs, ours)
    print(f"{'internvl':16} {len(ours[0])} answers as lmms-eval's internvl_hf: {ours[1]:.4f}", flush=True)


def prove_refusals_and_processes(name, accuracy):
    folder = ARTIFACTS / f"glyphs-{name}"
    pretrained = f"pretrained={folder},dtype=float32"
    found, said = command(f"{pretrained},headmap=x", "glyphs")
    if found is not None or "headmap are unknown - known are pretrained" not in said:
        raise SystemExit(f"an unknown argument was not refused: {said[-2000:]}")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lmms_eval"]
    found, said = command(pretrained, "glyphs", *launcher)
    check(f"{name}, two processes", accuracy, found)
    if "on rank 1" not in said:
        raise SystemExit(f"there was one process, not two: {said[-2000:]}")
    print(f"{name:16} unknown argument refused by the command; two processes: accuracy {accuracy:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--examples", type=int, default=210, help="a multiple of 3")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    batches = make_examples(options.examples)
    videos = write_videos(write_task(batches))
    found = {name: prove(name, batches, videos) for name in FAMILIES}
    prove_equal_to_a_model_of_lmms_eval()
    prove_refusals_and_processes("qwen3-vl", found["qwen3-vl"]["dense"])
    Path("accuracies.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert all(np.isfinite(list(rows.values())).all() for rows in found.values())
    print(f"every answer equal: {options.work / 'accuracies.json'}")


if __name__ == "__main__":
    main()
