"""prepare() of every family against hand counts and against the pixels of the real processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corehead_hf import Evidence, Example, load_processor
from corehead_hf.families import FAMILIES, family_of
from corehead_hf.families.geometry import grid, single_cells
from corehead_hf.families.qwen3_vl import Qwen3VL

FAMILY_NAMES = ("qwen3_vl", "llava_onevision", "internvl")


@pytest.fixture(scope="module")
def processor_of(checkpoint):
    loaded = {}

    def get(family):
        if family not in loaded:
            loaded[family] = load_processor(checkpoint(family))
        return loaded[family]

    return get


def page(height=64, width=64, value=0):
    return np.full((height, width, 3), value, dtype=np.uint8)


def example(images, *boxes, question="Which color is next to letter A?"):
    return Example("hand-made", tuple(images), question, "red", tuple(boxes))


def found_tokens(family, processor, case, row=0):
    """Which visual tokens, counted over all images of the prompt, are evidence."""
    prepared = FAMILIES[family].prepare(processor, case)
    return prepared.evidence_mask[row][prepared.visual_mask[row]].nonzero().flatten().tolist()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize(
    "box, cells",
    [
        (Evidence(0, (16, 32, 32, 48)), [9]),  # exactly one cell: row 2, column 1
        (Evidence(0, (17, 33, 18, 34)), [9]),  # inside it
        (Evidence(0, (15, 32, 33, 48)), [8, 9, 10]),  # one pixel over its left and right borders
        (Evidence(0, (31.5, 31.5, 32.5, 32.5)), [5, 6, 9, 10]),  # a corner
        (Evidence(0, (0, 0, 64, 64)), list(range(16))),  # the page
        (Evidence(0, (0, 48, 64, 49)), [12, 13, 14, 15]),  # a line
    ],
    ids=str,
)
def test_boxes_by_hand(family, processor_of, box, cells):
    """Two pages of 4 x 4 cells of 16 px; the box lies on the first, then on the second."""
    processor = processor_of(family)
    pages = [page(), page()]
    assert found_tokens(family, processor, example(pages, box)) == cells
    second = Evidence(1, box.box)
    start = 17 if family == "llava_onevision" else 16  # a newline token ends each of its images
    assert found_tokens(family, processor, example(pages, second)) == [start + cell for cell in cells]
    assert found_tokens(family, processor, example(pages, box, second)) == cells + [start + cell for cell in cells]


def test_prepared_masks_and_places(processor_of):
    prepared = FAMILIES["llava_onevision"].prepare(
        processor_of("llava_onevision"),
        example([page(), page()], Evidence(0, (0, 0, 64, 64)), Evidence(1, (0, 0, 64, 64))),
    )
    assert prepared.visual_mask.sum() == 34 and prepared.evidence_mask.sum() == 32, "newlines are visual, no evidence"
    first, second = prepared.geometry[0]
    assert len(first) == len(second) == 17
    assert [bool(weights.any()) for weights in first.weights] == [True] * 16 + [False]
    assert first.cells[5, 0].tolist() == [16, 16, 32, 32]
    visual = prepared.visual_mask[0].nonzero().flatten().tolist()
    assert [*prepared.columns[0][0], *prepared.columns[0][1]] == visual
    assert not bool((prepared.evidence_mask & ~prepared.visual_mask).any())
    assert not bool((prepared.question_mask & prepared.visual_mask).any())
    moved = prepared.to("cpu", torch.bfloat16)
    assert moved.inputs["pixel_values"].dtype == torch.bfloat16 and moved.inputs["input_ids"].dtype == torch.int64


def test_qwen_resizes_both_axes_independently(processor_of):
    """70 x 102 px: rounded to 64 x 96, so 4 x 6 tokens, each 17.5 native pixels high and 17 wide."""
    processor, image = processor_of("qwen3_vl"), page(70, 102)
    prepared = FAMILIES["qwen3_vl"].prepare(processor, example([image], Evidence(0, (0, 0, 1, 1))))
    assert prepared.inputs["image_grid_thw"].tolist() == [[1, 8, 12]]
    assert prepared.visual_mask.sum() == 24
    for box, tokens in (
        (Evidence(0, (16, 17, 18, 18)), [0, 1, 6, 7]),
        (Evidence(0, (85, 53, 102, 70)), [23]),
        (Evidence(0, (84, 52, 102, 70)), [16, 17, 22, 23]),
    ):
        assert found_tokens("qwen3_vl", processor, example([image], box)) == tokens


def test_llava_pads_to_a_centred_square(processor_of):
    """48 x 80 px: 16 px of padding above and below, tokens of 20 x 20 native pixels from y = -16."""
    processor, pages = processor_of("llava_onevision"), [page(), page(48, 80)]
    for box, cells in (
        (Evidence(1, (19, 3, 21, 5)), [0, 1, 4, 5]),
        (Evidence(1, (0, 0, 20, 4)), [0]),
        (Evidence(1, (60, 44, 80, 48)), [15]),
        (Evidence(1, (0, 4, 80, 24)), [4, 5, 6, 7]),
    ):
        assert found_tokens("llava_onevision", processor, example(pages, box)) == [17 + cell for cell in cells]


def test_internvl_stretches_onto_its_square(processor_of):
    """48 x 80 px on 4 x 4 tokens: 12 px high and 20 px wide."""
    processor = processor_of("internvl")
    assert found_tokens("internvl", processor, example([page(48, 80)], Evidence(0, (19, 11, 21, 13)))) == [
        0,
        1,
        4,
        5,
    ]
    assert found_tokens("internvl", processor, example([page(48, 80)], Evidence(0, (60, 36, 80, 48)))) == [15]


def changed_tokens(family, blank, painted):
    """Per visual token of the last image: how much its pixels changed."""
    difference = (painted - blank).abs()
    if family == "qwen3_vl":  # rows are patches, four of a merged block after another
        return difference.sum(dim=-1).view(-1, 4).sum(dim=-1)
    image = difference.reshape(-1, 3, 64, 64)[-1].sum(dim=0)
    return image.view(4, 16, 4, 16).sum(dim=(1, 3)).flatten()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (90, 42)], ids=str)
def test_every_token_shows_its_rectangle(family, processor_of, size):
    """Paint the middle of one token's rectangle: of all tokens, that one's pixels change most."""
    height, width = size
    processor, blank = processor_of(family), page(height, width)
    pages = [page()] if family == "llava_onevision" else []
    whole = Evidence(len(pages), (0, 0, width, height))

    def pixels(image):
        prepared = FAMILIES[family].prepare(processor, example([*pages, image], whole))
        return prepared, prepared.inputs["pixel_values"].float()

    prepared, before = pixels(blank)
    tokens = prepared.geometry[0][len(pages)]
    shown = [cells[0] if weights.any() else None for cells, weights in zip(tokens.cells, tokens.weights, strict=True)]
    checked = 0
    for token, rect in enumerate(shown):
        if rect is None:
            continue
        left, top, right, bottom = rect
        margin_x, margin_y = (right - left) / 4, (bottom - top) / 4
        x0, x1 = max(0, round(left + margin_x)), min(width, round(right - margin_x))
        y0, y1 = max(0, round(top + margin_y)), min(height, round(bottom - margin_y))
        if x0 >= x1 or y0 >= y1:  # colour padding around the image
            continue
        painted = blank.copy()
        painted[y0:y1, x0:x1] = 255
        changed = changed_tokens(family, before, pixels(painted)[1])
        assert int(changed.argmax()) == token, (
            f"token {token} at {rect}: the processor shows it in {int(changed.argmax())}"
        )
        checked += 1
    assert checked >= 8


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_left_padded_batch_is_its_examples_one_by_one(family, processor_of):
    processor = processor_of(family)
    short = example([page(), page()], Evidence(1, (0, 0, 16, 16)), question="Letter B?")
    long = example([page(), page(), page(value=9)], Evidence(2, (20, 20, 40, 40)))
    batch = FAMILIES[family].prepare(processor, [short, long])
    padding = (batch.inputs["attention_mask"] == 0).sum(dim=1).tolist()
    assert padding[0] > 0 and padding[1] == 0
    assert batch.inputs["attention_mask"][0, : padding[0]].sum() == 0, "the padding is not on the left"
    for row, (case, pad) in enumerate(zip((short, long), padding, strict=True)):
        single = FAMILIES[family].prepare(processor, case)
        for name in ("question_mask", "evidence_mask", "visual_mask"):
            whole = getattr(batch, name)[row]
            assert torch.equal(whole[pad:], getattr(single, name)[0]) and not bool(whole[:pad].any()), name
        assert torch.equal(batch.inputs["input_ids"][row, pad:], single.inputs["input_ids"][0])
        for ours, alone in zip(batch.geometry[row], single.geometry[0], strict=True):
            assert np.array_equal(ours.cells, alone.cells) and np.array_equal(ours.weights, alone.weights)
        for ours, alone in zip(batch.columns[row], single.columns[0], strict=True):
            assert np.array_equal(ours, alone + pad)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("question", ["Which color is next to letter A?", "user", "Letter Z? Letter Z?"])
def test_question_rows_are_the_questions_text(family, processor_of, question):
    """Also where the same words stand earlier in the prompt: 'user' is the role's name as well."""
    processor = processor_of(family)
    prepared = FAMILIES[family].prepare(
        processor, example([page(), page()], Evidence(0, (0, 0, 9, 9)), question=question)
    )
    ids, rows = prepared.inputs["input_ids"][0], prepared.question_mask[0].nonzero().flatten()
    assert rows.tolist() == list(range(int(rows[0]), int(rows[-1]) + 1)), "the question rows are not one piece"
    assert processor.tokenizer.decode(ids[rows]).strip() == question
    assert int(rows[0]) > int(prepared.visual_mask[0].nonzero().max())
    following = processor.tokenizer.decode(ids[rows[-1] + 1 :])
    assert following.startswith("<|im_end|>")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_nothing_is_inserted_into_the_prompt(family, processor_of):
    processor = processor_of(family)
    case = example([page(), page()], Evidence(0, (0, 0, 9, 9)))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": case.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(text=[text], images=[list(case.images)], return_tensors="pt")["input_ids"]
    assert torch.equal(FAMILIES[family].prepare(processor, case).inputs["input_ids"], expected)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_prompt_alone_is_that_of_prepare(family, processor_of):
    """And needs no evidence; what the answer begins with ends it."""
    processor, located = processor_of(family), example([page(), page()], Evidence(0, (0, 0, 9, 9)))
    expected = FAMILIES[family].prepare(processor, located).inputs
    found = FAMILIES[family].prompt(processor, [example([page(), page()])])
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    begun = replace(located, answer_prefix="Answer:")
    (ids,) = FAMILIES[family].prompt(processor, [begun])["input_ids"].tolist()
    prefix = processor.tokenizer("Answer:", add_special_tokens=False).input_ids
    assert ids == expected["input_ids"][0].tolist() + prefix


def test_an_example_without_evidence_is_not_prepared(processor_of):
    with pytest.raises(ValueError, match="'hand-made' has no evidence; its RAM would be undefined"):
        FAMILIES["internvl"].prepare(processor_of("internvl"), example([page()]))


def test_another_familys_processor_is_refused(processor_of):
    with pytest.raises(ValueError, match="internvl needs a InternVLProcessor; got Qwen3VLProcessor.*load_processor"):
        FAMILIES["internvl"].prepare(processor_of("qwen3_vl"), example([page()], Evidence(0, (0, 0, 9, 9))))


def test_a_question_that_cannot_be_found_is_refused(processor_of):
    decomposed = "cafe\u0301?"  # the tokenizer composes it
    with pytest.raises(ValueError, match="is not in the rendered prompt"):
        FAMILIES["internvl"].prepare(
            processor_of("internvl"), example([page()], Evidence(0, (0, 0, 9, 9)), question=decomposed)
        )


def test_a_geometry_that_does_not_match_the_prompt_is_refused(processor_of):
    class Short(Qwen3VL):
        def geometries(self, processor, inputs, examples):
            return [[single_cells(grid((64, 64), 3, 5).cells[:, 0])]]

    with pytest.raises(ValueError, match="16 visual tokens in the prompt, 15 by the geometry of qwen3_vl"):
        Short().prepare(processor_of("qwen3_vl"), example([page()], Evidence(0, (0, 0, 9, 9))))


def test_grid_by_hand():
    cells = grid((30, 40), 2, 2).cells[:, 0].tolist()
    assert cells == [[0, 0, 20, 15], [20, 0, 40, 15], [0, 15, 20, 30], [20, 15, 40, 30]]


def test_text_model_is_the_decoder_stack(native):
    text_model = family_of(native).text_model(native)
    assert text_model is native.model.language_model
    assert len(text_model.layers) == 3
