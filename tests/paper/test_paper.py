"""The paper's numbers agree with each other and with what else is known of them."""

import pytest

from corehead_hf import paper

SPEC_BUDGETS = {  # the percentages the paper prints beside each head budget
    "Qwen3-VL-8B": ((20, 30, 50, 100, 150, 200, 250), (1.7, 2.6, 4.3, 8.7, 13.0, 17.4, 21.7)),
    "LLaVA-OneVision-7B": ((20, 30, 50, 100, 150, 200), (2.6, 3.8, 6.4, 12.8, 19.1, 25.5)),
    "Qwen3-VL-32B": ((50, 100, 150, 200, 250, 300), (1.2, 2.4, 3.7, 4.9, 6.1, 7.3)),
}


@pytest.mark.parametrize("name", paper.TABLES)
def test_every_row_says_where_it_stands(name):
    rows = paper.table(name)
    assert rows and all(row["source"] for row in rows)
    assert list(rows[0])[-1] == "source"


@pytest.mark.parametrize("model", SPEC_BUDGETS)
def test_budgets_are_the_printed_percentages(model):
    counts, percentages = SPEC_BUDGETS[model]
    assert paper.budgets(model) == counts
    (row,) = [row for row in paper.table("models") if row["name"] == model]
    total = row["layers"] * row["heads"]
    assert tuple(round(100 * count / total, 1) for count in counts) == percentages
    assert paper.short_name(row["model"]) == model


def test_a_model_that_the_paper_has_not():
    assert paper.short_name("owner/other") is None and paper.budgets("other") == ()


def test_averages_that_are_known_fit_the_dense_one():
    """Never far from dense, and the last budget is within 0.8 points of it: §5 of the paper."""
    for name, models in (("table2", 3), ("table4", 3)):
        dense = {row["model"]: row["average"] for row in paper.table(name) if "dense" in row["source"]}
        assert len(dense) == models
        for row in paper.table(name):
            if row["average"] is not None:
                assert abs(row["average"] - dense[row["model"]]) < 4, row


def test_speedups_fall_as_heads_are_added():
    for model in SPEC_BUDGETS:
        known = [row for row in paper.table("table2") if row["model"] == model and row["speedup"] is not None]
        speedups = [row["speedup"] for row in sorted(known, key=lambda row: row["heads"])]
        assert len(speedups) >= 3 and speedups == sorted(speedups, reverse=True)


def test_video_mme_has_2700_questions_of_twelve_types():
    counts = [row["questions"] for row in paper.table("groups") if row["dataset"] == "video-mme"]
    assert len(counts) == 12 and sum(counts) == 2700


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="'table9' was asked for - there are models, table2"):
        paper.table("table9")
