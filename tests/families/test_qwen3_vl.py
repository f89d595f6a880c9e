"""Qwen3-VL: which visual tokens show the evidence, by golden cases, by hand, and by the oracle that looks."""

import copy
import re

import numpy as np
import pytest
import torch
from oracle import disagreements, random_evidence
from oracle_qwen3_vl import Qwen3VLOracle
from tiny_models import config_for, randomize
from transformers import AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

from corehead_hf import AutoCoReModel, Evidence, Example, load_processor
from corehead_hf.data.example import Video
from corehead_hf.families import FAMILIES
from corehead_hf.families.geometry import Geometry
from corehead_hf.families.qwen3_vl import Qwen3VL

QWEN = FAMILIES["qwen3_vl"]
needs_video = pytest.mark.skipif(
    not is_torchvision_available(), reason="torchvision, which video processors need, is not installed"
)


@pytest.fixture(scope="module")
def oracle(oracle_of):
    """Hub checkpoint values: tokens of 32 x 32 pixels, 65,536 pixels or more per image."""
    return oracle_of(Qwen3VLOracle)


@pytest.fixture(scope="module")
def processor(checkpoint):
    """Glyphs values: tokens of 16 x 16 pixels, no image too small."""
    return load_processor(checkpoint("qwen3_vl"))


def image(width, height):
    return np.zeros((height, width, 3), dtype=np.uint8)


def video(count, width=64, height=64, fps=2.0, frame_ids=None):
    return Video(np.zeros((count, height, width, 3), dtype=np.uint8), fps, frame_ids)


def example(media, *evidence, question="Where?", content=None):
    return Example("hand-made", tuple(media), question, "there", evidence, content)


def ranks(prepared, row=0):
    """Which visual tokens, counted over the row, are evidence."""
    return prepared.evidence_mask[row][prepared.visual_mask[row]].nonzero().flatten().tolist()


def runs(text):
    """'43-46,63' -> [43, 44, 45, 46, 63]."""
    ends = [[int(number) for number in run.split("-")] for run in text.split(",") if run]
    return [rank for run in ends for rank in range(run[0], run[-1] + 1)]


# name: (media, evidence, visual tokens, tokens with any overlap, ranks of those at least half covered); worked out with
# closed formulas and checked by the oracle outside this repository, with transformers 4.57.6 and 5.23.0.
Q4_HALF = "555-562,593-601,631-639,669-677,707-715,745-753,783-791,821-829,859-867,897-905"
Q7_BOXES = {2: (64, 64, 160, 128), 3: (96, 64, 192, 128), 6: (0, 0, 64, 64)}
GOLDEN = {
    "Q1 no resize": ([image(640, 480)], [(0, (96, 64, 224, 192))], 300, 16, "43-46,63-66,83-86,103-106"),
    "Q2 COCO": ([image(640, 427)], [(0, (374, 65, 510, 267))], 260, 40, "52-55,72-75,92-95,112-115,132-135,152-155"),
    "Q3 small": ([image(200, 150)], [(0, (50, 30, 120, 90))], 70, 16, "13-15,22-25,32-35"),
    "Q4 page": ([image(1224, 1584)], [(0, (732, 458, 1028, 766))], 1900, 110, Q4_HALF),
    "Q5 less than a token": ([image(640, 480)], [(0, (100, 100, 110, 110))], 300, 1, ""),
    "Q6 second of three": (
        [image(640, 480), image(320, 512), image(800, 600)],
        [(1, (64, 128, 192, 256))],
        935,
        16,
        "342-345,352-355,362-365,372-375",
    ),
    "Q7 video": (
        [video(7, 320, 240)],
        [(0, box, (frame,)) for frame, box in Q7_BOXES.items()],
        320,
        18,
        "103-104,112-115,240-241,250-251",
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_video if "video" in n else ()) for n in GOLDEN])
def test_golden_cases(oracle, name):
    media, evidence, num_visual, num_any, half = GOLDEN[name]
    case = example(media, *(Evidence(*part) for part in evidence))
    prepared = QWEN.prepare(oracle.processor, case)
    assert int(prepared.visual_mask.sum()) == num_visual
    assert len(ranks(prepared)) == num_any
    if half:
        assert ranks(QWEN.prepare(oracle.processor, case, min_coverage=0.5)) == runs(half)
    else:
        assert ranks(prepared) == [63]
        with pytest.raises(ValueError, match="no visual token shows its evidence.*Lower min_coverage"):
            QWEN.prepare(oracle.processor, case, min_coverage=0.5)
    assert disagreements(oracle, QWEN, [case]) == []


def side(rng, most):
    """Log-uniform, so that most cases are small and quick."""
    return int(np.exp(rng.uniform(np.log(60), np.log(most + 1))))


def random_media(rng, kind):
    if kind == "image":
        return [image(side(rng, 1600), side(rng, 1600))]
    count = 1 if kind == "video" else int(rng.integers(2, 5))
    kinds = rng.choice(["image", "video"], count) if kind == "mixed" else [kind.removesuffix("s")] * count
    media = []
    for one in kinds:
        if one == "image":
            media.append(image(side(rng, 500), side(rng, 500)))
        else:
            frames = int(rng.integers(1, 10))
            ids = tuple(int(i) for i in np.cumsum(rng.integers(1, 200, frames)))
            media.append(video(frames, side(rng, 320), side(rng, 320), float(rng.choice([1, 24, 29.97])), ids))
    return media


def random_example(rng, kind):
    media = random_media(rng, kind)
    shown = rng.choice(len(media), int(rng.integers(1, min(len(media), 2) + 1)), replace=False)
    evidence = [random_evidence(rng, media, int(medium)) for medium in sorted(shown)]
    first = evidence[0]
    if isinstance(media[first.media], Video) and first.frames is not None and len(first.frames) > 1:
        # A tube: another box in each frame.
        evidence[:1] = [
            Evidence(first.media, random_evidence(rng, media, first.media).box, (frame,)) for frame in first.frames
        ]
    content = list(range(len(media)))
    for place in sorted(rng.integers(0, len(media) + 1, 2), reverse=True):
        content.insert(int(place), str(rng.choice(["Where?", "page 1: ", "0.5 seconds", "\n"])))
    return example(media, *evidence, content=(*content, "So: Where? Answer."))


def test_random_case(oracle, case_seed):
    """A batch of one to three prompts; `--geometry-cases N` runs N of them."""
    rng = np.random.default_rng(case_seed)
    kind = ("image", "images", "video", "mixed", "image", "mixed", "video")[case_seed % 7]
    if kind in ("video", "mixed") and not is_torchvision_available():
        pytest.skip("torchvision, which video processors need, is not installed")
    batch = [random_example(rng, kind)]
    while kind != "image" and len(batch) < 3 and rng.random() < 0.3:
        batch.append(random_example(rng, rng.choice(["images", kind])))
    assert disagreements(oracle, QWEN, batch) == []


class SmallBudget(Qwen3VLOracle):
    """Fewer pixels than the images have, as one sets them for long documents."""

    image_processor = Qwen3VLOracle.image_processor | {"size": {"shortest_edge": 4096, "longest_edge": 50176}}
    video_processor = Qwen3VLOracle.video_processor | {"size": {"shortest_edge": 4096, "longest_edge": 200704}}


@pytest.mark.parametrize(
    "media, tokens",
    [
        # 50,176 pixels: 640 x 480 shrinks by 2.474 to 258 x 194, rounded down to 8 x 6 tokens
        ([image(640, 480)], 48),
        # a strip: 63 x 1 tokens are too many, so both sides grow by 1.119 and are rounded down, to 70 x 1 tokens
        ([image(2010, 20)], 70),
        # 7 frames, so 28,672 pixels each: 320 x 240 shrinks by 1.637 to 195 x 146, so 6 x 4 tokens and 4 groups
        pytest.param([video(7, 320, 240)], 96, marks=needs_video),
    ],
    ids=["image", "strip", "video"],
)
def test_other_budgets_of_pixels(oracle_of, media, tokens):
    oracle = oracle_of(SmallBudget)
    case = example(media, Evidence(0, (7, 3, 90, 17)))
    assert int(QWEN.prepare(oracle.processor, case).visual_mask.sum()) == tokens
    assert disagreements(oracle, QWEN, [case]) == []


class Wrong(Qwen3VL):
    """A Qwen3-VL geometry with one mistake."""

    def __init__(self, mistake):
        self.mistake = mistake

    def geometries(self, processor, inputs, examples):
        return [[self.mistake(tokens) for tokens in row] for row in super().geometries(processor, inputs, examples)]


def taken(tokens, order):
    return Geometry(tokens.cells[order], tokens.weights[order], tokens.frames[order], tokens.views[order])


def shape_of(tokens):
    """(groups, rows, columns) of a grid."""
    groups = len(np.unique(tokens.frames[:, 0]))
    columns = len(np.unique(tokens.cells[:, 0, 0]))
    return groups, len(tokens) // groups // columns, columns


def off_by_one(tokens):
    return taken(tokens, np.roll(np.arange(len(tokens)), 1))


def column_major(tokens):
    groups, rows, columns = shape_of(tokens)
    return taken(tokens, np.arange(len(tokens)).reshape(groups, rows, columns).swapaxes(1, 2).ravel())


def paper_eq_4_5(tokens):
    """Token k shows the patches 4k to 4k + 3 of a row-major grid of patches: a strip, not a 2 x 2 block."""
    _, rows, columns = shape_of(tokens)
    width, height = tokens.cells[..., 2].max() / columns / 2, tokens.cells[..., 3].max() / rows / 2
    patch = 4 * np.arange(rows * columns)
    left, top = patch % (2 * columns) * width, patch // (2 * columns) * height
    cells = np.stack([left, top, left + 4 * width, top + height], axis=1)[:, None]
    return Geometry(np.tile(cells, (len(tokens) // len(cells), tokens.cells.shape[1], 1)), *_rest(tokens))


def _rest(tokens):
    return tokens.weights, tokens.frames, tokens.views


def frames_shifted(tokens):
    return Geometry(tokens.cells, tokens.weights, np.maximum(tokens.frames - 1, 0), tokens.views)


def frames_in_blocks(tokens):
    """Group g shows the frames g and g + G instead of 2g and 2g + 1."""
    groups = len(np.unique(tokens.frames[:, 0]))
    wrong = tokens.frames // 2 + groups * (np.arange(2) == 1)
    return Geometry(tokens.cells, tokens.weights, wrong, tokens.views)


def first_frame_only(tokens):
    return Geometry(tokens.cells, tokens.weights, tokens.frames[:, :1].repeat(2, axis=1), tokens.views)


def last_frame_once(tokens):
    """The odd last frame is half of its token."""
    weights = np.where((tokens.frames == tokens.frames.max()) & (np.arange(2) == 1), 0.0, tokens.weights)
    return Geometry(tokens.cells, weights, tokens.frames, tokens.views)


def half_a_cell_lower(tokens):
    step = (tokens.cells[..., 3] - tokens.cells[..., 1])[..., None] / 2
    return Geometry(tokens.cells + step * np.array([0, 1, 0, 1]), *_rest(tokens))


IMAGE_MISTAKES = [off_by_one, column_major, paper_eq_4_5, half_a_cell_lower]
VIDEO_MISTAKES = [off_by_one, column_major, paper_eq_4_5, frames_shifted, frames_in_blocks, first_frame_only]


@pytest.mark.parametrize("mistake", IMAGE_MISTAKES)
@pytest.mark.parametrize("size", [(640, 427), (512, 512)], ids=str)
def test_a_wrong_mapping_of_images_is_caught(oracle, mistake, size):
    case = example([image(*size)], Evidence(0, (100, 65, 260, 167)))
    assert disagreements(oracle, QWEN, [case]) == []
    assert disagreements(oracle, Wrong(mistake), [case]), "the oracle does not notice a wrong mapping"


@needs_video
@pytest.mark.parametrize("mistake", [*VIDEO_MISTAKES, last_frame_once])
def test_a_wrong_mapping_of_videos_is_caught(oracle, mistake):
    case = example([video(7, 160, 120)], Evidence(0, (32, 40, 100, 90), (3, 6)))
    assert disagreements(oracle, QWEN, [case]) == []
    assert disagreements(oracle, Wrong(mistake), [case]), "the oracle does not notice a wrong mapping"


class MediaSwapped(Qwen3VL):
    """Counts the images of a prompt from the last to the first."""

    def placeholders(self, processor, example):
        return [(placeholder, media[::-1]) for placeholder, media in super().placeholders(processor, example)]


class EquallySpaced(Qwen3VL):
    """Takes the tokens of a prompt as one piece, as if no timestamp stood between them."""

    def _columns(self, processor, ids, example, geometry):
        columns = super()._columns(processor, ids, example, geometry)
        return tuple(where[0] + np.arange(len(where)) for where in columns)


def test_a_wrong_order_of_images_is_caught(oracle):
    case = example([image(256, 256), image(256, 256)], Evidence(1, (40, 40, 100, 100)))
    assert disagreements(oracle, QWEN, [case]) == []
    assert disagreements(oracle, MediaSwapped(), [case])


@needs_video
def test_tokens_taken_as_one_piece_are_caught(oracle):
    case = example([video(4, 160, 120)], Evidence(0, (32, 40, 100, 90), (2,)))
    assert disagreements(oracle, QWEN, [case]) == []
    assert disagreements(oracle, EquallySpaced(), [case])


@needs_video
@pytest.mark.parametrize(
    "count, frames, tokens, coverage",
    [
        (4, (0,), [9], [0.5]),
        (4, (1,), [9], [0.5]),
        (4, (2, 3), [25], [1.0]),
        (4, (1, 2), [9, 25], [0.5, 0.5]),
        (3, (2,), [25], [1.0]),  # the odd last frame is shown twice
        (1, (0,), [9], [1.0]),
        (4, None, [9, 25], [1.0, 1.0]),
    ],
)
def test_video_by_hand(processor, count, frames, tokens, coverage):
    """64 x 64 px: 4 x 4 tokens per group of two frames; the box is row 2, column 1."""
    part = Evidence(0, (16, 32, 32, 48), frames)
    prepared = QWEN.prepare(processor, example([video(count)], part))
    assert ranks(prepared) == tokens
    assert int(prepared.visual_mask.sum()) == 16 * -(-count // 2)
    assert prepared.geometry[0][0].coverage([part])[tokens].tolist() == coverage


@needs_video
def test_a_tube_fills_both_frames_of_its_tokens(processor):
    """A part per frame: frame 0 shows cells 0 and 1, frame 1 cells 1 and 2, so only cell 1 is wholly covered."""
    tube = Evidence(0, (0, 0, 32, 16), (0,)), Evidence(0, (16, 0, 48, 16), (1,))
    case = example([video(2)], *tube)
    assert ranks(QWEN.prepare(processor, case)) == [0, 1, 2]
    assert ranks(QWEN.prepare(processor, case, min_coverage=0.6)) == [1]


@needs_video
def test_media_of_both_kinds_are_found_in_any_order(processor):
    """Image, video, image, video in one prompt: the evidence of each stands where its own tokens are."""
    media = [image(64, 32), video(2, 64, 64), image(32, 64), video(3, 32, 32)]
    counts = [8, 16, 8, 8]
    for medium, count in enumerate(counts):
        prepared = QWEN.prepare(processor, example(media, Evidence(medium)))
        start = sum(counts[:medium])
        assert ranks(prepared) == list(range(start, start + count))
        placeholder = processor.video_token_id if medium % 2 else processor.image_token_id
        assert set(prepared.inputs["input_ids"][prepared.evidence_mask].tolist()) == {placeholder}


@needs_video
@pytest.mark.parametrize(
    "fps, frame_ids, times",
    [
        (2.0, None, ["0.2", "1.2"]),  # frames at 0, 0.5 | 1, 1.5 s; 0.25 rounds to even
        (25.0, (0, 25, 50, 275), ["0.5", "6.5"]),
        (29.97, (300, 600, 30000, 30030), ["15.0", "1001.5"]),
    ],
)
def test_timestamps_are_those_of_the_frames(processor, fps, frame_ids, times):
    prepared = QWEN.prepare(processor, example([video(4, fps=fps, frame_ids=frame_ids)], Evidence(0)))
    text = processor.tokenizer.decode(prepared.inputs["input_ids"][0])
    assert re.findall(r"<([\d.]+) seconds>", text) == times


@needs_video
@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_the_model_sees_exactly_the_given_frames(processor, count):
    """Every frame has its own grey; nothing is sampled again, whatever the frame rate says."""
    greys = np.linspace(0, 255, count).astype(np.uint8)
    frames = np.broadcast_to(greys[:, None, None, None], (count, 64, 64, 3))  # read-only
    prepared = QWEN.prepare(processor, example([Video(frames, 29.97)], Evidence(0)))
    patches = prepared.inputs["pixel_values_videos"].view(-1, 64, 3, 2, 64)  # group, patch, colour, frame, pixel
    shown = (patches.mean(dim=(1, 2, 4)) * 127.5 + 127.5).flatten().tolist()
    expected = [*greys.tolist(), greys.tolist()[-1]][: count + count % 2]
    assert shown == pytest.approx(expected, abs=0.01)


@needs_video
@pytest.mark.parametrize("question", ["seconds", "0.2 seconds", "<0.2 seconds>", "When?"])
def test_question_rows_of_a_video_prompt(processor, question):
    """Timestamps are text as well; the rows are those of the question behind them."""
    prepared = QWEN.prepare(processor, example([video(4)], Evidence(0), question=question))
    ids, rows = prepared.inputs["input_ids"][0], prepared.question_mask[0].nonzero().flatten()
    assert rows.tolist() == list(range(int(rows[0]), int(rows[-1]) + 1))
    assert processor.tokenizer.decode(ids[rows]) == question
    assert int(rows[0]) > int(prepared.visual_mask[0].nonzero().max())
    assert processor.tokenizer.decode(ids[rows[-1] + 1 :]).startswith("<|im_end|>")


@needs_video
def test_a_padded_batch_of_mixtures_is_its_examples_one_by_one(processor):
    batch = [
        example([video(2, 64, 32)], Evidence(0, (0, 0, 16, 16), (1,))),
        example([image(64, 64), video(5), image(32, 32)], Evidence(1, (20, 20, 40, 40), (2, 4)), Evidence(2)),
        example([image(48, 48)], Evidence(0, (20, 20, 21, 21)), question="What is in the picture?"),
    ]
    together = QWEN.prepare(processor, batch)
    padding = (together.inputs["attention_mask"] == 0).sum(dim=1).tolist()
    assert padding[1] == 0 and padding[0] > 0 and padding[2] > 0
    for row, (case, pad) in enumerate(zip(batch, padding, strict=True)):
        alone = QWEN.prepare(processor, case)
        assert torch.equal(together.inputs["input_ids"][row, pad:], alone.inputs["input_ids"][0])
        for name in ("question_mask", "evidence_mask", "visual_mask"):
            assert torch.equal(getattr(together, name)[row, pad:], getattr(alone, name)[0]), name
        for ours, single in zip(together.columns[row], alone.columns[0], strict=True):
            assert np.array_equal(ours, single + pad)


@needs_video
def test_the_moe_variant_maps_alike(processor):
    case = example([image(64, 64), video(3)], Evidence(0, (0, 0, 9, 9)), Evidence(1, (20, 20, 40, 40), (2,)))
    dense, moe = (FAMILIES[name].prepare(processor, case) for name in ("qwen3_vl", "qwen3_vl_moe"))
    assert torch.equal(dense.evidence_mask, moe.evidence_mask) and dense.inputs.keys() == moe.inputs.keys()


def test_a_processor_without_videos_says_what_to_install(processor):
    without = copy.copy(processor)
    without.video_processor = None
    with pytest.raises(ImportError, match=r"loaded without torchvision.*corehead-hf\[video\].*load_processor"):
        QWEN.prepare(without, example([video(2)], Evidence(0)))


def model_for(processor, variant, attention):
    """A tiny model that takes what the Glyphs processor makes."""
    config = config_for(variant, vocab_size=384)
    config.vision_config.patch_size = 8
    tokenizer = processor.tokenizer
    config.image_token_id, config.video_token_id = processor.image_token_id, processor.video_token_id
    config.vision_start_token_id = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    config.vision_end_token_id = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    return randomize(model.float().eval())


def batch_of(kind):
    picture = example([image(64, 64), image(32, 48)], Evidence(1, (0, 0, 20, 20)))
    if kind == "images":
        return [picture, example([image(96, 64)], Evidence(0, (30, 10, 50, 40)))]
    clip = example([video(5)], Evidence(0, (0, 0, 33, 20), (1, 4)))
    if kind == "video":
        return [clip]
    both = example([video(3, 32, 48), image(64, 64), video(2)], Evidence(0, None, (1,)), Evidence(2, (0, 0, 30, 30)))
    return [picture, clip, both]


@pytest.mark.parametrize("variant", ["qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize(
    "kind", ["images", pytest.param("video", marks=needs_video), pytest.param("mixed", marks=needs_video)]
)
def test_recorded_ram_is_that_of_eager_attention(processor, variant, kind):
    """prepare -> prefill -> RAM against the attention matrices of the native eager model."""
    generator, batch = np.random.default_rng(0), batch_of(kind)
    for case in batch:
        for medium in case.media:
            array = medium.frames if isinstance(medium, Video) else medium
            array[:] = generator.integers(0, 256, array.shape, dtype=np.uint8)
    prepared = FAMILIES[variant].prepare(processor, batch)
    with torch.no_grad():
        eager = model_for(processor, variant, "eager")(**prepared.inputs, output_attentions=True)
    question, evidence = (mask[:, None].float() for mask in (prepared.question_mask, prepared.evidence_mask))
    expected = []
    for weights in eager.attentions:  # [B, Hq, T, S]
        rows = (weights.float() * question[..., None]).sum(dim=2) / question.sum(dim=-1, keepdim=True)
        expected.append((rows * evidence).sum(dim=-1))
    model = AutoCoReModel.from_model(model_for(processor, variant, "sdpa"))
    with model.record_attention(prepared.question_mask, prepared.evidence_mask) as recording:
        model.prefill(**prepared.inputs)
    torch.testing.assert_close(recording.ram, torch.stack(expected, dim=1), rtol=1e-4, atol=1e-5)
    assert recording.ram.max() > 0.05, "no head looks at the evidence; the comparison says little"
