"""Answers to a harness's prompts: the tiny models must say what AnswerScorer hears, whatever is switched on."""

import numpy as np
import pytest
import torch

from corehead_hf import HeadMap, load_processor
from corehead_hf.analysis import AnswerScorer
from corehead_hf.analysis.groups import count_from_gap
from corehead_hf.analysis.interventions import Ablations, hybrid
from corehead_hf.data import glyphs
from corehead_hf.demo import find_models
from corehead_hf.families import family_of
from corehead_hf.integrations.answerer import Answerer
from corehead_hf.integrations.arguments import ModelArguments
from corehead_hf.integrations.conversation import Conversation, Frames, read_conversation
from corehead_hf.integrations.generation import Generation

SHORT = {"max_new_tokens": 2, "until": ["\n\n"]}
SINK, WINDOW = 4, 16
EXAMPLES = [e for pages in (3, 5) for e in glyphs.generate(2, seed=99, pages=pages)]


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_onevision", "internvl"])
def folder(request):
    return find_models()[request.param]


@pytest.fixture(scope="module")
def qwen():
    return find_models()["qwen3_vl"]


@pytest.fixture(scope="module")
def head_map(folder):
    return HeadMap.from_pretrained(f"{folder}-head-map")


@pytest.fixture(scope="module")
def dense(folder):
    return answerer(folder)


def answerer(folder, **given):
    arguments = ModelArguments.read({"pretrained": str(folder), "dtype": "float32", **given})
    return Answerer(arguments, torch.device("cpu"))


def conversations(examples=EXAMPLES):
    found = []
    for example in examples:
        content = [{"type": "image"}] * len(example.media) + [{"type": "text", "text": example.question}]
        found.append(Conversation([{"role": "user", "content": content}], example))
    return found


def texts(made, examples=EXAMPLES):
    return [answer.text for answer in made.answer(conversations(examples), SHORT)]


def heard(made, under=None):
    """What AnswerScorer hears from the same model, one prompt at a time."""
    found = []
    family = family_of(made.model)
    batches = [family.prepare(made.processor, example) for example in EXAMPLES]
    AnswerScorer(made.model, made.processor, batches, match=lambda text, _: found.append(text) or 0.0)(under)
    return found


def test_prompts_are_those_of_the_family(dense):
    expected = dense.family.prompt(dense.processor, EXAMPLES)
    found = dense.encode(conversations())
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, torch.as_tensor(expected[name]).to(tensor.dtype)), name


def test_dense_answers(dense):
    assert texts(dense) == heard(dense)
    assert [text.strip() for text in texts(dense)] == [example.answer for example in EXAMPLES]
    assert dense.model.hybrid is None and dense.ablated is None


def test_hybrid_keeps_what_the_top_heads_find_and_loses_the_rest(folder, head_map, dense):
    count = count_from_gap(head_map)
    sizes = {"sink_size": SINK, "window_size": WINDOW}
    top = answerer(folder, head_map=f"{folder}-head-map", keep=count, **sizes)
    bottom = answerer(folder, heads=head_map.bottom(count).nonzero().tolist(), **sizes)
    assert (top.model.hybrid.sink_size, top.model.hybrid.window_size, top.model.hybrid.dense_below) == (4, 16, 0)
    with hybrid(dense.model, head_map.bottom(count), SINK, WINDOW):
        expected = heard(dense)
    assert texts(bottom) == expected
    assert texts(top) == texts(dense) != expected


def test_ablations(folder, head_map, dense):
    count, sizes = count_from_gap(head_map), {"sink_size": SINK, "window_size": WINDOW}
    given = {"pretrained": str(folder), "head_map": f"{folder}-head-map", "ablate": "top", "ablate_count": count}
    made = answerer(folder, **given)
    for variant, more in (("zero", {}), ("visual", {}), ("stream", sizes)):
        made.arguments = ModelArguments.read({**given, "ablate_variant": variant, **more})
        expected = heard(dense, Ablations(dense.model, None, SINK, WINDOW).of(head_map.top(count), variant))
        assert texts(made) == expected != texts(dense), variant
        assert texts(made, EXAMPLES[:1]) == expected[:1], variant


def test_the_visual_mask_is_that_of_prepare(folder, head_map, dense, monkeypatch):
    given = {"ablate": "top", "ablate_count": 1, "ablate_variant": "visual", "head_map": "h", "pretrained": "m"}
    monkeypatch.setattr(dense, "arguments", ModelArguments.read(given))
    monkeypatch.setattr(dense, "ablated", head_map.top(1))
    seen = []
    ablate = type(dense.model).ablate_heads
    monkeypatch.setattr(dense.model, "ablate_heads", lambda *a, **k: seen.append(k) or ablate(dense.model, *a, **k))
    texts(dense)
    assert torch.equal(seen[0]["visual_mask"], dense.family.prepare(dense.processor, EXAMPLES).visual_mask)


def test_random_heads_follow_the_seed(qwen):
    head_map = HeadMap.from_pretrained(f"{qwen}-head-map")
    given = {"head_map": f"{qwen}-head-map", "ablate": "random", "ablate_count": 2}
    for seed in (0, 5):
        found = answerer(qwen, **given, **({"seed": seed} if seed else {})).ablated
        assert torch.equal(found, head_map.random(2, seed, exclude=head_map.top(2)))
    with pytest.raises(ValueError, match="lower ablate_count"):
        answerer(qwen, **{**given, "ablate_count": 0.9})


def test_counts_of_tokens(dense):
    inputs = dense.encode(conversations())
    found = dense.answer(conversations(), SHORT)
    assert [answer.num_input for answer in found] == inputs["attention_mask"].sum(dim=1).tolist()
    assert len({answer.num_input for answer in found}) > 1  # some were padded
    assert {answer.num_output for answer in found} == {2}  # the colour and the end of the turn


def test_memory_that_does_not_reach_is_asked_for_less(qwen, monkeypatch):
    made = answerer(qwen)
    expected, sizes = texts(made), []
    generate = type(made.model).generate

    def short_of_memory(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return generate(made.model, **inputs)

    monkeypatch.setattr(made.model, "generate", short_of_memory)
    assert texts(made) == expected
    assert sizes == [len(EXAMPLES)] + [1] * len(EXAMPLES)
    assert made.num_failed == 0


@pytest.mark.parametrize("on_error", ["raise", "empty"])
def test_a_prompt_that_fails_alone(qwen, caplog, on_error):
    made = answerer(qwen, on_error=on_error)
    asked = conversations(EXAMPLES[:3])
    asked[1].messages[0]["content"].append({"type": "text", "text": f"See {made.processor.image_token}."})
    if on_error == "raise":
        with pytest.raises(ValueError, match=rf"{asked[1].example.id}: the task's text holds .*image_pad"):
            made.answer(asked, SHORT)
        return
    found = [answer.text for answer in made.answer(asked, SHORT)]
    assert found == [*texts(made, EXAMPLES[:1]), "", *texts(made, EXAMPLES[2:3])]
    assert made.num_failed == 1 and asked[1].example.id in caplog.text


def test_marks_of_pictures_in_a_text_are_refused(dense):
    for mark in (dense.processor.image_token, dense.processor.video_token):
        messages = [{"role": "user", "content": f"{mark}\nWhich?"}]
        with pytest.raises(ValueError, match="stands for a picture"):
            dense.answer([read_conversation(messages, "task, test 0", Frames())], SHORT)


def test_text_alone_and_several_turns(dense):
    turns = [("user", "Letter A?"), ("assistant", "red"), ("user", "Letter B?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (found,) = dense.answer([read_conversation(messages, "n", Frames(), "Be short.")], SHORT)
    ids = dense.encode([read_conversation(messages, "n", Frames(), "Be short.")])["input_ids"][0]
    prompt = dense.processor.tokenizer.decode(ids)
    places = [prompt.index(text) for text in ("Be short.", "Letter A?", "red", "Letter B?")]
    assert places == sorted(places) and found.num_input == len(ids)


def image_tokens(made, *pages):
    messages = [{"role": "user", "content": [{"type": "image"}] * len(pages) + [{"type": "text", "text": "?"}]}]
    example = glyphs.Example("n", tuple(np.zeros((*page, 3), dtype=np.uint8) for page in pages), "?", "", ())
    ids = made.encode([Conversation(messages, example)])["input_ids"]
    return int((ids == made.processor.image_token_id).sum())


def test_sizes_of_pictures(qwen):
    assert image_tokens(answerer(qwen), (64, 64)) == 16  # 16 x 16 pixels a token
    assert image_tokens(answerer(qwen, max_pixels=32 * 32), (64, 64)) == 4
    assert image_tokens(answerer(qwen, min_pixels=128 * 128, max_pixels=128 * 128), (64, 64)) == 64
    internvl = find_models()["internvl"]
    one = image_tokens(answerer(internvl, max_tiles=1), (64, 128))
    assert image_tokens(answerer(internvl, min_tiles=2, max_tiles=2), (64, 128)) == 3 * one  # and the thumbnail


def test_flat_images(qwen):
    llava = find_models()["llava_onevision"]
    nested, flat = (image_tokens(answerer(llava, **given), (64, 64), (64, 64)) for given in ({}, {"flat_images": True}))
    assert flat == 2 * image_tokens(answerer(llava), (64, 64)) != nested


@pytest.mark.parametrize(
    ("family", "given"),
    [("internvl", {"max_pixels": 9}), ("qwen3_vl", {"max_tiles": 2}), ("qwen3_vl", {"flat_images": True})],
)
def test_sizes_of_another_family_are_refused(family, given):
    with pytest.raises(ValueError, match=f"this model is {family}"):
        answerer(find_models()[family], **given)


def test_loading_arguments_reach_the_model(qwen):
    made = answerer(qwen, dtype="bfloat16", attn_implementation="eager")
    assert made.model.dtype == torch.bfloat16
    assert load_processor(qwen).tokenizer.get_vocab() == made.processor.tokenizer.get_vocab()
    with pytest.raises(ValueError, match="attn_implementation"):
        answerer(qwen, attn_implementation="corehead")


def test_what_generate_does_not_know_is_told_once(qwen, caplog):
    made = answerer(qwen)
    assert Generation.read({"image_aspect_ratio": "pad"}).unused == ("image_aspect_ratio",)
    for _ in range(2):
        made.answer(conversations(EXAMPLES[:1]), {**SHORT, "image_aspect_ratio": "pad"})
    assert caplog.text.count("image_aspect_ratio") == 1


def test_a_stop_ends_a_generated_answer(qwen):
    made = answerer(qwen)
    (whole,) = texts(made, EXAMPLES[:1])
    (cut,) = made.answer(conversations(EXAMPLES[:1]), {**SHORT, "until": [whole[1:]]})
    assert cut.text == whole[:1]
