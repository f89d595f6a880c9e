"""The autotuner's tensors, calls and turns."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference
from corehead_hf.kernels import trial
from corehead_hf.kernels.tiles import Tile
from corehead_hf.kernels.trial import Layer

CPU = torch.device("cpu")
LAYER = Layer(CPU, torch.float32, 16, 4, 2, 3, 20, 64)


def truth(qkv, num_dense, **changed):
    return reference.hybrid_attention(*qkv, LAYER.heads(num_dense), **{**LAYER.settings, **changed})


def test_tensors_lie_in_memory_as_in_a_model():
    query, key, value = LAYER.tensors(10, B=2, cached=5)
    assert query.shape == (2, 4, 10, 16) and key.shape == value.shape == (2, 2, 15, 16)
    assert query.transpose(1, 2).is_contiguous() and key.is_contiguous() and value.is_contiguous()
    assert {x.dtype for x in (query, key, value)} == {torch.float32}
    assert not torch.equal(key, value)
    assert torch.equal(query, LAYER.tensors(10, B=2, cached=5)[0])  # the same every time


def test_heads_and_settings():
    assert [LAYER.heads(count).tolist() for count in (0, 1, 4)] == [
        [False] * 4,
        [True, False, False, False],
        [True] * 4,
    ]
    assert LAYER.group == 2
    assert LAYER.settings == {"sink_size": 3, "window_size": 20, "scaling": 0.25}


@pytest.mark.parametrize("tile", [None, Tile(16, 16, 4, 1)])
@pytest.mark.parametrize("num_dense", [0, 1, 4])
def test_one_launch_gives_the_reference_result(tile, num_dense):
    qkv = LAYER.tensors(40)
    torch.testing.assert_close(
        trial.one_launch(tile, LAYER, qkv, num_dense)().double(), truth(qkv, num_dense), rtol=1e-5, atol=1e-6
    )
    narrow = trial.one_launch(tile, LAYER, qkv, num_dense, window_size=2)()
    torch.testing.assert_close(narrow.double(), truth(qkv, num_dense, window_size=2), rtol=1e-5, atol=1e-6)


def test_two_launches_give_the_reference_result():
    qkv = LAYER.tensors(40)
    result = trial.two_launches(Tile(16, 16, 4, 1), LAYER, qkv, sink_size=5)()
    torch.testing.assert_close(result.double(), truth(qkv, 1, sink_size=5), rtol=1e-5, atol=1e-6)


def test_a_launch_uses_the_tile_it_was_given(monkeypatch):
    from corehead_hf.kernels import hybrid_prefill

    used = []
    launch = hybrid_prefill._launch
    monkeypatch.setattr(hybrid_prefill, "_launch", lambda *a: (used.append(a[2]), launch(*a)))
    tile, qkv = Tile(32, 16, 4, 1), LAYER.tensors(40)
    trial.one_launch(tile, LAYER, qkv, 1)()
    trial.two_launches(tile, LAYER, qkv)()
    assert used == [tile, tile]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("Hkv", [2, 4])
def test_dense_kernels_are_causal_attention(device, Hkv):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer = Layer(torch.device(device), dtype, 64, 4, Hkv, 3, 20, 64)
    qkv = layer.tensors(40)
    key, value = (x.repeat_interleave(4 // Hkv, dim=1) for x in qkv[1:])
    expected = scaled_dot_product_attention(qkv[0].double(), key.double(), value.double(), is_causal=True)
    calls = trial.dense_kernels(layer, qkv)
    ran = 0
    for call in calls.values():
        try:
            result = call()
        except RuntimeError:  # this machine lacks the kernel
            continue
        ran += 1
        torch.testing.assert_close(result.double(), expected, rtol=2e-2 if device == "cuda" else 1e-5, atol=1e-2)
    assert ran >= 1 and len(calls) == (1 if device == "cpu" else 3)


def test_calls_take_turns_and_the_warm_up_is_not_counted(monkeypatch):
    order = []
    # the clock: a call's number among its own, so the first two are 0 and 1
    monkeypatch.setattr(trial, "milliseconds", lambda call, device: call())
    calls = {name: lambda name=name: (order.append(name), float(order.count(name) - 1))[1] for name in "abc"}
    times, problems = trial.interleave(calls, CPU, 3, "test")
    assert times == {"a": 3.0, "b": 3.0, "c": 3.0}  # the median of 2, 3, 4
    assert problems == {}
    assert "".join(order) == "cbaabccbaabccba"


def test_a_call_that_fails_is_left_out_with_its_reason():
    def fails():
        raise MemoryError("none left\nat all")

    times, problems = trial.interleave({"good": lambda: None, "bad": fails}, CPU, 1, "test")
    assert list(times) == ["good"] and times["good"] >= 0
    assert problems == {"bad": "MemoryError: none left"}


def test_a_call_that_fails_later_is_left_out_too():
    turns = iter([None, None, None])  # then StopIteration
    times, problems = trial.interleave({"bad": lambda: next(turns)}, CPU, 5, "test")
    assert times == {} and problems == {"bad": "StopIteration: "}


def test_milliseconds_of_a_cpu_are_milliseconds(monkeypatch):
    clock = iter([10.0, 10.25])
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(clock))
    assert trial.milliseconds(lambda: None, CPU) == 250.0


def test_rounded():
    assert [trial.rounded(number) for number in (123456.0, 0.000123456, 0.0)] == [123500.0, 0.0001235, 0.0]
