import logging
from contextlib import contextmanager

import pytest
import torch
from scorers import head_map
from tiny_models import IMAGE, VIDEO, VISION_END, VISION_START, build

from corehead_hf import AutoCoReModel
from corehead_hf.analysis import backbone_timing
from corehead_hf.analysis.backbone_timing import random_ids
from corehead_hf.analysis.prefill_latency import prefill_latency
from corehead_hf.analysis.result import Result
from corehead_hf.analysis.timing import Quantiles
from corehead_hf.fusion import is_fused

SIZES = {"sink_size": 2, "window_size": 8}
DENSE_MS = (10, 100, 20, 80, 40)  # of five rounds; times the tokens


class Clock:
    """In place of milliseconds and of the prefill: times by hand.

    Hybrid prefill with one dense head is 1, 2, 3, 4, 5 times as fast as dense, with four half as fast. `lost` are
    (dense heads or 0, tokens, turn) that run out of memory.
    """

    def __init__(self, model):
        self.model, self.calls, self.turns, self.lost, self.shape = model, [], {}, set(), None

    def prefill(self, model, ids):
        assert model is self.model
        self.shape = ids.shape

    def milliseconds(self, call, device):
        call()
        one, n = self.shape
        count = 0 if self.model.hybrid is None else int(self.model.hybrid.heads.sum())
        turn = self.turns.get((count, n), 0)
        self.turns[count, n] = turn + 1
        self.calls.append((count, n))
        assert one == 1 and device == torch.device("cpu")
        if (count, n, turn) in self.lost:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nmore")
        if turn < backbone_timing.WARM_UPS:
            return 1e9
        turn -= backbone_timing.WARM_UPS
        return n * DENSE_MS[turn] / {0: 1, 1: turn + 1, 4: 0.5}[count]


@pytest.fixture
def clock(model, monkeypatch):
    found = Clock(model)
    monkeypatch.setattr(backbone_timing, "milliseconds", found.milliseconds)
    monkeypatch.setattr(backbone_timing, "_prefill", found.prefill)
    return found


def approx(*values):
    return Quantiles(*map(pytest.approx, values))


def test_times_by_hand_are_paired_by_round_and_warm_ups_do_not_count(model, clock):
    study = prefill_latency(model, head_map(), keeps=(4, 1, 1 / 12), lengths=(20, 10, 20), **SIZES)
    one_round, back = [0, 1, 4], [4, 1, 0]
    order = [*one_round, *back] * 3 + one_round
    assert clock.calls == [(count, n) for n in (10, 20) for count in order]
    names = [(p.length, p.hybrid, p.count) for p in study.points]
    assert names == [(n, count < 12, count) for n in (10, 20) for count in (12, 1, 4)]
    dense, one, four = study.points[3:]
    # 10, 20, 40, 80, 100 ms a token; linear between, so p20 lies 0.8 of the way from the first to the second
    assert dense.seconds == approx(20 * 0.018, 20 * 0.04, 20 * 0.084) and dense.mean == pytest.approx(20 * 0.05)
    assert one.speedup == approx(1.8, 3.0, 4.2) and four.speedup == approx(0.5, 0.5, 0.5)
    assert dense.speedup == approx(1.0, 1.0, 1.0)
    assert one.mean == pytest.approx(20 * (10 + 50 + 20 / 3 + 20 + 8) / 5e3)
    assert [p.keep for p in study.points[:3]] == pytest.approx([1, 1 / 12, 4 / 12])
    assert (study.model, study.device, study.dtype, study.backend) == ("tiny", "cpu", "float32", "banded")
    assert (study.num_heads, study.num_layers, study.repeats, study.dense_below, study.fuse) == (12, 3, 5, 0, False)
    assert (study.sink_size, study.window_size) == (2, 8) and model.hybrid is None


def test_a_study_comes_back_from_its_file_and_is_a_table_that_can_be_drawn(model, clock, tmp_path):
    study = prefill_latency(model, head_map(), keeps=(1,), lengths=(10, 20), **SIZES)
    study.save(tmp_path / "study.json")
    assert Result.load(tmp_path / "study.json") == study
    table = study.to_pandas()
    assert table.provider.tolist() == ["dense", "hybrid"] * 2 and table.n.tolist() == [10, 10, 20, 20]
    assert table.keep.tolist() == pytest.approx([1, 1 / 12] * 2) and table["count"].tolist() == [12, 1] * 2
    assert table.sink.isna().tolist() == [True, False] * 2 and table.window.tolist()[1] == 8
    assert table.p50_ms.tolist()[0] == pytest.approx(400) and table.mean_ms.tolist()[0] == pytest.approx(500)
    assert table.speedup_p80.tolist()[1] == pytest.approx(4.2)
    assert (table.kind[0], table.model[0], table.gpu[0], table.dtype[0]) == ("prefill", "tiny", "cpu", "float32")


@pytest.mark.parametrize("turn, calls", [(0, 1), (4, 5)])
def test_what_runs_out_of_memory_is_logged_and_left_out_and_the_rest_goes_on(model, clock, caplog, turn, calls):
    clock.lost = {(0, 20, turn), (4, 30, 0)}
    with caplog.at_level(logging.WARNING):
        study = prefill_latency(model, head_map(), keeps=(1, 4), lengths=(10, 20, 30), **SIZES)
    found = {(p.length, p.count): p for p in study.points}
    assert {at for at, p in found.items() if p.seconds is None and p.mean is None} == {(20, 12), (30, 4)}
    assert {at for at, p in found.items() if p.speedup is None} == {(20, 12), (20, 1), (20, 4), (30, 4)}
    assert found[20, 1].mean == pytest.approx(20 * (10 + 50 + 20 / 3 + 20 + 8) / 5e3) and found[
        30, 1
    ].speedup == approx(1.8, 3.0, 4.2)
    assert clock.calls.count((0, 20)) == calls, "what ran out of memory was run again"
    assert clock.calls.count((1, 20)) == 7 and clock.calls.count((0, 30)) == 7
    assert "dense prefill of 20 tokens is left out, it ran out of memory: CUDA out of memory. Tried" in caplog.text
    assert "hybrid prefill with 4 dense heads of 30 tokens is left out" in caplog.text
    assert model.hybrid is None
    table = study.to_pandas()
    assert table.p50_ms.isna().sum() == 2 and table.speedup_p50.isna().sum() == 4


def test_other_errors_are_raised_and_hybrid_is_switched_off(model, monkeypatch):
    def fails(call, device):
        raise RuntimeError("no kernel image" if model.hybrid is not None else "CUDA error")

    monkeypatch.setattr(backbone_timing, "milliseconds", fails)
    with pytest.raises(RuntimeError, match="CUDA error"):
        prefill_latency(model, head_map(), keeps=(1,), lengths=(20,), **SIZES)
    monkeypatch.setattr(backbone_timing, "milliseconds", lambda call, device: fails(0, 0) if model.hybrid else 1.0)
    with pytest.raises(RuntimeError, match="no kernel image"):
        prefill_latency(model, head_map(), keeps=(1,), lengths=(20,), **SIZES)
    assert model.hybrid is None


def test_a_study_goes_on_where_it_was(model, clock, tmp_path):
    def study(lengths=(10, 20), **options):
        clock.calls, clock.turns = [], {}
        options = {"keeps": (1, 4), "resume_from": tmp_path / "kept.jsonl", **SIZES, **options}
        found = prefill_latency(model, head_map(), lengths=lengths, **options)
        return found, sorted({n for _, n in clock.calls})

    clock.lost = {(0, 20, 3)}
    whole, timed = study()
    assert timed == [10, 20]
    clock.lost = set()
    assert study() == (whole, []), "what ran out of memory was tried again"
    assert study(lengths=(10, 20, 30))[1] == [30]
    assert study(keeps=(1,))[1] == [10, 20] and study(repeats=3)[1] == [10, 20]
    for options, message in [
        ({"sink_size": 3}, "sink_size: 2 there / 3 now"),
        ({"dense_below": 5}, "dense_below: 0 there / 5 now"),
        ({"seed": 1}, "seed: 0 there / 1 now"),
        ({"fuse": True}, "fuse: False there / True now"),
        ({"backend": "reference"}, "backend: 'banded' there / 'reference' now"),
    ]:
        with pytest.raises(ValueError, match=f"another configuration: {message}"):
            study(**options)
    upside_down = head_map([[0.1 * (4 * i + j) / 2 for j in range(4)] for i in range(3)])
    with pytest.raises(ValueError, match="another configuration: head_map"):
        prefill_latency(model, upside_down, keeps=(1,), lengths=(10,), resume_from=tmp_path / "kept.jsonl", **SIZES)


def test_layers_that_stream(model, monkeypatch):
    monkeypatch.setattr(backbone_timing, "milliseconds", lambda call, device: 1.0)

    def layers(**options):
        study = prefill_latency(model, head_map(), lengths=(8, 20, 40), repeats=1, **{**SIZES, **options})
        return [point.streaming_layers for point in study.points if point.hybrid]

    assert layers(keeps=(1,)) == [0, 3, 3]  # 8 tokens are within the window
    assert layers(keeps=(1,), dense_below=30) == [0, 0, 3]
    assert layers(keeps=(1,), dense_below="auto") == [0, 0, 0]  # nothing to gain at such lengths


def test_all_dense_layers_do_not_stream(model, monkeypatch):
    monkeypatch.setattr(backbone_timing, "milliseconds", lambda call, device: 1.0)
    first_layer = head_map([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]])
    study = prefill_latency(model, first_layer, keeps=(4, 12), lengths=(20,), **SIZES)
    assert [point.streaming_layers for point in study.points] == [0, 2, 0]


def test_settings_reach_the_model(model, monkeypatch):
    seen, inside = [], []

    @contextmanager
    def dense_kernel(device):
        inside.append(device)
        yield
        inside.pop()

    def milliseconds(call, device):
        seen.append((model.hybrid, len(inside)))
        return 1.0

    monkeypatch.setattr(backbone_timing, "milliseconds", milliseconds)
    monkeypatch.setattr(backbone_timing, "fastest_dense", dense_kernel)
    options = {"sink_size": 3, "window_size": 9, "dense_below": 4, "backend": "reference", "repeats": 1}
    study = prefill_latency(model, head_map(), keeps=(2,), lengths=(20,), **options)
    modes = [mode for mode, _ in seen if mode is not None]
    assert len(seen) == 6 and len(modes) == 3 and all(depth == 1 for _, depth in seen)
    assert {(m.sink_size, m.window_size, m.dense_below, m.backend) for m in modes} == {(3, 9, 4, "reference")}
    assert modes[0].heads.nonzero().tolist() == [[0, 2], [1, 1]]
    assert (study.backend, study.dense_below) == ("reference", 4)
    fused = []
    monkeypatch.setattr(backbone_timing, "milliseconds", lambda call, device: fused.append(is_fused(model)) or 1.0)
    assert prefill_latency(model, head_map(), keeps=(2,), lengths=(20,), fuse=True, repeats=1).fuse
    assert fused == [False, True, True, False, False, True] and not is_fused(model)
    monkeypatch.setattr(backbone_timing, "milliseconds", milliseconds)
    auto = prefill_latency(model, head_map(), keeps=(2,), lengths=(20,), dense_below="auto", repeats=1)
    assert auto.dense_below is None and seen[-2][0] is None and seen[-1][0].dense_below == "auto"


def test_the_model_is_called_as_generate_calls_it(family, monkeypatch):
    """The cache holds every token, the logits are the last token's, in every family; times are real."""
    model, outputs = AutoCoReModel.from_model(build(family)), []
    model.register_forward_hook(lambda module, args, output: outputs.append(output))
    kv_heads = model.config.get_text_config().num_key_value_heads
    map_ = head_map(model_type=model.config.model_type, num_kv_heads=kv_heads)
    study = prefill_latency(model, map_, keeps=(1,), lengths=(24,), repeats=1, **SIZES)
    assert len(outputs) == 2 * 3
    for output in outputs:
        assert output.logits.shape == (1, 1, 120) and output.past_key_values.get_seq_length() == 24
        assert not output.logits.requires_grad
    same, other = (outputs[0].logits - outputs[i].logits for i in (3, 1))
    assert torch.equal(same, torch.zeros_like(same)), "dense prefills of one prompt differ"
    assert other.abs().max() > 1e-4, "hybrid prefill did what dense prefill does"
    for point in study.points:
        assert 0 < point.seconds.p20 <= point.seconds.p50 <= point.seconds.p80 < 60 and point.speedup.p50 > 0


def test_token_ids_are_of_the_vocabulary_but_stand_for_no_picture(native):
    ids = random_ids(native, 5000, seed=3)
    assert ids.shape == (1, 5000) and ids.dtype == torch.int64
    config, text = native.config, native.config.get_text_config()
    special = {IMAGE, VIDEO, VISION_START, VISION_END} if config.model_type.startswith("qwen3_vl") else {IMAGE}
    special |= {text.pad_token_id, text.bos_token_id, text.eos_token_id}
    if config.model_type == "llava_onevision":
        special |= {VIDEO}
    assert set(ids.flatten().tolist()) == set(range(text.vocab_size)) - special
    assert torch.equal(ids, random_ids(native, 5000, seed=3)) and not torch.equal(ids, random_ids(native, 5000, seed=4))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keeps": ()}, "no keeps"),
        ({"keeps": (0.001,)}, "rounds to 0"),
        ({"lengths": ()}, r"lengths=\(\)"),
        ({"lengths": (20, 1)}, r"lengths=\(20, 1\)"),
        ({"lengths": (20.5,)}, r"lengths=\(20.5,\)"),
        ({"repeats": 0}, "repeats=0"),
        ({"window_size": 0}, "window_size"),
        ({"backend": "fast"}, "backend 'fast'"),
        ({"dense_below": -1}, "dense_below=-1"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_is(model, monkeypatch, options, message):
    monkeypatch.setattr(backbone_timing, "milliseconds", lambda call, device: pytest.fail("timed"))
    with pytest.raises(ValueError, match=message):
        prefill_latency(model, head_map(), **{"keeps": (1,), "lengths": (20,), **SIZES, **options})
    assert model.hybrid is None


def test_a_mode_that_is_on_and_a_map_of_another_model_are_refused(model):
    with pytest.raises(ValueError, match="model_type"):
        prefill_latency(model, head_map(model_type="internvl"), keeps=(1,), lengths=(20,))
    model.enable_hybrid(heads=[(0, 0)])
    mode = model.hybrid
    with pytest.raises(ValueError, match=r"while HybridPrefill is on.*disable_hybrid\(\)"):
        prefill_latency(model, head_map(), keeps=(1,), lengths=(20,))
    assert model.hybrid is mode


def test_prompts_within_the_window_are_told_of(model, clock, caplog):
    with caplog.at_level(logging.WARNING):
        prefill_latency(model, head_map(), keeps=(1,), lengths=(10, 20), window_size=20, repeats=1)
    assert "no prompt that was timed is longer than window_size=20 (the longest has 20 tokens)" in caplog.text
