import pytest
import torch

from corehead_hf import HeadMap
from corehead_hf.analysis.ablation import ablation_accuracy, answer_accuracy, count_from_gap, hybrid_accuracy

VERSIONS = dict.fromkeys(("torch", "transformers", "corehead_hf"), "1")


def head_map(scores):
    scores = torch.tensor(scores)
    layers, heads = scores.shape
    return HeadMap(
        scores=scores, count=torch.full((layers,), 5), spread=torch.zeros(layers, heads),
        base_model_name_or_path="tiny", base_model_revision=None, model_type="qwen3_vl",
        num_layers=layers, num_heads=heads, num_kv_heads=1, head_dim=8,
        dataset="hand", num_examples=5, question_rule="all", view_rule="all", versions=VERSIONS,
    )  # fmt: skip


@pytest.mark.parametrize(
    "scores, most, count",
    [
        ([[0.2, 0.19, 0.02, 0.01] + [0.009] * 16], 0.2, 2),  # 0.19 / 0.02 is the largest factor among k = 1..4
        ([[0.2, 0.01] + [0.009] * 18], 0.2, 1),
        ([[0.2, 0.19, 0.18, 0.17, 0.001] + [0.0] * 15], 0.2, 4),
        ([[0.2, 0.19, 0.18, 0.17, 0.001] + [0.0] * 15], 0.1, 2),  # the gap lies beyond: 0.19 / 0.18 > 0.2 / 0.19
    ],
)
def test_count_from_gap_by_hand(scores, most, count):
    assert count_from_gap(head_map(scores), most) == count


def test_count_from_gap_needs_at_least_one_head():
    with pytest.raises(ValueError, match="leaves none"):
        count_from_gap(head_map([[0.2, 0.1]]), 0.1)


class Spy:
    """Stands for a model: notes which heads each intervention got and whether it was undone."""

    def __init__(self):
        self.seen, self.now = [], None

    def enable_hybrid(self, heads, **sizes):
        self.now = (heads.nonzero().tolist(), sizes)

    def disable_hybrid(self):
        self.now = None

    def ablate_heads(self, heads):
        from contextlib import contextmanager

        @contextmanager
        def on():
            self.now = (heads.nonzero().tolist(), None)
            yield
            self.now = None

        return on()

    def accuracy(self):
        self.seen.append(self.now)
        return len(self.seen) / 10


def test_groups_are_top_bottom_and_random_without_top():
    model, map_ = Spy(), head_map([[0.9, 0.1, 0.5], [0.8, 0.2, 0.3]])
    point = ablation_accuracy(model, map_, 2, model.accuracy, seeds=(0, 1))
    assert model.now is None
    heads = {value: seen for value, (seen, _) in zip((0.1, 0.2, 0.3, 0.4), model.seen, strict=True)}
    assert heads[point.top] == [[0, 0], [1, 0]]
    assert heads[point.bottom] == [[0, 1], [1, 1]]
    for value in point.random:
        assert len(heads[value]) == 2 and [0, 0] not in heads[value] and [1, 0] not in heads[value]
    assert point.random_mean == pytest.approx(sum(point.random) / 2)


def test_hybrid_is_switched_off_also_when_the_accuracy_fails():
    model, map_ = Spy(), head_map([[0.9, 0.1, 0.5], [0.8, 0.2, 0.3]])

    def failing():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        hybrid_accuracy(model, map_, 1, failing, sink_size=4, window_size=16)
    assert model.now is None


def test_an_accuracy_over_nothing_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        answer_accuracy(None, None, [])
