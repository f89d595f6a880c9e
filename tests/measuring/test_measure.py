"""What measure does besides the mean: chance, skips, out of memory, resuming, stopping early, merging, long prompts."""

import logging
import weakref
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import torch
from tiny_models import LargestTensor, randomize
from transformers import AutoConfig, AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, Evidence, HeadMap, load_processor, measure
from corehead_hf.data import glyphs, load
from corehead_hf.families import family_of
from corehead_hf.measuring import read_measured

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
LAYERS = 2
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 3 GiB.\nmore"


@pytest.fixture(scope="module")
def setting(checkpoint):
    """A random two-layer CoRe model, its processor, ten examples of uneven length."""
    folder = checkpoint("qwen3_vl")
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config()
    text.num_hidden_layers, text.layer_types = LAYERS, ["full_attention"] * LAYERS
    model = randomize(AutoModelForImageTextToText.from_config(config).float().eval())
    examples = [e for pages in (2, 3) for e in glyphs.generate(5, seed=1, pages=pages, margin=8, num_letters=20)]
    return AutoCoReModel.from_model(model), load_processor(folder), examples


@pytest.fixture
def run(setting):
    """run(examples, ...): measure on the random model."""
    model, processor, examples = setting

    def measured(given=examples, **options):
        return measure(model, processor, given, **{"dataset": "glyphs", "batch_size": 4, **options})

    return measured


def same(a, b):
    return torch.equal(a.scores, b.scores) and torch.equal(a.spread, b.spread) and a.sums.equal(b.sums)


# ---- numbers


def test_chance_is_the_share_of_evidence_among_what_a_question_row_sees(setting, run):
    model, processor, examples = setting
    expected = []
    for example in examples:
        prepared = family_of(model).prepare(processor, example)
        rows = prepared.question_mask[0].nonzero().flatten().tolist()
        expected.append(sum(int(prepared.evidence_mask[0].sum()) / (row + 1) for row in rows) / len(rows))
    head_map = run()
    assert head_map.chance == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert len(set(expected)) > 2
    torch.testing.assert_close(head_map.lift, head_map.scores / head_map.chance)
    assert head_map.num_skipped == 0 and head_map.convergence == ()


def test_ram_and_rows_of_every_example_can_be_kept(setting, run, tmp_path):
    model, processor, examples = setting
    head_map = run(resume_from=tmp_path, keep_rows=True)
    kept = list(read_measured(tmp_path))
    assert [outcome.id for outcome in kept] == [example.id for example in examples]
    torch.testing.assert_close(torch.stack([o.ram for o in kept]).double().mean(dim=0).float(), head_map.scores)
    for example, outcome in zip(examples, kept, strict=True):
        prepared = family_of(model).prepare(processor, example)
        with model.record_attention(prepared.question_mask, prepared.evidence_mask, keep_rows=True) as recording:
            model.prefill(**prepared.inputs)
        torch.testing.assert_close(outcome.rows, recording.rows[0], atol=1e-5, rtol=0)  # alone, without padding
        torch.testing.assert_close(outcome.ram, recording.ram[0], atol=1e-5, rtol=0)
    run(resume_from=tmp_path / "without")
    assert all(outcome.rows is None for outcome in read_measured(tmp_path / "without"))
    with pytest.raises(ValueError, match="keep_rows=True was asked without a folder"):
        run(keep_rows=True)


def test_maps_of_parts_merge_to_the_map_of_the_whole(setting, run):
    examples = setting[2]
    whole = run(batch_size=2)
    parts = [run(examples[first:last], batch_size=2, dataset="glyphs") for first, last in ((0, 6), (6, 8), (8, 10))]
    merged = HeadMap.merge(parts)
    assert same(merged, whole) and merged.chance == whole.chance and merged.dataset == "glyphs"
    assert [part["num_examples"] for part in merged.parts] == [6, 2, 2]


def test_it_stops_when_the_ranking_is_stable(setting, run):
    taken = []

    def endless():
        for example in glyphs.generate(10**6, seed=3, pages=2, margin=8, num_letters=20):
            taken.append(example.id)
            yield example

    head_map = run(endless(), batch_size=5, until_stable=0.2)
    assert [n for n, _ in head_map.convergence] == [16, 32, 48] and head_map.num_examples == 48
    assert len(taken) == 50, "measuring went on"
    by_16 = run(glyphs.generate(48, seed=3, pages=2, margin=8, num_letters=20), batch_size=16)
    torch.testing.assert_close(head_map.scores, by_16.scores, atol=1e-5, rtol=0)
    assert [n for n, _ in by_16.convergence] == [16, 32, 48]


# ---- what goes wrong


def test_an_example_that_cannot_be_measured_raises_or_is_skipped_and_counted(setting, run, tmp_path, caplog):
    examples = list(setting[2])
    whole = run(examples[:2] + examples[3:7] + examples[8:], batch_size=1)
    examples[2] = replace(examples[2], evidence=(Evidence(0, (3.0, 3.0, 3.5, 3.5)),))
    examples[7] = replace(examples[7], question=examples[7].question + " ", content=None)
    with pytest.raises(ValueError, match=f"example '{examples[2].id}': no visual token shows"):
        run(examples, min_coverage=0.01)
    with caplog.at_level(logging.WARNING):
        head_map = run(examples, min_coverage=0.01, on_error="skip", resume_from=tmp_path, batch_size=1)
    skipped = [outcome for outcome in read_measured(tmp_path) if outcome.ram is None]
    assert head_map.num_skipped == len(skipped) and 2 in {outcome.index for outcome in skipped}
    assert head_map.num_examples == 10 - len(skipped)
    messages = [record.getMessage() for record in caplog.records]
    assert any(f"skipped example '{examples[2].id}' at 2: " in text and "no visual token" in text for text in messages)
    if len(skipped) == 2:
        assert torch.equal(head_map.scores, whole.scores)
    with pytest.raises(ValueError, match="measured; all 1 were skipped, the first because: .* no visual token"):
        run(examples[2:3], min_coverage=0.01, on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore'"):
        run(on_error="ignore")


@pytest.fixture
def memory(setting, monkeypatch):
    """memory(size): prefills of more elements of input_ids than that run out of memory; returns what ran."""
    model, shapes = setting[0], []

    def limit(size, kind_of_error=torch.OutOfMemoryError, message=OUT_OF_MEMORY):
        kind = type(model)
        native = kind.prefill

        def prefill(self, **inputs):
            shapes.append(tuple(inputs["input_ids"].shape))
            held = torch.zeros(3)
            limit.held = weakref.ref(held)
            if inputs["input_ids"].numel() > size:
                raise kind_of_error(message)
            return native(self, **inputs)

        monkeypatch.setattr(kind, "prefill", prefill)
        return shapes

    return limit


def test_out_of_memory_on_a_batch_is_measured_one_by_one(setting, run, memory, caplog):
    whole, one_by_one = run(), run(batch_size=1)
    longest = max(family_of(setting[0]).prepare(setting[1], e).question_mask.shape[1] for e in setting[2])
    shapes = memory(longest)
    with caplog.at_level(logging.WARNING):
        head_map = run()
    assert [rows for rows, _ in shapes] == [4, 1, 1, 1, 1, 4, 1, 1, 1, 1, 2, 1, 1]
    assert head_map.num_examples == 10 and head_map.num_skipped == 0 and not caplog.records
    assert same(head_map, one_by_one)
    torch.testing.assert_close(head_map.scores, whole.scores, atol=1e-5, rtol=0)
    assert setting[0].core_state.modes == []


@pytest.mark.parametrize(
    "error",
    [
        (torch.OutOfMemoryError, OUT_OF_MEMORY),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["device", "CPU"],
)
def test_an_example_too_large_by_itself_is_skipped_and_the_run_goes_on(setting, run, memory, caplog, error):
    lengths = [family_of(setting[0]).prepare(setting[1], e).question_mask.shape[1] for e in setting[2]]
    small = [e for e, length in zip(setting[2], lengths, strict=True) if length <= min(lengths) + 3]
    expected = run(small, batch_size=1)
    memory(min(lengths) + 3, *error)
    with caplog.at_level(logging.WARNING):
        head_map = run()  # on_error is "raise": running out of memory says nothing about the data
    assert 0 < head_map.num_skipped == 10 - len(small) and same(head_map, expected)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 10 - len(small) and all("out of memory: " in text and "\n" not in text for text in messages)


def test_another_runtime_error_is_not_taken_for_memory(run, memory):
    memory(0, RuntimeError, "CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(on_error="skip")


def test_the_failed_prefill_is_let_go_before_the_retry(setting, run, memory, monkeypatch):
    from corehead_hf.measuring import attempts

    alive = []
    monkeypatch.setattr(
        attempts, "clear_device_cache", lambda garbage_collection: alive.append(memory.held() is not None)
    )
    memory(0)
    with pytest.raises(ValueError, match="out of memory"):
        run(setting[2][:2])
    assert alive == [False, False, False], "the error still held the tensors of the prefill"


def test_ram_that_is_no_number_names_the_example(setting, run):
    model = setting[0]
    weight = model.model.language_model.layers[1].self_attn.q_proj.weight
    before = weight.detach().clone()
    try:
        weight.data[:] = float("nan")
        with pytest.raises(ValueError, match=f"example '{setting[2][0].id}': RAM nan of layer 1, head 0; .* overflow"):
            run()
    finally:
        weight.data.copy_(before)


def test_what_a_head_map_would_refuse_is_refused_before_measuring(setting, run, memory):
    shapes = memory(10**9)
    for options, message in (
        ({"base_model_revision": "main"}, "base_model_revision='main'"),
        ({"base_model": " "}, "base_model_name_or_path=' ' was given - it is blank"),
        ({"dataset": ""}, "dataset='' was given - it is blank"),
        ({"until_stable": 0}, "until_stable=0 was given"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
    assert shapes == []


def test_an_id_that_stands_twice_is_refused(setting, run):
    with pytest.raises(ValueError, match="stands at 1 and at 10 of the data"):
        run([*setting[2], setting[2][1]])


# ---- resuming


def test_a_resumed_run_measures_only_what_is_missing(setting, run, tmp_path, memory):
    examples = setting[2]
    whole = run()
    run(examples[:8], resume_from=tmp_path)
    shapes = memory(10**9)
    assert same(run(resume_from=tmp_path), whole) and len(shapes) == 1
    assert same(run(resume_from=tmp_path), whole) and len(shapes) == 1
    longer = [*examples, *glyphs.generate(1, seed=9, pages=2, margin=8, num_letters=20)]
    grown = run(longer, resume_from=tmp_path)  # the last batch has another width now, so it is measured again
    assert len(shapes) == 2 and shapes[-1][0] == 3 and grown.num_examples == 11
    assert same(run(longer), grown)
    assert same(run(resume_from=tmp_path), whole)


def test_another_run_does_not_resume(setting, run, tmp_path):
    model, _, examples = setting
    run(resume_from=tmp_path)
    for options, difference in (
        ({"batch_size": 2}, "batch_size: 4 there / 2 now"),
        ({"min_coverage": 0.5}, "view_rule: .*any of it shows.* there / .*at least 0.5 of it"),
        ({"views": "hires"}, "view_rule: 'all views.* there / 'hires views"),
        ({"dataset": "other"}, "dataset: 'glyphs' there / 'other' now"),
        ({"base_model_revision": "b" * 40}, "base_model_revision: None there / 'bbbb"),
        ({"keep_rows": True}, "keep_rows: False there / True now"),
    ):
        with pytest.raises(ValueError, match=f"another configuration: {difference}"):
            run(resume_from=tmp_path, **options)
    with pytest.raises(ValueError, match=f"has example '{examples[1].id}' at 0, the run that is resumed had"):
        run([examples[1], examples[0], *examples[2:]], resume_from=tmp_path)
    bias = model.model.language_model.layers[1].mlp.down_proj.weight.data
    bias[0, 0] += 1
    try:
        with pytest.raises(ValueError, match="another configuration: weights: "):
            run(resume_from=tmp_path)
    finally:
        bias[0, 0] -= 1
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=f"another configuration: threads: {threads} there"):
            run(resume_from=tmp_path)
    finally:
        torch.set_num_threads(threads)


def test_options_of_a_data_set_are_part_of_the_configuration(run, tmp_path):
    options = {"seed": 2, "pages": 2, "margin": 8, "num_letters": 20}
    few = run(load("glyphs", num_examples=4, **options), resume_from=tmp_path)
    examples = load("glyphs", num_examples=12, limit=6, **options)
    more = run(examples, resume_from=tmp_path)
    assert (few.num_examples, more.num_examples) == (4, 6) and examples.report.yielded == 6
    assert same(more, run(load("glyphs", num_examples=8, limit=6, **options)))
    with pytest.raises(ValueError, match="another configuration: data num_letters: 20 there / 19 now"):
        run(load("glyphs", num_examples=4, **{**options, "num_letters": 19}), resume_from=tmp_path)


# ---- long prompts, big models


def test_a_long_prompt_and_a_long_question_need_no_matrix_of_all_pairs(setting, run):
    model, processor, examples = setting
    question = "".join(chr(97 + i * i % 26) for i in range(500))
    base = next(glyphs.generate(1, seed=4, pages=2, margin=8, num_letters=20))
    text = "".join(chr(97 + i * i * i % 26) for i in range(3000))
    example = replace(base, question=question, content=(text, 0, 1, question))
    prepared = family_of(model).prepare(processor, example)
    length, asked = prepared.question_mask.shape[1], int(prepared.question_mask.sum())
    assert length > 2500 and asked > 300
    with LargestTensor() as seen:
        head_map = run([example])
    assert seen.elements < length * length / 2
    with torch.no_grad():
        eager = AutoModelForImageTextToText.from_config(model.config, attn_implementation="eager").float().eval()
        eager.load_state_dict(model.state_dict())
        found = torch.stack(eager(**prepared.inputs, output_attentions=True).attentions, dim=1)[0]
    rows = found[:, :, prepared.question_mask[0]].double().mean(dim=2)
    truth = rows[..., prepared.evidence_mask[0]].sum(dim=-1)
    torch.testing.assert_close(head_map.scores.double(), truth, atol=1e-6, rtol=1e-3)


def test_a_model_whose_weights_are_offloaded_gives_the_same_map(tmp_path):
    """Its weights say "meta"; accelerate's hooks know the device."""
    folder = HUB.parent / "glyphs-internvl"
    processor, examples = load_processor(folder), list(glyphs.generate(3, seed=1, pages=2, margin=8, num_letters=20))
    model = AutoCoReModel.from_pretrained(folder, dtype=torch.float32)
    plain = measure(model, processor, examples, dataset="glyphs")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.device.type == "meta", "nothing was offloaded"
    assert same(measure(model, processor, examples, dataset="glyphs", resume_from=tmp_path), plain)
