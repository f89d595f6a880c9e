"""Dense heads in a kernel of their own, beside ours: the same result as one launch."""

from types import SimpleNamespace

import cases
import pytest
import torch
from cases import NO_CUDA, case

from corehead_hf.kernels import hybrid_prefill, two_launches

pytestmark = pytest.mark.usefixtures("poisoned_empty")
CUDA = torch.cuda.is_available()
on_device = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu) if CUDA else "cpu"])


def run(c, sink=5, window=20, attend=two_launches.hybrid_attention, **kwargs):
    return cases.run(attend, c, sink, window, **kwargs)


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dense", [(), (1,), (0, 3, 4), range(6)])
def test_error_against_float64(dense, dtype, device):
    c = case(75, 75, G=3, B=2, dense=dense, dtype=dtype, device=device)
    cases.assert_as_good_as_torch(run(c), c, 5, 20)


@on_device
def test_streaming_heads_are_those_of_one_launch_and_dense_heads_those_of_torch(device):
    c = case(75, 75, G=3, B=2, dense=(0, 3, 4), device=device)
    two, one = run(c), run(c, attend=hybrid_prefill.hybrid_attention)
    assert torch.equal(two[:, :, ~c.heads], one[:, :, ~c.heads])
    torch.testing.assert_close(two[:, :, c.heads], cases.causal_torch(c)[:, :, c.heads], rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(two, one, rtol=1e-5, atol=5e-6)


@on_device
def test_it_reads_where_the_tensors_lie(device):
    c = case(75, 75, G=3, B=2, dense=(1, 4), device=device)
    views = {x: getattr(c, x).transpose(1, 2).contiguous().transpose(1, 2) for x in ("query", "key", "value")}
    torch.testing.assert_close(run(SimpleNamespace(**vars(c) | views)), run(c), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("S, first_token", [(63, torch.tensor([0, 3])), (64, None)])
def test_padding_and_cached_keys_are_refused(S, first_token):
    c = case(63, S)
    with pytest.raises(ValueError, match="asked with padding or with cached keys - .* use 'triton'"):
        run(c, first_token=first_token)


def test_what_is_separable():
    c = case(20, 20)
    assert two_launches.separable(c.query, c.key, None)
    assert not two_launches.separable(c.query, c.key, torch.tensor([0, 0]))
    assert not two_launches.separable(c.query[:, :, 1:], c.key, None)


@pytest.mark.gpu
@NO_CUDA
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dense", [(1,), (0, 3, 6, 7)])
def test_two_launches_are_one_at_real_lengths(dense, dtype):
    c = case(4096, 4096, B=1, D=128, dtype=dtype, device="cuda", dense=dense)
    two = run(c, 128, 1024)
    for _ in range(5):  # the streams meet again each time
        assert torch.equal(run(c, 128, 1024)[:, :, ~c.heads], two[:, :, ~c.heads])
    one = run(c, 128, 1024, attend=hybrid_prefill.hybrid_attention)
    assert torch.equal(two[:, :, ~c.heads], one[:, :, ~c.heads])
    exact = SimpleNamespace(**vars(c) | {x: getattr(c, x).double() for x in ("query", "key", "value")})
    truth = cases.causal_torch(exact)[:, :, c.heads]
    assert cases.error(two[:, :, c.heads], truth) <= 2 * cases.error(cases.causal_torch(c)[:, :, c.heads], truth)
    assert cases.error(one[:, :, c.heads], truth) <= 2 * cases.error(cases.causal_torch(c)[:, :, c.heads], truth)


@pytest.mark.gpu
@NO_CUDA
def test_nothing_is_separable_while_a_graph_is_captured():
    c = case(64, 64, device="cuda")
    c.query.add_(0)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        assert not two_launches.separable(c.query, c.key, None)
        c.query.add_(0)
    assert two_launches.separable(c.query, c.key, None)
