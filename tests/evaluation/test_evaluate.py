"""evaluate on the shipped tiny models: its scores are AnswerScorer's, and what goes wrong is skipped and counted."""

import json
import logging
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.analysis.answers import AnswerScorer
from corehead_hf.analysis.interventions import hybrid
from corehead_hf.data import glyphs, load
from corehead_hf.evaluation import Setting, evaluate, read_answers
from corehead_hf.evaluation.setting import setting_of
from corehead_hf.families import family_of
from corehead_hf.scoring import Average, Scored

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
LAYOUT = {"seed": 4242, "pages": 3}
SIZES = {"sink_size": 4, "window_size": 16}
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 3 GiB.\nmore"


def loaded(family):
    folder = HUB / f"glyphs-{family}"
    model, processor = AutoCoReModel.from_pretrained(folder, dtype=torch.float32), load_processor(folder)
    return model, processor, HeadMap.from_pretrained(f"{folder}-head-map")


@pytest.fixture(scope="module")
def setting():
    """A model, its processor, its head map, ten examples of two lengths that it answers rightly."""
    examples = [e for pages in (3, 4) for e in glyphs.generate(5, seed=4242, pages=pages)]
    return *loaded("qwen3-vl"), examples


@pytest.fixture
def run(setting):
    """run(examples, ...): evaluate the model."""
    model, processor, _, examples = setting

    def evaluated(given=examples, **options):
        return evaluate(model, processor, given, **{"dataset": "glyphs", "batch_size": 4, **options})

    return evaluated


@pytest.fixture
def generations(setting, monkeypatch):
    """generations(size): those of more elements of input_ids than that run out of memory; returns what ran."""
    kind, calls = type(setting[0]), []
    native = kind.generate

    def limit(size=10**9, kind_of_error=torch.OutOfMemoryError, message=OUT_OF_MEMORY):
        def generate(self, **inputs):
            calls.append(inputs)
            held = torch.zeros(3)
            limit.held = weakref.ref(held)
            if inputs["input_ids"].numel() > size:
                raise kind_of_error(message)
            return native(self, **inputs)

        monkeypatch.setattr(kind, "generate", generate)
        return calls

    return limit


def lengths(setting):
    model, processor, _, examples = setting
    return [int(family_of(model).prompt(processor, [e])["input_ids"].shape[1]) for e in examples]


# ---- the numbers


@pytest.mark.parametrize("family", ["qwen3-vl", "llava-onevision", "internvl"])
def test_scores_are_those_of_the_studies_scorer(family):
    model, processor, head_map = loaded(family)
    examples = list(glyphs.generate(12, **LAYOUT))
    batches = [family_of(model).prepare(processor, examples[first : first + 5]) for first in (0, 5, 10)]
    scorer, found = AnswerScorer(model, processor, batches), {}
    for name, under in {
        "dense": nullcontext,
        "hybrid": lambda: hybrid(model, head_map.top(2), **SIZES),
        "hybrid bottom": lambda: hybrid(model, head_map.bottom(2), **SIZES),
        "ablated": lambda: model.ablate_heads(head_map.top(3)),
    }.items():
        with under():
            expected = scorer()
            found[name] = evaluate(model, processor, load("glyphs", num_examples=12, **LAYOUT), dataset="glyphs",
                                   batch_size=5)  # fmt: skip
        assert found[name].scores.tolist() == expected.tolist() and found[name].average.value == expected.mean()
        assert found[name].ids == tuple(example.id for example in examples) and found[name].num_skipped == 0
    accuracy = {name: each.average.value for name, each in found.items()}
    assert accuracy["dense"] == 1.0 and max(accuracy["hybrid bottom"], accuracy["ablated"]) <= 0.5
    assert found["ablated"].drop_from(found["dense"]).value == pytest.approx(1 - accuracy["ablated"])
    assert model.core_state.modes == []


def test_what_was_on_is_told(setting, run):
    model, _, head_map, examples = setting
    assert run(examples[:1]).setting == setting_of(model) == Setting(48, None, ())
    model.enable_hybrid(heads=[(0, 1), (2, 3)], dense_below=5, chunked=True, **SIZES)
    with model.ablate_heads([(1, 1)]), model.ablate_heads([(1, 2), (0, 0)], "stream", **SIZES):
        told = setting_of(model)
    model.disable_hybrid()
    assert told.num_heads == head_map.scores.numel() == 48
    assert vars(told.hybrid) == {"heads": ((0, 1), (2, 3)), **SIZES, "chunked": True, "backend": "banded",
                                 "dense_below": 5, "fuse": False}  # fmt: skip
    assert [vars(one) for one in told.ablated] == [
        {"heads": ((1, 1),), "variant": "zero", "sink_size": None, "window_size": None},
        {"heads": ((0, 0), (1, 2)), "variant": "stream", **SIZES},
    ]
    model.enable_hybrid(heads=[(0, 1)], fuse=True)
    told = setting_of(model).hybrid
    model.disable_hybrid()
    assert told.dense_below is None and told.fuse


def test_a_mode_that_no_evaluation_can_have_is_refused(setting, run):
    model, processor, head_map, examples = setting
    prepared = family_of(model).prepare(processor, examples[:1])
    with model.record_attention(prepared.question_mask, prepared.evidence_mask):
        with pytest.raises(ValueError, match="while RecordAttention is on"):
            run()
    with model.ablate_heads(head_map.top(1), "visual", visual_mask=prepared.visual_mask):
        with pytest.raises(ValueError, match="while AblateHeads of variant 'visual' is on"):
            run()


def test_a_window_that_hides_nothing_is_said(setting, run, caplog):
    model, _, head_map, examples = setting
    longest = max(lengths(setting))
    with hybrid(model, head_map.top(1), 4, longest - 1):
        assert run().longest_prompt == longest
    assert "longer than window_size" not in caplog.text
    with hybrid(model, head_map.top(1), 4, longest):
        run()
    assert f"no prompt that was answered is longer than window_size={longest}" in caplog.text


def test_answers_need_no_evidence_and_go_on_from_their_prefix(setting, run, generations):
    examples = [replace(setting[3][0], evidence=()), replace(setting[3][1], evidence=(), answer_prefix="Answer: gr")]
    calls = generations()
    found = run(examples, batch_size=2)
    assert found.num_examples == 2 and found.scores[0] == 1
    ends = setting[1].tokenizer.batch_decode(calls[0]["input_ids"])
    assert ends[1].endswith("Answer: gr") and not ends[0].endswith("Answer: gr")


def test_a_stand_in_scorer_groups_and_averages(setting, run):
    seen = []

    def scorer(text, example):
        seen.append((text, example.id))
        return Scored(0.0, None) if len(seen) == 2 else Scored(0.25 * len(example.details["task"]), text)

    tasks = ["a", "bb", "a", "bb", "bb", "ccc", "ccc"]
    examples = [replace(e, details={"task": t, "n": 1}) for e, t in zip(setting[3], tasks, strict=False)]
    average = Average("task", "macro", over=("a", "bb", "zz"))
    found = run(examples, dataset="mine", scorer=scorer, average=average, max_new_tokens=2)
    assert [name for _, name in seen] == [e.id for e in examples] == list(found.ids)
    assert [text for text, _ in seen] == [e.answer for e in examples]
    assert found.scores.tolist() == [0.25, 0, 0.25, 0.5, 0.5, 0.75, 0.75] and found.num_unparsed == 1
    assert [(g.name, g.count, g.accuracy.value) for g in found.groups] == [
        ("a", 2, 0.25), ("bb", 3, pytest.approx(1 / 3)), ("ccc", 2, 0.75),
    ]  # fmt: skip
    assert found.average.value == pytest.approx((0.25 + 1 / 3) / 2) and found.missing == ("zz",)
    assert (found.dataset, found.max_new_tokens, found.batch_size) == ("mine", 2, 4)
    seen.clear()
    assert run(examples, dataset="mine", scorer=scorer).average.value == pytest.approx(found.scores.mean())


# ---- generation


def test_answers_are_greedy_whatever_the_checkpoint_asks_for(setting, run, generations):
    config = setting[0].generation_config
    before = config.to_dict()
    try:
        config.update(do_sample=True, temperature=5.0, top_k=40, top_p=0.9)
        assert run().average.value == 1.0
    finally:
        config.update(**before)
    calls = generations()
    run(setting[3][:1], max_new_tokens=5, generation={"min_new_tokens": 4, "num_beams": 2})
    assert (calls[0]["max_new_tokens"], calls[0]["min_new_tokens"], calls[0]["num_beams"]) == (5, 4, 2)
    assert calls[0]["do_sample"] is False


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset": "mine"}, "dataset='mine' was given without a scorer; scorers are known of glyphs, jsonl"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"confidence": 1}, "confidence=1"),
        ({"generation": {"do_sample": True}}, "do_sample is not a matter of it"),
        ({"generation": {"max_new_tokens": 3}}, "max_new_tokens is not a matter of it"),
        ({"generation": {"stopping_criteria": [len]}}, "its values must be JSON values"),
    ],
)
def test_arguments_out_of_range(run, generations, options, message):
    calls = generations()
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert calls == []


# ---- what goes wrong


def test_out_of_memory_on_a_batch_is_answered_one_by_one(setting, run, generations, caplog):
    examples = setting[3][3:7]
    whole = run(examples, batch_size=1)
    calls = generations(max(lengths(setting)))
    with caplog.at_level(logging.WARNING):
        found = run(examples, batch_size=3)
    assert [len(call["input_ids"]) for call in calls] == [3, 1, 1, 1, 1]
    assert np.array_equal(found.scores, whole.scores) and found.num_skipped == 0 and not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        (torch.OutOfMemoryError, OUT_OF_MEMORY),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["device", "CPU"],
)
def test_an_example_too_large_by_itself_is_skipped_and_the_run_goes_on(setting, run, generations, caplog, error):
    examples = setting[3][3:7]  # two of each length
    generations(max(lengths(setting)[3:5]), *error)
    with caplog.at_level(logging.WARNING):
        found = run(examples, on_error="raise")  # running out of memory says nothing about the data
    assert found.ids == tuple(e.id for e in examples[:2]) and found.skipped == {"out_of_memory": 2}
    messages = [record.getMessage() for record in caplog.records if "skipped example" in record.getMessage()]
    assert len(messages) == 2 and all("out of memory: " in text and "\n" not in text for text in messages)


def test_the_failed_generation_is_let_go_before_the_retry(setting, run, generations, monkeypatch):
    from corehead_hf.measuring import attempts

    alive = []
    clear = "clear_device_cache"
    monkeypatch.setattr(attempts, clear, lambda garbage_collection: alive.append(generations.held() is not None))
    generations(0)
    with pytest.raises(ValueError, match="all 2 were skipped, the first because: out of memory"):
        run(setting[3][:2])
    assert alive == [False, False, False], "the error still held the tensors of the generation"


def test_another_runtime_error_is_not_taken_for_memory(run, generations):
    generations(0, RuntimeError, "CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        run()


def test_what_cannot_be_answered_or_scored_is_skipped_or_raises(setting, run, generations, monkeypatch, caplog):
    examples = [replace(e, details={"task": "a"}) for e in setting[3]]
    examples[1] = replace(examples[1], answer=" ")
    examples[5] = replace(examples[5], details={})
    kind = type(family_of(setting[0]))
    native = kind.prompt

    def prompt(self, processor, batch, **options):
        if any(e.id == examples[2].id for e in batch):
            raise ValueError("it cannot be shown")
        return native(self, processor, batch, **options)

    def scorer(text, example):
        if example.id == examples[7].id:
            raise ValueError("it has no form")
        return Scored(1.0, text)

    monkeypatch.setattr(kind, "prompt", prompt)
    calls, options = generations(), {"scorer": scorer, "average": Average("task")}
    found = run(examples, **options)
    assert found.skipped == {"no_answer": 2, "not_scored": 1, "refused": 1}
    assert found.ids == tuple(examples[i].id for i in (0, 3, 4, 6, 8, 9))
    assert [len(call["input_ids"]) for call in calls] == [1, 1, 3, 2], "what has no answer costs no generation"
    for index, message in ((1, "has no answer text"), (2, "cannot be shown"), (5, "'task'"), (7, "has no form")):
        assert any(f"'{examples[index].id}' at {index}: " in r.getMessage() and message in r.getMessage()
                   for r in caplog.records)  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run([examples[index]], on_error="raise", **options)
        with pytest.raises(ValueError, match="all 1 were skipped, the first because: "):
            run([examples[index]], **options)


def test_a_score_out_of_range_is_a_fault_of_the_scorer(run):
    class Wrong:
        score, parsed = 2.0, "x"

    with pytest.raises(RuntimeError, match="the scorer gave 2.0"):
        run(scorer=lambda text, example: Wrong)


def test_no_examples_and_an_id_that_stands_twice(setting, run):
    with pytest.raises(ValueError, match="dataset 'glyphs' gave no examples"):
        run([])
    with pytest.raises(ValueError, match="stands at 1 and at 10 of the data"):
        run([*setting[3], setting[3][1]])


def write_rows(folder, changes):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (64, 64), (200, 10, 10)).save(folder / "page.png")
    row = {"media": ["page.png"], "question": "Letter A?", "answer": "red", "evidence": [{"media": 0}]}
    lines = [json.dumps({**row, "id": f"r{i}", **change}) for i, change in enumerate(changes)]
    (folder / "own.jsonl").write_text("\n".join(lines))
    return folder / "own.jsonl"


def test_rows_that_give_no_example_are_counted_with_their_reason(run, tmp_path):
    path = write_rows(tmp_path, [{}, {"media": ["gone.png"]}, {}, {"id": "r0"}, {"question": ""}, {}, {}])
    with pytest.raises(ValueError, match=r"own.jsonl:2: .*gone.png"):
        run(load("jsonl", path), dataset="jsonl")
    examples = load("jsonl", path, on_error="skip")
    found = run(examples, dataset="jsonl", resume_from=tmp_path / "kept")
    reasons = dict(examples.report.skipped)
    assert found.num_examples == 4 == examples.report.yielded and found.skipped == reasons
    assert sum(reasons.values()) == 3 and reasons["duplicate_id"] == 1
    kept = list(read_answers(tmp_path / "kept"))
    assert [a.row_error is None for a in kept] == [True, False, True, False, False, True, True]
    assert [(a.index, a.id) for a in kept][2:4] == [(2, "r2"), (3, None)]
    few = load("jsonl", path, on_error="skip", limit=2)
    assert run(few, dataset="jsonl").ids == ("r0", "r2") and few.report.rows == 3


# ---- resuming


def test_a_resumed_run_answers_only_what_is_missing(setting, run, tmp_path, generations):
    examples, told = setting[3], []
    whole = run()
    run(examples[:8], resume_from=tmp_path)
    calls = generations()
    again = run(resume_from=tmp_path, on_answer=told.append)
    assert len(calls) == 1 and again.ids == whole.ids and np.array_equal(again.scores, whole.scores)
    assert [a.id for a in told] == [e.id for e in examples] and [a.expected for a in told] == [
        e.answer for e in examples
    ]
    assert told == list(read_answers(tmp_path)) and [a.prompt_tokens for a in told] == lengths(setting)
    assert again.seconds == sum(a.seconds for a in told) > 0
    assert run(resume_from=tmp_path).seconds == again.seconds and len(calls) == 1


def test_what_an_earlier_run_skipped_is_told_and_not_passed_over(run, tmp_path, caplog):
    path = write_rows(tmp_path, [{}, {"media": ["gone.png"]}, {"answer": " "}, {"question": ""}])
    examples, folder = load("jsonl", path, on_error="skip"), tmp_path / "kept"
    options = {"dataset": "jsonl", "resume_from": folder}
    first = run(examples, **options)
    assert not any("not tried again" in r.getMessage() for r in caplog.records)
    assert run(examples, **options).skipped == first.skipped
    told = [r.getMessage() for r in caplog.records if "not tried again" in r.getMessage()]
    assert len(told) == 1 and "{'no_answer': 1, 'missing_media': 1}" in told[0]
    with pytest.raises(ValueError, match="on_error='raise' was asked - .* skipped: {'no_answer': 1} - take"):
        run(examples, on_error="raise", **options)


def test_another_run_does_not_resume(setting, run, tmp_path):
    model, _, head_map, examples = setting
    run(resume_from=tmp_path)

    def refused(message, given=examples, **options):
        with pytest.raises(ValueError, match=message):
            run(given, resume_from=tmp_path, **options)

    refused("batch_size: 4 there / 2 now", batch_size=2)
    refused("generation: .*'max_new_tokens': 2.* there / .*3", max_new_tokens=3)
    refused("scorer: 'corehead_hf.scoring.scored.exact_match' there / '.*_Other' now", scorer=_Other())
    refused("average: .* there / .*duration", average=Average(also=("duration",)))
    refused("generation", generation={"min_new_tokens": 1})
    refused(
        f"what the data say of example '{examples[0].id}' at 0 was changed",
        given=[replace(examples[0], answer="other"), *examples[1:]],
    )
    refused(f"has example '{examples[1].id}' at 0", given=[examples[1], examples[0], *examples[2:]])
    with model.ablate_heads(head_map.top(1)):
        refused("AblateHeads: None there / .*1 of 48")
        run(resume_from=tmp_path / "ablated")
    for count in (1, 2):
        with hybrid(model, head_map.top(count), **SIZES):
            refused("HybridPrefill: None there")
            if count == 1:
                run(resume_from=tmp_path / "hybrid")
            else:
                with pytest.raises(ValueError, match="HybridPrefill: .*1 of 48.* there / .*2 of 48.* now"):
                    run(resume_from=tmp_path / "hybrid")
    with model.ablate_heads(head_map.bottom(1)):
        with pytest.raises(ValueError, match="AblateHeads: .*1 of 48.* there / .*1 of 48.* now"):
            run(resume_from=tmp_path / "ablated")
    config = model.generation_config
    config.repetition_penalty = 1.5
    try:
        refused("generation_config: ")
    finally:
        config.repetition_penalty = None if config.to_dict().get("repetition_penalty") is None else 1.0


class _Other:
    def __call__(self, text, example):
        return Scored(1.0, text)


def test_options_of_a_data_set_are_part_of_the_configuration(run, tmp_path):
    run(load("glyphs", num_examples=2, **LAYOUT), resume_from=tmp_path)
    assert run(load("glyphs", num_examples=4, **LAYOUT), resume_from=tmp_path).num_examples == 4
    with pytest.raises(ValueError, match="data pages: 3 there / 2 now"):
        run(load("glyphs", num_examples=2, **{**LAYOUT, "pages": 2}), resume_from=tmp_path)
