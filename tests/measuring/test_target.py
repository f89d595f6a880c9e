"""measure(target="visual"): the same measuring run, summed over all visual tokens."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corehead_hf import AutoCoReModel, HeadMap, cli, load_processor, measure
from corehead_hf.data import glyphs
from corehead_hf.families import family_of
from corehead_hf.families.geometry import NO_PLACE
from corehead_hf.measuring import read_measured

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
SETTINGS = {
    "attn_implementation", "base_model_name_or_path", "base_model_revision", "batch_size", "dataset", "device", "dtype",
    "head_dim", "keep_rows", "matmul_precision", "model_type", "num_heads", "num_kv_heads", "num_layers", "processor",
    "question_rule", "threads", "version of corehead_hf", "version of torch", "version of transformers", "view_rule",
    "weights",
}  # fmt: skip


@pytest.fixture(scope="module", params=["glyphs-qwen3-vl", "glyphs-llava-onevision"])
def setting(request):
    folder = HUB / request.param
    examples = [e for pages in (2, 3) for e in glyphs.generate(2, seed=1, pages=pages)]
    return AutoCoReModel.from_pretrained(folder, dtype=torch.float32), load_processor(folder), examples


@pytest.fixture
def run(setting):
    model, processor, examples = setting

    def measured(given=examples, **options):
        return measure(model, processor, given, **{"dataset": "glyphs", "batch_size": 3, **options})

    return measured


def same(a, b):
    return torch.equal(a.scores, b.scores) and torch.equal(a.spread, b.spread) and a.sums.equal(b.sums)


def test_scores_and_chance_are_summed_over_all_visual_tokens(setting, run, tmp_path):
    model, processor, examples = setting
    head_map = run(target="visual", resume_from=tmp_path, keep_rows=True)
    kept, chances, masses = list(read_measured(tmp_path)), [], []
    for example, outcome in zip(examples, kept, strict=True):
        prepared = family_of(model).prepare(processor, example)
        visual = [column for medium in prepared.columns[0] for column in medium.tolist()]
        masses.append(outcome.rows[..., visual].double().sum(dim=-1))
        rows = prepared.question_mask[0].nonzero().flatten().tolist()
        chances.append(sum(len(visual) / (row + 1) for row in rows) / len(rows))
    torch.testing.assert_close(head_map.scores.double(), torch.stack(masses).mean(dim=0), atol=1e-6, rtol=0)
    assert head_map.chance == pytest.approx(sum(chances) / len(chances), rel=1e-6)
    assert head_map.view_rule == "all visual tokens" and 0 < head_map.scores.max() <= 1
    assert (head_map.scores > run().scores).all(), "the evidence is a part of the visual tokens"


def test_newline_tokens_are_visual_tokens():
    folder = HUB / "glyphs-llava-onevision"
    model, processor = AutoCoReModel.from_pretrained(folder, dtype=torch.float32), load_processor(folder)
    example = next(glyphs.generate(1, seed=1, pages=1, margin=4, num_letters=10))
    prepared = family_of(model).prepare(processor, example)
    newlines = torch.from_numpy(prepared.columns[0][0][prepared.geometry[0][0].views == NO_PLACE])
    assert len(newlines) > 0
    visual = measure(model, processor, [example], dataset="glyphs", target="visual")
    with model.record_attention(prepared.question_mask, prepared.evidence_mask, keep_rows=True) as recording:
        model.prefill(**prepared.inputs)
    on_newlines = recording.rows[0][..., newlines].sum(dim=-1)
    shown = prepared.visual_mask[0].clone()
    shown[newlines] = False
    torch.testing.assert_close(
        visual.scores, recording.rows[0][..., shown].sum(dim=-1) + on_newlines, atol=1e-6, rtol=0
    )
    assert on_newlines.max() > 1e-3


def test_evidence_is_the_default_and_its_fingerprint_is_as_before(run, tmp_path):
    assert same(run(), run(target="evidence", resume_from=tmp_path))
    kept = json.loads((tmp_path / "fingerprint.json").read_text(encoding="utf-8"))
    assert set(kept) - {"threads"} == SETTINGS - {"threads"}
    assert kept["view_rule"] == "all views; a visual token counts if any of it shows evidence"
    with pytest.raises(ValueError, match="view_rule: 'all views.* there / 'all visual tokens' now"):
        run(target="visual", resume_from=tmp_path)


def test_maps_of_two_targets_do_not_merge(setting, run):
    with pytest.raises(ValueError, match="view_rule"):
        HeadMap.merge([run(setting[2][:2]), run(setting[2][2:], target="visual")])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target": "vision"}, "target='vision' was given; it is one of evidence, visual"),
        ({"target": "visual", "views": "hires"}, "target='visual' was given with views='hires' and min_coverage=0.0"),
        ({"target": "visual", "min_coverage": 0.5}, "with views='all' and min_coverage=0.5; these choose among"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_the_question_must_stand_after_all_media(setting, run):
    example = setting[2][0]
    assert len(example.media) == 2 and example.evidence[0].media in (0, 1)
    between = replace(example, evidence=(replace(example.evidence[0], media=0),), content=(0, example.question, 1))
    assert run([between]).num_examples == 1, "the evidence does stand before it"
    with pytest.raises(ValueError, match="Put the question after the media"):
        run([between], target="visual")


def test_the_verb(tmp_path, capsys):
    options = ["--data", "glyphs", "--limit", "3", "--option", "pages=2", "--out", str(tmp_path / "map")]
    arguments = ["measure", str(HUB / "glyphs-qwen3-vl"), "--dtype", "float32", *options]
    assert cli.main([*arguments, "--target", "visual"]) == 0
    assert HeadMap.from_pretrained(tmp_path / "map").view_rule == "all visual tokens"
    assert cli.main([*arguments, "--target", "visual", "--views", "hires"]) == 1
    assert "target='visual' was given with views='hires'" in capsys.readouterr().err
