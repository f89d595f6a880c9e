"""The PyTorch kernel: identity laws, error against float64, effect, memory, gradients."""

from types import SimpleNamespace

import cases
import pytest
import torch
from cases import CPU_AND_GPU, DTYPES, NO_CUDA, case, causal_torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from corehead_hf import reference
from corehead_hf.kernels import banded, hybrid_attention

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def run(c, sink, window, first_token=None, chunk_size=32, attend=banded.hybrid_attention, **kwargs):
    if attend is banded.hybrid_attention:
        kwargs["chunk_size"] = chunk_size
    return cases.run(attend, c, sink, window, first_token, **kwargs)


def assert_as_good_as_torch(c, sink, window, first_token=None, chunk_size=32):
    cases.assert_as_good_as_torch(run(c, sink, window, first_token, chunk_size), c, sink, window, first_token)


@pytest.mark.parametrize("device", CPU_AND_GPU)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("G", [1, 4])
def test_all_dense_is_torch_bit_for_bit(device, dtype, G):
    c = case(111, 111, G=G, dtype=dtype, device=device, dense=range(2 * G))
    assert torch.equal(run(c, 3, 5), causal_torch(c))
    assert torch.equal(run(c, 3, 5, attend=hybrid_attention), causal_torch(c))


@pytest.mark.parametrize("device", CPU_AND_GPU)
@pytest.mark.parametrize("sink, window", [(0, 111), (0, 10**6), (111, 1), (1000, 3), (11, 100)])
def test_a_window_over_everything_is_torch_bit_for_bit(device, sink, window):
    c = case(111, 111, device=device, dense=())
    assert torch.equal(run(c, sink, window), causal_torch(c))


def test_one_key_short_of_everything_is_not_dense():
    c = case(111, 111, dense=())
    assert not torch.equal(run(c, 11, 99), causal_torch(c))
    assert_as_good_as_torch(c, 11, 99)


def test_equal_padding_is_the_unpadded_result_bit_for_bit():
    c = case(70, 70)
    padded = case(75, 75)
    for name in ("query", "key", "value"):
        getattr(padded, name)[:, :, 5:] = getattr(c, name)
    result = run(padded, 3, 9, torch.tensor([5, 5]))
    assert not result[:, :5].any()
    assert torch.equal(result[:, 5:], run(c, 3, 9))


@pytest.mark.parametrize("G", [1, 4, 7, 8])
@pytest.mark.parametrize("T", [1, 63, 111, 257])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_against_float64(T, G, dtype):
    c = case(T, T, G=G, dtype=dtype, dense=(G,))
    assert_as_good_as_torch(c, sink=5, window=20)


@pytest.mark.parametrize("extra", [1, 37, 300])
@pytest.mark.parametrize("T", [1, 63, 111])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_of_a_prefill_that_continues_a_cache(T, extra, dtype):
    assert_as_good_as_torch(case(T, T + extra, dtype=dtype), sink=5, window=20)
    assert_as_good_as_torch(case(T, T + extra, dtype=dtype, dense=range(8)), sink=5, window=20)


ALONE = [(0, 1, 32), (1, 1, 32), (110, 1, 32)]  # a query's window is the query itself
WINDOW_AND_CHUNK = [(0, 40, 16), (4, 3, 64), (5, 20, 1), (5, 20, 10**6), (5, 20, None)]
SINK_AND_WINDOW = [(50, 7, 16), (31, 33, 32), (32, 33, 32), (33, 32, 32)]


@pytest.mark.parametrize("sink, window, chunk_size", ALONE + WINDOW_AND_CHUNK + SINK_AND_WINDOW)
@pytest.mark.parametrize("T, S", [(111, 111), (63, 150)])
def test_error_over_sinks_windows_and_chunks(sink, window, chunk_size, T, S):
    assert_as_good_as_torch(case(T, S), sink, window, chunk_size=chunk_size)


# 63 to 101 of 150 is padding in some of 63 queries and in some not; 150 is all padding, 149 leaves one token
@pytest.mark.parametrize("starts", [[0, 0, 0], [3, 3, 0], [0, 41, 7], [63, 100, 90], [101, 150, 149]])
@pytest.mark.parametrize("T, S", [(150, 150), (63, 150)])
@pytest.mark.parametrize("dense", [(1,), (), range(8)])
def test_error_with_left_padding(starts, T, S, dense):
    assert_as_good_as_torch(case(T, S, B=3, dense=dense), 5, 20, torch.tensor(starts))


@pytest.mark.parametrize("dense", [(), (0,), (3,), (1, 2), (0, 2), (0, 5), (0, 1, 2, 3), (4, 5, 6, 7), (0, 2, 4, 5, 7)])
@pytest.mark.parametrize("T, S", [(63, 63), (63, 90)])
def test_error_with_any_subset_of_a_group(dense, T, S):
    assert_as_good_as_torch(case(T, S, dense=dense), 5, 20)
    assert_as_good_as_torch(case(T, S, G=2, Hkv=4, dense=dense), 5, 20)


@pytest.mark.parametrize("first_token", [None, torch.tensor([0, 9])])
def test_strides_do_not_matter(first_token):
    c = case(111, 130)
    strided = SimpleNamespace(heads=c.heads, scaling=c.scaling)
    for name in ("query", "key", "value"):  # a [B, S, H, D] projection seen as [B, H, S, D], as HF passes it
        setattr(strided, name, getattr(c, name).transpose(1, 2).contiguous().transpose(1, 2))
    assert not strided.query.is_contiguous()
    assert torch.equal(run(strided, 5, 20, first_token), run(c, 5, 20, first_token))


def test_a_narrow_window_changes_streaming_heads_and_no_other():
    c = case(111, 111, dense=(1, 6))
    narrow, wide = run(c, 3, 10), run(c, 3, 200)
    changed = [(narrow[:, :, h] - wide[:, :, h]).abs().max().item() > 1e-2 for h in range(8)]
    assert changed == [not dense for dense in c.heads.tolist()]
    torch.testing.assert_close(narrow[:, :13], wide[:, :13])  # sink and window still hold every key


def test_keys_out_of_sight_have_no_influence():
    c = case(111, 111, dense=())
    before = run(c, 4, 10)
    hidden = slice(4, 111 - 10)  # what the last query does not see
    c.key[:, :, hidden] = float("nan")
    c.value[:, :, hidden] = float("nan")
    c.query, seen = c.query[:, :, -1:], before[:, -1:]
    torch.testing.assert_close(run(c, 4, 10), seen, rtol=1e-5, atol=1e-6)


class Allocations(TorchDispatchMode):
    """Elements of the largest tensor any operation made, and of all together; views are not counted."""

    def __init__(self):
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)}
        for x in tree_leaves(out):
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, x.numel())
                self.total += x.numel()
        return out


def allocations(T, S, dense, chunk=64):
    c = case(T, S, Hkv=3, G=2, B=1, D=8, dense=dense)
    with Allocations() as counted:
        run(c, sink=8, window=64, chunk_size=chunk)
    return counted


@pytest.mark.parametrize("T, S, dense", [(4096, 4096, ()), (4096, 4096, (2, 3)), (2048, 4096, (3,))])
def test_no_matrix_over_the_whole_sequence(T, S, dense):
    chunk = 64
    mask = chunk * (S if dense and T < S else 64 + chunk + 8)
    largest = allocations(T, S, dense, chunk).largest
    assert T * 8 * 6 <= largest <= max(T * 8 * 6, mask)  # the output, [T, D, Hq]
    assert largest <= T * S / 32


@pytest.mark.parametrize("dense", [(), (2, 3), (1,)])
def test_memory_traffic_is_linear_in_the_sequence(dense):
    short, long = allocations(1024, 1024, dense), allocations(4096, 4096, dense)
    assert long.total <= 4.2 * short.total


@pytest.mark.parametrize("T, S", [(33, 33), (20, 40)])
@pytest.mark.parametrize("dense", [(), (1,), range(4)])
def test_gradients_are_those_of_the_reference(T, S, dense):
    c = case(T, S, G=2, dense=dense)
    first_token = torch.tensor([0, 22])
    weight = torch.randn(2, T, 4, 16, generator=torch.Generator().manual_seed(1))
    gradients = []
    for attend in (banded.hybrid_attention, reference.hybrid_attention):
        for x in (c.query, c.key, c.value):
            x.grad = None
            x.requires_grad_()
        out = run(c, 3, 6, first_token, chunk_size=8, attend=attend)
        (out.float() * weight).sum().backward()
        gradients.append([x.grad for x in (c.query, c.key, c.value)])
    for ours, true in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@NO_CUDA
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "T, S, dense", [(257, 257, (1,)), (2048, 2048, (1, 4)), (1000, 3001, (1,)), (8192, 8192, (1,))]
)
def test_error_on_a_gpu(T, S, dense, dtype):
    c = case(T, S, D=128, B=1, dtype=dtype, device="cuda", dense=dense)
    assert_as_good_as_torch(c, sink=128, window=700, chunk_size=None)


@pytest.mark.gpu
@NO_CUDA
def test_padding_on_a_gpu():
    c = case(2049, 3000, D=128, B=3, dtype=torch.bfloat16, device="cuda")
    assert_as_good_as_torch(c, 64, 500, torch.tensor([0, 1200, 3000]), chunk_size=None)
