from contextlib import contextmanager, nullcontext
from dataclasses import replace

import killed_study
import numpy as np
import pytest
import torch

from corehead_hf import load_processor
from corehead_hf.analysis.answers import AnswerScorer, batches_digest, exact_match
from corehead_hf.families import family_of
from corehead_hf.patching import native_model

NAME = "glyphs-qwen3-vl"


@pytest.fixture(scope="module")
def loaded():
    """The model, its head map and a scorer of 3 + 3 examples that it answers rightly."""
    return killed_study.loaded(NAME, num_examples=6)


def with_answers(batch, answers):
    examples = [replace(e, answer=answer) for e, answer in zip(batch.examples, answers, strict=True)]
    return replace(batch, examples=tuple(examples))


@pytest.fixture(scope="module")
def spoilt(loaded):
    """Batches in which the second and the sixth example expect another answer."""
    _, _, scorer = loaded
    answers = [[example.answer for example in batch.examples] for batch in scorer.batches]
    answers[0][1], answers[1][2] = "magenta", answers[1][2] + "ish"
    return [with_answers(batch, row) for batch, row in zip(scorer.batches, answers, strict=True)]


def test_an_answer_is_right_where_it_stands_alone():
    assert [exact_match(text, "red") for text in ("red", " red\n", "Red", "red.", "", "reddish")] == [1, 1, 0, 0, 0, 0]
    assert exact_match("", "") == 1


def test_scores_are_those_of_each_example_by_itself(loaded, spoilt):
    model, _, scorer = loaded
    scores = AnswerScorer(model, scorer.processor, spoilt)()
    assert scores.dtype == np.float64 and scores.tolist() == [1, 0, 1, 1, 1, 0]
    native, processor = native_model(model), load_processor(killed_study.MODELS / NAME)
    alone = []
    for batch in spoilt:
        for example in batch.examples:
            inputs = family_of(native).prepare(processor, example).inputs
            tokens = native.generate(**inputs, max_new_tokens=2, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            alone.append(float(processor.tokenizer.decode(tokens, skip_special_tokens=True) == example.answer))
    assert scores.tolist() == alone


def test_what_is_done_to_the_model_lasts_for_its_batch(loaded):
    model, head_map, scorer = loaded
    seen = []

    @contextmanager
    def under(batch):
        seen.append(batch)
        with model.ablate_heads(head_map.top(1)) if batch is scorer.batches[1] else nullcontext():
            yield

    scores = scorer(under)
    assert [batch is known for batch, known in zip(seen, scorer.batches, strict=True)] == [True, True]
    assert scores[:3].tolist() == [1, 1, 1] and scores[3:].sum() < 2
    assert model.core_state.modes == []


def test_match_gets_text_and_answer_and_gives_the_score(loaded, spoilt):
    model, _, scorer = loaded
    seen, batches = [], []

    def match(text, answer):
        seen.append((text, answer))
        return len(seen) / 8

    options = {"match": match, "on_batch": lambda: batches.append(len(seen))}
    scores = AnswerScorer(model, scorer.processor, spoilt, **options)()
    assert scores.tolist() == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8] and batches == [3, 6]
    right = [example.answer for batch in scorer.batches for example in batch.examples]
    asked = [example.answer for batch in spoilt for example in batch.examples]
    assert [(text.strip(), answer) for text, answer in seen] == list(zip(right, asked, strict=True))


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan"), 100])
def test_a_score_outside_0_to_1_is_refused(loaded, score):
    model, _, scorer = loaded
    with pytest.raises(ValueError, match=r"match gave .* scores lie in \[0, 1\]"):
        AnswerScorer(model, scorer.processor, scorer.batches[:1], match=lambda text, answer: score)()


def test_answers_to_nothing_are_refused(loaded):
    with pytest.raises(ValueError, match="no examples"):
        AnswerScorer(None, None, [])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        AnswerScorer(None, None, loaded[2].batches, max_new_tokens=0)


def test_about_tells_every_change_of_what_is_scored(loaded, spoilt):
    model, _, scorer = loaded
    again = killed_study.loaded(NAME, num_examples=6)[2]
    assert again.about == scorer.about
    first, second = scorer.batches
    pixels = first.inputs["pixel_values"].clone()
    pixels[-1, -1] += 1
    changed = {
        "answers": AnswerScorer(model, None, spoilt),
        "pixels": AnswerScorer(model, None, [replace(first, inputs={**first.inputs, "pixel_values": pixels}), second]),
        "order": AnswerScorer(model, None, [second, first]),
        "fewer": AnswerScorer(model, None, [first]),
        "tokens": AnswerScorer(model, None, scorer.batches, max_new_tokens=3),
        "match": AnswerScorer(model, None, scorer.batches, match=max),
    }
    told = [str(scorer.about), *(str(other.about) for other in changed.values())]
    assert len(set(told)) == len(told)
    assert scorer.about["examples"].startswith("6, sha256 ")


def test_the_digest_knows_the_visual_tokens_and_the_dtype(loaded):
    batch = loaded[2].batches[0]
    others = [
        replace(batch, visual_mask=~batch.visual_mask),
        batch.to("cpu", torch.bfloat16),
        replace(batch, inputs={name: value for name, value in batch.inputs.items() if name != "attention_mask"}),
    ]
    assert len({batches_digest([other]) for other in (batch, *others)}) == 4
