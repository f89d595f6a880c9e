"""LLaVA-OneVision by hand: nesting, views, padding, mixtures, batches, prefills, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import coverage_of, disagreements
from oracle_llava_onevision import VIDEOS, Flat, Full, Small, example, image, ranks, video
from tiny_models import randomize
from transformers import AutoConfig, AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, Evidence, Video, load_processor
from corehead_hf.families import FAMILIES
from corehead_hf.families.geometry import GLOBAL, HIRES, NO_PLACE

FAMILY = FAMILIES["llava_onevision"]
# What llava-hf/llava-onevision-qwen2-7b-ov-hf does with a user's turn.
HUB_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_flat_and_nested_images_differ(oracle_of):
    """One nested image is any-resolution, two are not; handed over flat, both are."""
    processor, two = oracle_of(Small).processor, example([image(300, 200), image(90, 200)], Evidence(0))
    one = example(two.media[:1], Evidence(0))
    (alone,), nested = FAMILY.prepare(processor, one).geometry[0], FAMILY.prepare(processor, two).geometry[0]
    assert [len(tokens) for tokens in nested] == [50, 50] and len(alone) > 200
    flat = Flat().prepare(processor, two)
    assert np.array_equal(flat.geometry[0][0].cells, alone.cells) and len(flat.geometry[0][1]) > 100
    assert flat.inputs["batch_num_images"].tolist() == [1, 1]
    assert FAMILY.prepare(processor, two).inputs["batch_num_images"].tolist() == [2]


def test_views_of_a_single_image(oracle_of):
    """208 x 104 px fill two crops: the base view is squashed to half its width, the tiles are not resized."""
    processor = oracle_of(Small).processor
    case = example([image(208, 104)], Evidence(0, (104, 0, 118, 14)))
    prepared = FAMILY.prepare(processor, case)
    (tokens,) = prepared.geometry[0]
    assert tokens.views.tolist() == [GLOBAL] * 49 + ([HIRES] * 14 + [NO_PLACE]) * 7
    assert tokens.cells[[0, 3, 49, 55, 56], 0].tolist() == [
        [0, 0, 28, 14],
        [84, 0, 112, 14],
        [0, 0, 14, 14],
        [84, 0, 98, 14],
        [104, 0, 118, 14],
    ]
    assert ranks(prepared) == [3, 4, 56]
    assert ranks(FAMILY.prepare(processor, case, views="global")) == [3, 4]
    assert ranks(FAMILY.prepare(processor, case, views="hires")) == [56]


@pytest.mark.parametrize("width, left, right, token", [(896, 490, 512, 15), (832, 440, 455, 14)])
def test_a_box_that_touches_a_token_is_not_in_it(oracle_of, width, left, right, token):
    """Tokens of the base view begin at 14 c W / 384: token 15 at 490 and 455 exactly, which 14 c (W / 384) misses."""
    case = example([image(width, 384)], Evidence(0, (left, 0, right, 5)))
    assert ranks(FAMILY.prepare(oracle_of(Full).processor, case, views="global")) == [token]


def test_padding_is_no_evidence(checkpoint):
    """20 x 80 px in a square of 80: columns of 20 px from -30, of which the second and third show the image."""
    case = example([image(20, 80), image(64, 64)], Evidence(0))
    prepared = FAMILY.prepare(load_processor(checkpoint("llava_onevision")), case)
    assert ranks(prepared) == [1, 2, 5, 6, 9, 10, 13, 14]
    assert coverage_of(prepared)[prepared.evidence_mask.numpy()].tolist() == [0.5] * 8


@VIDEOS
@pytest.mark.parametrize("template", ["hoisting", "in place"])
def test_mixtures_keep_their_numbers(oracle_of, monkeypatch, template):
    """The Hub's template puts images before videos before text; medium 2 stays medium 2 wherever it stands."""
    oracle = oracle_of(Small)
    if template == "hoisting":
        monkeypatch.setattr(oracle.processor, "chat_template", HUB_TEMPLATE)
    media = [video(2, 60, 90), image(120, 60), video(2, 90, 60), image(50, 50)]
    for medium in range(4):
        part = Evidence(medium, (10, 10, 30, 25), (1,) if medium in (0, 2) else None)
        case = example(media, part, content=("First:", 0, "then", 1, 2, "and", 3, "Where is letter A?"))
        assert disagreements(oracle, FAMILY, [case]) == []
    firsts = [int(where[0]) for where in FAMILY.prepare(oracle.processor, case).columns[0]]
    order = [1, 3, 0, 2] if template == "hoisting" else [0, 1, 2, 3]
    assert np.argsort(firsts).tolist() == order


def test_rows_of_a_batch_are_the_examples_alone(oracle_of):
    """One image, several images and one image again, left-padded: each row as it is without the others."""
    processor = oracle_of(Small).processor
    cases = [
        example([image(300, 200)], Evidence(0, (30, 40, 90, 80))),
        example([image(50, 80), image(90, 30), image(64, 64)], Evidence(1, (5, 5, 40, 20)), Evidence(2)),
        example([image(100, 400)], Evidence(0, (30, 40, 90, 80)), question="Where?"),
    ]
    batch = FAMILY.prepare(processor, cases)
    assert batch.inputs["batch_num_images"].tolist() == [1, 3, 1]
    for row, case in enumerate(cases):
        alone = FAMILY.prepare(processor, case)
        padding = batch.inputs["input_ids"].shape[1] - alone.inputs["input_ids"].shape[1]
        assert torch.equal(batch.inputs["input_ids"][row, padding:], alone.inputs["input_ids"][0])
        assert not bool(batch.inputs["attention_mask"][row, :padding].any())
        for name in ("question_mask", "evidence_mask", "visual_mask"):
            mask = getattr(batch, name)[row]
            assert torch.equal(mask[padding:], getattr(alone, name)[0]) and not bool(mask[:padding].any())


def coloured(rng, medium):
    shape = (medium.frames if isinstance(medium, Video) else medium).shape
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    return replace(medium, frames=pixels) if isinstance(medium, Video) else pixels


@pytest.fixture(scope="module")
def tiny(checkpoint):
    """Processor and a function that builds the tiny checkpoint's model with peaked attention."""
    config = AutoConfig.from_pretrained(checkpoint("llava_onevision"))

    def build(attn_implementation):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attn_implementation)
        return randomize(model.float().eval())

    return load_processor(checkpoint("llava_onevision")), build


@pytest.mark.parametrize(
    "forms",
    [
        ["one"],
        ["several"],
        ["flat"],
        ["one", "several"],
        pytest.param(["video"], marks=VIDEOS),
        pytest.param(["mixed"], marks=VIDEOS),
        pytest.param(["video", "one", "mixed", "several"], marks=VIDEOS),
    ],
    ids="+".join,
)
def test_ram_of_a_prefill_is_that_of_eager_attention(tiny, forms):
    (processor, build), rng = tiny, np.random.default_rng(0)
    family, cases = Flat() if forms == ["flat"] else FAMILY, []
    media = {"one": [image(90, 50)], "several": [image(40, 64), image(80, 64)], "video": [video(3, 64, 40)]}
    media |= {"flat": media["several"], "mixed": [*media["video"], image(90, 50)]}
    for form in forms:
        cases.append(example([coloured(rng, medium) for medium in media[form]], Evidence(0, (5, 9, 30, 35))))
    prepared = family.prepare(processor, cases)
    assert all(isinstance(value, torch.Tensor) for value in prepared.inputs.values())
    model = AutoCoReModel.from_model(build("sdpa"))
    with model.record_attention(prepared.question_mask, prepared.evidence_mask) as recording:
        model.prefill(**prepared.inputs)
    with torch.no_grad():
        attentions = torch.stack(build("eager")(**prepared.inputs, output_attentions=True).attentions, dim=1)
    for row in range(len(cases)):
        seen = attentions[row][:, :, prepared.question_mask[row]][..., prepared.evidence_mask[row]]
        expected = seen.sum(dim=-1).mean(dim=-1)
        assert float(expected.max()) > 0.05, "no head looks at the evidence: nothing is compared"
        torch.testing.assert_close(recording.ram[row], expected, rtol=1e-4, atol=1e-6)


def test_what_is_not_mapped_is_refused(tiny, oracle_of, monkeypatch):
    processor, case = tiny[0], example([image(64, 64)], Evidence(0))
    spoken = example([image(64, 64)], Evidence(0), question="What is <image>?")
    with pytest.raises(ValueError, match="has 2 <image> for 1 media. Do not write <image>"):
        FAMILY.prepare(processor, spoken)
    for part, name, value, reason in (
        (processor, "num_image_tokens", 17, "num_image_tokens=17 .* is no square grid"),
        (processor.image_processor, "size", {"height": 64, "width": 48}, "crops of 64 x 48 pixels"),
        (processor.image_processor, "image_grid_pinpoints", [[96, 64]], "has 96 x 64, .* no multiple of the crop's 64"),
        (processor.image_processor, "do_resize", False, "do_resize=False"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=reason):
            patch.setattr(part, name, value)
            FAMILY.prepare(processor, case)


def test_videos_need_their_processor(tiny, monkeypatch):
    monkeypatch.setattr(tiny[0], "video_processor", None, raising=False)
    with pytest.raises(ImportError, match=r"needs torchvision: pip install 'corehead-hf\[video\]'"):
        FAMILY.prepare(tiny[0], example([video(2, 64, 64)], Evidence(0)))


@VIDEOS
def test_videos_of_different_lengths_are_refused(tiny):
    cases = [example([video(frames, 64, 64)], Evidence(0), id=f"{frames} frames") for frames in (2, 3)]
    with pytest.raises(ValueError, match=r"'2 frames': \[2\] frames; example '3 frames': \[3\] frames.*one by one"):
        FAMILY.prepare(tiny[0], cases)
