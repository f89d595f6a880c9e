"""One command for the paper's tables: end to end on a tiny model, resumable, honest about what it had not."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import reproductions
import torch
from reproductions import MODEL, PLAN, load_model

from corehead_hf import HeadMap, measure
from corehead_hf.analysis import AnswerScorer, Result
from corehead_hf.data import load
from corehead_hf.families import family_of
from corehead_hf.measuring.fingerprint import OtherConfiguration
from corehead_hf.reproduce import paper_plan, reproduce, tiny_plan
from corehead_hf.reproduce.plan import budgets_of
from corehead_hf.reproduce.run import Run
from tests.data.formats import mmlongbench_row, refcocog_row, write_mmlongbench, write_refcocog

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def done(tmp_path_factory, model):
    return reproduce(PLAN, tmp_path_factory.mktemp("reproduction"), lambda: model)


def table(run, name):
    with (run.folder / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder, *patterns):
    found = [path for pattern in patterns for path in folder.rglob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def layout(source, number):
    return list(load(source.loader, limit=number, **source.options))


def test_nothing_is_left_out_and_every_figure_is_there(done):
    assert done.missing == {}
    figures = {path.stem.rsplit("-", 2)[0] for path in (done.folder / "figures").glob("*.png")}
    text = (done.folder / "report.md").read_text(encoding="utf-8")
    for number in ("figure-4", "figure-5", "figure-6a", "figure-6b", "figure-6c", "figure-7"):
        assert any(name.startswith(number) for name in {p.stem for p in (done.folder / "figures").glob("*.png")}), (
            figures
        )
    for title in ("Table 2", "Table 4", "Figure 7", "Figures 5 and 6"):
        assert f"## {title}" in text
    assert "Left out" not in text


def test_the_ranking_is_the_pooled_map_of_the_data_sets(done, model):
    maps = [
        measure(*model, layout(source, PLAN.num_measured), dataset=source.name, batch_size=PLAN.batch_size)
        for source in PLAN.measured
    ]
    expected = HeadMap.merge(maps)
    pooled = HeadMap.from_pretrained(done.folder / "maps" / "pooled")
    assert pooled.num_examples == expected.num_examples == 16
    # Examples behind the last one share its batch, and so its padding, in one of the two.
    torch.testing.assert_close(pooled.scores, expected.scores, atol=1e-6, rtol=0)


def test_accuracies_are_those_of_the_answers(done, model):
    """By another road: prepared batches, exact match, hybrid prefill switched on by hand."""
    core, processor = model
    head_map = HeadMap.from_pretrained(done.folder / "maps" / "pooled")
    rows = table(done, "table-2-8-pages-in-place-of-mlvu")
    assert [row["dense heads"] for row in rows] == ["all", "1", "3"]
    examples = layout(PLAN.mlvu, PLAN.num_answered)
    score = AnswerScorer(core, processor, [family_of(core).prepare(processor, examples)])
    for row in rows:
        if row["dense heads"] != "all":
            heads = head_map.top(int(row["dense heads"]))
            core.enable_hybrid(heads=heads, sink_size=4, window_size=16, dense_below=0)
        expected = 100 * score().mean()
        core.disable_hybrid()
        assert float(row["accuracy"]) == pytest.approx(expected)
        assert (row["questions"], row["unreadable"], row["skipped"], row["paper"]) == ("3", "0", "0", "")


def test_ablation_of_the_top_heads_breaks_it_and_of_others_does_not(done):
    curve = Result.load(next((done.folder / "results").rglob("ablation.json")))
    assert curve.num_examples == 3 and curve.dense.value == 1
    accuracy = {(p.group, p.count): p.accuracy.value for p in curve.points}
    assert accuracy["top", 5] <= 0.34 and accuracy["bottom", 5] == 1
    drop = {(p.group, p.count): p.drop.value for p in curve.points}
    assert drop["top", 5] == pytest.approx(1 - accuracy["top", 5])


def test_single_numbers_stand_beside_the_papers(done):
    rows = {row["quantity"]: row for row in table(done, "figures-5-and-6")}
    assert rows["spearman between two of four data sets"]["paper"] == "Qwen3-VL-4B: 0.79 to 0.92"
    five = rows["score in percent with the top 5 heads ablated"]
    curve = Result.load(next((done.folder / "results").rglob("ablation.json")))
    (point,) = [p for p in curve.points if (p.group, p.count) == ("top", 5)]
    assert five["here"] == f"{100 * point.accuracy.value:.1f}" and "Qwen3-VL-4B: 27" in five["paper"]
    assert len(rows) == 7, "every quantity of the paper's figures has its row"


def test_done_again_it_loads_no_model_and_changes_nothing(done):
    def never():
        raise AssertionError("the model was loaded although everything was there")

    before = files(done.folder, "*.json", "*.csv", "*.md")
    assert reproduce(PLAN, done.folder, never).missing == {}
    assert files(done.folder, "*.json", "*.csv", "*.md") == before


def test_another_plans_folder_is_refused(done):
    with pytest.raises(ValueError, match="holds the run of another plan: window_size: 16 there / 8 now"):
        reproduce(replace(PLAN, window_size=8), done.folder, load_model)


def test_another_models_folder_is_refused_and_a_model_that_cannot_be_loaded_ends_the_run(done, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    next(folder.rglob("latency.json")).unlink()
    with pytest.raises(OtherConfiguration, match="another model, or the same one loaded otherwise.*dtype"):
        reproduce(PLAN, folder, lambda: (load_model()[0].to(torch.bfloat16), load_model()[1]))

    def broken():
        raise ValueError("there is none")

    with pytest.raises(RuntimeError, match="the model .* could not be loaded: there is none"):
        reproduce(PLAN, folder, broken)


def test_a_map_that_was_being_saved_when_the_run_was_killed_is_made_again(done, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    cut = folder / "maps" / PLAN.measured[0].name / "evidence"
    for path in cut.glob("*.json"):  # the configuration is written last
        path.unlink()
    again = reproduce(PLAN, folder, load_model)
    assert again.missing == {} and again.mark == done.mark


def test_results_of_one_ranking_are_not_those_of_another(done, tmp_path):
    other = Run(PLAN, tmp_path, load_model)
    other.maps = {name: head_map for name, head_map in list(done.maps.items())[1:]}  # one data set came later
    assert other.mark != done.mark
    kept = next((done.folder / "results").rglob("ablation.json"))
    assert kept.parent.name == done.mark
    (tmp_path / "results").mkdir()
    shutil.copytree(kept.parent, tmp_path / "results" / done.mark)
    assert other.saved("ablation") is None and done.saved("ablation") is not None


def test_an_unknown_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"steps \['tables'\] were asked for - there are maps, key-tokens"):
        reproduce(PLAN, tmp_path, load_model, only=["tables"])


def test_only_some_steps(tmp_path, model):
    run = reproduce(PLAN, tmp_path, lambda: model, only=["latency"])
    assert {path.name for path in (tmp_path / "results").rglob("*.json")} == {"latency.json"}
    assert [row["tokens"] for row in table(run, "figure-7-prefill")] == ["64", "256"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_gives_the_same_results(done, tmp_path):
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, reproductions.__file__, "killed", str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]
    status, kills = map(int, ended.stdout.split())
    assert status == 0 and kills >= 2
    expected, found = (
        {name: without_times(data) for name, data in files(folder, "results/*/*.json").items() if "latency" not in name}
        for folder in (done.folder, tmp_path)
    )
    assert found == expected
    assert files(tmp_path, "maps/**/*.safetensors") == files(done.folder, "maps/**/*.safetensors")


def without_times(data):
    return {name: value for name, value in json.loads(data).items() if name != "seconds"}


def test_data_that_are_not_there_are_said_and_left_out(tmp_path):
    def never():
        raise AssertionError("there was nothing to load a model for")

    run = reproduce(paper_plan(str(MODEL), tmp_path / "data"), tmp_path / "out", never)
    assert list(run.missing) == [f"head map of {name}" for name in ("refcocog", "vidstg", "mmdocir", "mmlongbench")]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Left out" in text and text.count("* head map of") == 4
    assert "Table 2" not in text


def test_budgets_of_models_the_paper_has_and_has_not():
    assert budgets_of("Qwen/Qwen3-VL-8B-Instruct", 1152) == (20, 30, 50, 100, 150, 200, 250)
    assert budgets_of("owner/other", 1152) == (20, 30, 50, 100, 150, 200, 250)
    assert budgets_of("owner/other", 48) == (1, 2, 4, 6, 8, 10)  # 0.8, 1.25, 2.1, 4.2, 6.3, 8.3, 10.4


def test_a_tiny_plan_holds_nothing_back(model):
    plan = tiny_plan(MODEL)
    for source in (*plan.measured, plan.ablated, plan.mlvu, plan.video_mme):
        examples = layout(source, None)
        assert len({example.id for example in examples}) == len(examples)
        assert len(examples) >= plan.num_answered
    seeds = [source.options["seed"] for source in (*plan.measured, plan.ablated, plan.mlvu, plan.video_mme)]
    assert len(set(seeds)) == 7, "no example is both measured and answered"


def test_what_is_there_in_the_real_formats_is_done(tmp_path, model):
    """Boxes and pages can be measured and answered; two data sets are missing, and so is a benchmark."""
    root = tmp_path / "data"
    boxes = [[4.0, 4.0, 30.0, 30.0], [20.0, 8.0, 30.0, 30.0]]
    rows = [refcocog_row(["the letter"], box, question_id=str(i), value=9 * i) for i, box in enumerate(boxes)]
    write_refcocog(root / "refcocog", rows)
    pages = [f"mmlongdoc/4190345/4190345_page{number}.jpg" for number in range(2)]
    documents = [mmlongbench_row(pages, [1], identity=f"mmlongdoc_{i}") for i in range(3)]
    write_mmlongbench(root / "mmlongbench", documents, task="mmlongdoc")
    plan = replace(
        paper_plan(str(MODEL), root, num_measured=1, num_observed=1, num_answered=2, sink_size=4, window_size=16),
        budgets=(1,),
        ablations=(5,),
        lengths=(64,),
        top=3,
    )
    run = reproduce(plan, tmp_path / "out", lambda: model)
    assert set(run.maps) == {"refcocog", "mmlongbench"}
    assert set(run.missing) == {
        "head map of vidstg",
        "head map of mmdocir",
        "accuracy on mlvu",
        "accuracy on video-mme",
    }
    curve = Result.load(next((tmp_path / "out" / "results").rglob("ablation.json")))
    assert (curve.dataset, curve.num_examples) == ("mmlongbench", 2)
    assert len(Result.load(next((tmp_path / "out" / "results").rglob("stability.json"))).names) == 2
    assert table(run, "figure-7-prefill")[0]["tokens"] == "64"
