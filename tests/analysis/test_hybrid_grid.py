import logging

import pytest
import torch
from killed_study import loaded
from scipy.stats import binomtest
from scorers import NeedsHeads, head_map

from corehead_hf.analysis.hybrid_grid import HybridGrid, hybrid_grid
from corehead_hf.analysis.result import Result
from corehead_hf.modes import HybridPrefill

# Of ten examples five need the top head, three the second, one the last, one a head of the middle. 30 tokens each.
NEEDS = [[(0, 2)] * 4, [(0, 2), (1, 1), (1, 1), (1, 1), (2, 3), (0, 1)]]
GRID = {"keeps": (2, 1), "sinks": (2, 0), "windows": (8,)}
HEADS, KV_HEADS = 12, 6  # of all layers, 16 wide
# Pairs of 30 tokens: dense; window 8 alone, 1 + ... + 8 + 22 * 8; with two sinks, 1 + ... + 10 + 20 * 10.
DENSE, NO_SINK, TWO_SINKS = 465, 212, 255


def ends(estimate):
    return estimate.value, estimate.low, estimate.high


def test_a_grid_by_hand(model):
    scorer = NeedsHeads(model, NEEDS)
    grid = hybrid_grid(model, head_map(), scorer, **GRID, chance=0.125, dataset="other")
    settings = [(p.sink_size, p.window_size, p.count) for p in grid.points]
    assert settings == [(0, 8, 1), (0, 8, 2), (2, 8, 1), (2, 8, 2)]
    assert [p.keep for p in grid.points] == [1 / 12, 2 / 12] * 2
    assert [p.accuracy.value for p in grid.points] == [0.5, 0.8] * 2
    interval = binomtest(5, 10).proportion_ci(method="wilson")
    assert ends(grid.points[0].accuracy) == pytest.approx((0.5, interval.low, interval.high))
    assert [p.drop.value for p in grid.points] == pytest.approx([0.5, 0.2] * 2)
    assert grid.dense.value == 1.0 and grid.dense_flops == 4 * 16 * HEADS * DENSE
    for point, streaming in zip(grid.points, [NO_SINK] * 2 + [TWO_SINKS] * 2, strict=True):
        pairs = point.count * DENSE + (HEADS - point.count) * streaming
        assert point.cost.flops == 4 * 16 * pairs
        assert point.cost.flops_share == pytest.approx(pairs / (HEADS * DENSE))
        # (0, 2) and (1, 1) are in different KV groups
        read = point.count * DENSE + (KV_HEADS - point.count) * streaming
        assert point.cost.kv_read == pytest.approx(read / (KV_HEADS * DENSE))
    assert (grid.model, grid.dataset, grid.chance, grid.num_heads) == ("tiny", "other", 0.125, 12)
    assert (grid.num_examples, grid.shortest, grid.longest, grid.mean_tokens) == (10, 30, 30, 30.0)
    assert scorer.calls == 1 + 4 and model.hybrid is None
    modes = scorer.modes[:: len(NEEDS)]
    assert all(isinstance(mode, HybridPrefill) and mode.dense_below == 0 for mode in modes)
    ran = [(mode.sink_size, mode.window_size, int(mode.heads.sum())) for mode in modes]
    assert ran == settings
    assert modes[1].heads.nonzero().tolist() == [[0, 2], [1, 1]]


def test_series_sinks_and_windows(model):
    grid = hybrid_grid(model, head_map(), NeedsHeads(model, NEEDS), keeps=(1, 4), sinks=(3, 0), windows=(9, 4, 9))
    assert (grid.sinks, grid.windows, len(grid.points)) == ((0, 3), (4, 9), 8)
    assert [(p.sink_size, p.window_size, p.count) for p in grid.series(3, 4)] == [(3, 4, 1), (3, 4, 4)]
    assert grid.series(3, 5) == ()


class Padded(NeedsHeads):
    """Of each batch the first prompt has 20 tokens of 30."""

    def _batch(self, heads, length):
        batch = NeedsHeads._batch(heads, length)
        batch.inputs["attention_mask"] = torch.ones(len(heads), length, dtype=torch.long)
        batch.inputs["attention_mask"][0, :10] = 0
        return batch


def test_padding_costs_nothing(model):
    grid = hybrid_grid(model, head_map(), Padded(model, NEEDS), keeps=(1,), sinks=(0,), windows=(8,))
    assert (grid.shortest, grid.longest, grid.mean_tokens) == (20, 30, 28.0)
    assert grid.dense_flops == pytest.approx(4 * 16 * HEADS * (8 * DENSE + 2 * 210) / 10)
    streaming = (8 * NO_SINK + 2 * (36 + 12 * 8)) / 10
    assert grid.points[0].cost.flops == pytest.approx(4 * 16 * ((8 * DENSE + 2 * 210) / 10 + 11 * streaming))


def test_a_grid_comes_back_from_its_file_and_is_a_table(model, tmp_path):
    grid = hybrid_grid(model, head_map(), NeedsHeads(model, NEEDS), **GRID)
    grid.save(tmp_path / "grid.json")
    assert Result.load(tmp_path / "grid.json") == grid and isinstance(grid, HybridGrid)
    table = grid.to_pandas()
    assert table["hybrid"].tolist() == [False] + [True] * 4 and table["count"].tolist() == [12, 1, 2, 1, 2]
    assert table.sink_size.isna().tolist() == [True] + [False] * 4
    assert table.sink_size.tolist()[1:] == [0, 0, 2, 2] and table.window_size.tolist()[1:] == [8] * 4
    assert table.accuracy.tolist() == [1.0, 0.5, 0.8, 0.5, 0.8] and table.kv_read[0] == table.flops_share[0] == 1
    assert table.flops[0] == grid.dense_flops and table.flops[1] == grid.points[0].cost.flops
    assert table["share"].tolist() == pytest.approx([1, 1 / 12, 1 / 6, 1 / 12, 1 / 6])
    assert table.accuracy_low.tolist()[1] == grid.points[0].accuracy.low


def test_a_grid_goes_on_where_it_was(model, tmp_path):
    kept = tmp_path / "grid.jsonl"

    def study(**options):
        scorer = Padded(model, NEEDS)
        return hybrid_grid(model, head_map(), scorer, **{**GRID, **options}, resume_from=kept), scorer.calls

    whole, calls = study()
    assert calls == 5
    assert study() == (whole, 0)
    more, calls = study(windows=(8, 12))
    assert calls == 4 and more.series(0, 8) == whole.series(0, 8) and more.shortest == 20
    # killed after the dense scores, before the lengths were written
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(line for line in lines if b"tokens" not in line))
    assert study() == (whole, 1)
    assert study() == (whole, 0)
    with pytest.raises(ValueError, match="another configuration: scored needs"):
        hybrid_grid(model, head_map(), Padded(model, NEEDS[::-1]), **GRID, resume_from=kept)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keeps": ()}, "no keeps"),
        ({"keeps": (13,)}, "keep=13"),
        ({"sinks": ()}, r"sinks=\(\)"),
        ({"windows": ()}, r"windows=\(\)"),
        ({"windows": (8, 0)}, "window_size"),
        ({"sinks": (-1,)}, "sink_size"),
        ({"confidence": 0.0}, "confidence=0.0"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_any_pass(model, options, message):
    scorer = NeedsHeads(model, NEEDS)
    with pytest.raises(ValueError, match=message):
        hybrid_grid(model, head_map(), scorer, **{**GRID, **options})
    assert scorer.calls == 0


def test_a_scorer_that_shows_other_prompts_than_it_scores_is_refused(model):
    scorer = NeedsHeads(model, NEEDS)

    def twice(under):
        scorer(under)
        return scorer(under)

    with pytest.raises(ValueError, match="with 20 examples and gave 10 scores"):
        hybrid_grid(model, head_map(), twice, **GRID)


def test_a_model_with_a_mode_on_is_refused(model):
    model.enable_hybrid(heads=[(0, 0)])
    with pytest.raises(ValueError, match="hybrid_grid was asked for while HybridPrefill is on"):
        hybrid_grid(model, head_map(), NeedsHeads(model, NEEDS), **GRID)


def test_windows_that_no_prompt_is_longer_than_are_told_of(model, caplog):
    with caplog.at_level(logging.WARNING):
        hybrid_grid(model, head_map(), NeedsHeads(model, NEEDS), keeps=(1,), sinks=(0,), windows=(29, 30, 31))
    told = [record.getMessage().split(" is longer than ")[1].split()[0] for record in caplog.records]
    assert told == ["window_size=30", "window_size=31"]


def test_on_a_trained_model():
    """Windows as long as the prompt give the dense scores; with small ones the top head alone keeps the answers."""
    model, map_, scorer = loaded("glyphs-qwen3-vl", num_examples=8)
    longest = max(batch.question_mask.shape[1] for batch in scorer.batches)
    shortest = min(int(batch.inputs["attention_mask"].sum(dim=1).min()) for batch in scorer.batches)
    grid = hybrid_grid(model, map_, scorer, keeps=(1,), sinks=(4,), windows=(16, longest))
    narrow, wide = grid.points
    assert (grid.shortest, grid.longest) == (shortest, longest)
    assert wide.accuracy == grid.dense and ends(wide.drop) == (0.0, 0.0, 0.0) and wide.cost.kv_read == 1.0
    assert (
        narrow.accuracy.value == grid.dense.value == 1.0 and narrow.cost.flops_share < 0.45 < narrow.cost.kv_read + 0.1
    )
