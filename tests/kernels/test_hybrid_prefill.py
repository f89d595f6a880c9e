"""The Triton kernel: on a GPU, or interpreted on the CPU where there is none."""

import functools
from types import SimpleNamespace

import cases
import pytest
import torch
import triton
import triton.language as tl
from cases import NO_CUDA, case
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference
from corehead_hf.kernels import hybrid_attention, hybrid_prefill, tiles
from corehead_hf.kernels.hybrid_prefill import _masked_block, _place, _unmasked_block
from corehead_hf.kernels.tiles import Tile

pytestmark = pytest.mark.usefixtures("poisoned_empty")
CUDA = torch.cuda.is_available()
HOPPER = CUDA and torch.version.hip is None and torch.cuda.get_device_capability()[0] in (9, 10)
# One device a machine: the interpreter and the compiler exclude each other.
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu) if CUDA else "cpu"]
# The interpreter multiplies the bit patterns of bfloat16 (triton-lang/triton#11584).
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * CUDA
on_device = pytest.mark.parametrize("device", DEVICES)

POINTERS = Tile(32, 32, 4, 2)  # small, so that short sequences have every kind of block
KINDS = {"pointers": POINTERS}
if HOPPER or not CUDA:
    KINDS["descriptors"] = Tile(32, 32, 4, 2, descriptors=True)
if not CUDA:  # a plain loop for the interpreter; the compiler takes it in half precision and 128 rows only, see below
    KINDS["warp_specialized"] = Tile(32, 32, 4, 2, descriptors=True, warp_specialize=True)
every_kind = pytest.mark.parametrize("tile", KINDS.values(), ids=KINDS)


def on_gpu(test):
    return pytest.mark.gpu(NO_CUDA(test))


def run(c, sink, window, first_token=None, tile=POINTERS, **kwargs):
    return cases.run(hybrid_prefill.hybrid_attention, c, sink, window, first_token, tile=tile, **kwargs)


def assert_as_good_as_torch(c, sink, window, first_token=None, tile=POINTERS):
    result = run(c, sink, window, first_token, tile)
    cases.assert_as_good_as_torch(result, c, sink, window, first_token)


# --- identity laws: the same instructions must give the same bits


@on_device
@every_kind
def test_a_dense_head_is_a_window_over_everything(device, tile):
    dense, wide = (case(63, 100, G=2, Hkv=1, B=1, dense=heads, device=device) for heads in (range(2), ()))
    expected = run(dense, 0, 1, tile=tile)
    assert torch.equal(expected, run(wide, 0, 100, tile=tile))
    assert torch.equal(expected, run(wide, 0, 10**12, tile=tile))


@on_device
@every_kind
def test_a_chunk_of_whole_tiles_is_that_part_of_the_whole(device, tile):
    whole = case(96, 96, G=2, Hkv=1, B=1, device=device)
    chunk = SimpleNamespace(**vars(whole) | {"query": whole.query[:, :, 32:]})
    assert torch.equal(run(chunk, 5, 20, tile=tile), run(whole, 5, 20, tile=tile)[:, 32:])


@on_device
@every_kind
def test_padding_of_whole_tiles_is_as_if_it_were_not_there(device, tile):
    c, padded = (case(T, T, G=2, Hkv=1, B=1, device=device) for T in (63, 95))
    for name in ("query", "key", "value"):
        getattr(padded, name)[:, :, :32] = float("nan")
        getattr(padded, name)[:, :, 32:] = getattr(c, name)
    result = run(padded, 5, 20, torch.tensor([32], device=device), tile)
    assert not result[:, :32].any()
    assert torch.equal(result[:, 32:], run(c, 5, 20, torch.tensor([0], device=device), tile))


@on_device
def test_a_sequence_of_a_batch_is_that_sequence_alone(device):
    c, starts = case(63, 90, G=2, Hkv=1, B=3, device=device), torch.tensor([0, 41, 7], device=device)
    together = run(c, 5, 20, starts)
    for b in range(3):
        alone = SimpleNamespace(**vars(c) | {x: getattr(c, x)[b : b + 1] for x in ("query", "key", "value")})
        assert torch.equal(run(alone, 5, 20, starts[b : b + 1]), together[b : b + 1])


@on_device
def test_pointers_descriptors_and_one_loop_are_the_same(device):
    c, starts = case(63, 100, G=2, Hkv=1, B=1, device=device), torch.tensor([9], device=device)
    first, *others = (run(c, 40, 33, starts, tile) for tile in KINDS.values())
    rounding = 0 if device == "cpu" else 1e-6  # compilers fuse multiplications and additions as they like
    for other in others:
        torch.testing.assert_close(other, first, rtol=rounding, atol=rounding)


def projection(x):
    """[B, S, H, D] seen as [B, H, S, D], as HF passes a query."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def fused_projection(x):
    """Some heads of the one matrix that holds query, key and value; the others are NaN."""
    B, H, S, D = x.shape
    held = torch.full((B, S, H + 3, D), float("nan"), dtype=x.dtype, device=x.device)
    held[:, :, 2 : 2 + H] = x.transpose(1, 2)
    return held[:, :, 2 : 2 + H].transpose(1, 2)


def static_cache(x):
    """The first S of a longer buffer, NaN behind."""
    B, H, S, D = x.shape
    held = torch.full((B, H, S + 40, D), float("nan"), dtype=x.dtype, device=x.device)
    held[:, :, :S] = x
    return held[:, :, :S]


def every_other(x):
    """D not contiguous."""
    held = torch.full((*x.shape[:3], 2 * x.shape[3]), float("nan"), dtype=x.dtype, device=x.device)
    held[..., ::2] = x
    return held[..., ::2]


def strides_case(device):
    return case(40, 75, G=1, device=device), torch.tensor([0, 9], device=device)


@functools.cache
def contiguous_result(device, tile):
    c, starts = strides_case(device)
    return run(c, 5, 20, starts, tile)


@on_device
@every_kind
@pytest.mark.parametrize("layout", [projection, fused_projection, static_cache, every_other])
def test_it_reads_where_the_tensors_lie(device, tile, layout):
    c, starts = strides_case(device)
    strided = SimpleNamespace(**vars(c) | {x: layout(getattr(c, x)) for x in ("query", "key", "value")})
    assert not strided.key.is_contiguous()
    assert torch.equal(run(strided, 5, 20, starts, tile), contiguous_result(device, tile))


# --- what nobody may see


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # the interpreter, of the head that is NaN
@on_device
@every_kind
@pytest.mark.parametrize("starts", [None, [9]])
def test_the_next_heads_keys_have_no_influence(device, tile, starts):
    c = case(40, 40, G=1, B=1, device=device)  # the last block of head 0 reaches into head 1
    first = starts and torch.tensor(starts, device=device)
    before = run(c, 5, 20, first, tile)
    for x in (c.query[:, 1], c.key[:, 1], c.value[:, 1]):
        x.fill_(float("nan"))
    after = run(c, 5, 20, first, tile)
    assert torch.equal(after[:, :, 0], before[:, :, 0])
    assert after[:, starts[0] if starts else 0 :, 1].isnan().all()


@on_device
@every_kind
def test_padding_has_no_influence(device, tile):
    c, starts = case(60, 90, G=1, Hkv=2, B=3, device=device), [50, 90, 89]
    given = torch.tensor(starts, device=device)
    before = run(c, 5, 20, given, tile)
    for b, start in enumerate(starts):
        c.key[b, :, :start] = c.value[b, :, :start] = float("nan")
        c.query[b, :, : start - 30] = float("nan")
    assert torch.equal(run(c, 5, 20, given, tile), before)
    assert not before[1].any() and not before[2, :59].any() and not before[0, :20].any()
    # the last sequence has one real token
    torch.testing.assert_close(before[2, 59], c.value[2, :, 89], rtol=1e-6, atol=1e-6)


@on_device
def test_one_token_attends_itself(device):
    c = case(1, 1, G=2, device=device)
    value = c.value.transpose(1, 2).repeat_interleave(2, dim=2)
    for tile in KINDS.values():
        torch.testing.assert_close(run(c, 3, 5, tile=tile), value, rtol=1e-6, atol=1e-6)


@on_device
def test_a_window_of_one_without_sinks_is_the_value_itself(device):
    c = case(63, 63, G=2, Hkv=1, B=1, device=device, dense=())
    value = c.value.transpose(1, 2).repeat_interleave(2, dim=2)
    torch.testing.assert_close(run(c, 0, 1), value, rtol=1e-6, atol=1e-6)


@on_device
def test_a_first_token_out_of_range_is_the_nearest_in_range(device):
    c = case(40, 60, G=2, Hkv=1, device=device)
    wild, near = (torch.tensor(x, device=device) for x in ([-7, 1000], [0, 60]))
    assert torch.equal(run(c, 5, 20, wild), run(c, 5, 20, near))


# --- error against float64


SHAPES = [(63, 63, 1, 3), (63, 150, 7, 1), (111, 111, 4, 1), (111, 111, 8, 1), (257, 257, 1, 2), (70, 257, 4, 2)]


@on_device
@pytest.mark.parametrize("dtype", DTYPES[-1:] if CUDA else DTYPES)  # each group and dtype is a compilation there
@pytest.mark.parametrize("T, S, G, Hkv", [*SHAPES, (1, 99, 4, 2)])
def test_error_against_float64(T, S, G, Hkv, dtype, device):
    c = case(T, S, G=G, Hkv=Hkv, B=1, dtype=dtype, device=device, dense=(G * Hkv - 1,))
    assert_as_good_as_torch(c, sink=5, window=20, tile=Tile(64, 32, 4, 2))


@on_device
@pytest.mark.parametrize("D", [16, 24, 40, 80, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_over_head_dims(D, dtype, device):
    tile = POINTERS if D < 256 else Tile(16, 16, 4, 1)  # in float32, D = 256 leaves shared memory for no more
    assert_as_good_as_torch(case(63, 75, G=2, Hkv=1, B=1, D=D, dtype=dtype, device=device), 32, 20, tile=tile)


# Whole sink blocks; more sinks than window; an end that cuts a block; a window within a block, and over everything.
SINK_AND_WINDOW = [(0, 1), (0, 40), (4, 3), (32, 20), (64, 33), (64, 7), (50, 7), (33, 64), (200, 3), (5, 111)]


@on_device
@pytest.mark.parametrize("sink, window", SINK_AND_WINDOW)
@pytest.mark.parametrize("T, S", [(111, 111), (50, 150)])
def test_error_over_sinks_and_windows(T, S, sink, window, device):
    assert_as_good_as_torch(case(T, S, G=2, Hkv=1, B=1, device=device), sink, window)


@on_device
@every_kind
@pytest.mark.parametrize("sink, window", [(32, 20), (64, 7), (50, 7)])
def test_error_of_every_kind_over_sinks_and_windows(sink, window, tile, device):
    assert_as_good_as_torch(case(100, 120, G=2, Hkv=1, B=1, device=device), sink, window, tile=tile)


# 50 to 88 of 120 is padding in some of 50 queries and in some not; 120 is all padding, 119 leaves one token
@on_device
@every_kind
@pytest.mark.parametrize("starts", [[0, 41, 7], [50, 88, 75], [90, 120, 119]])
@pytest.mark.parametrize("sink", [5, 32])
def test_error_with_left_padding(starts, sink, tile, device):
    c = case(50, 120, G=2, Hkv=1, B=3, device=device)
    assert_as_good_as_torch(c, sink, 20, torch.tensor(starts), tile)


@on_device
def test_error_with_left_padding_of_a_first_prefill(device):
    c = case(150, 150, G=2, Hkv=1, B=3, device=device)
    assert_as_good_as_torch(c, 40, 20, torch.tensor([3, 41, 101]))


@on_device
@pytest.mark.parametrize("dense", [(), (1, 2), (0, 5), (4, 5, 6, 7), range(8)])
def test_error_with_any_subset_of_a_group(dense, device):
    assert_as_good_as_torch(case(50, 50, B=1, dense=dense, device=device), 5, 20)


@on_device
def test_a_narrow_window_changes_streaming_heads_and_no_other(device):
    c = case(63, 63, G=2, B=1, dense=(1, 2), device=device)
    narrow, wide = run(c, 3, 10), run(c, 3, 200)
    changed = [(narrow[:, :, h] - wide[:, :, h]).abs().max().item() > 1e-2 for h in range(4)]
    assert changed == [True, False, False, True]
    torch.testing.assert_close(narrow[:, :13], wide[:, :13])  # sink and window still hold every key


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@on_device
def test_error_of_drawn_shapes(device):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.data())
    def check(data):
        draw = lambda *choices: data.draw(st.sampled_from(choices))  # noqa: E731
        S = data.draw(st.integers(1, 200))
        T = data.draw(st.one_of(st.just(S), st.integers(1, S)))
        (G, Hkv), B = draw((1, 1), (1, 3), (2, 2), (4, 1), (4, 2), (7, 1)), draw(1, 2)
        dense = data.draw(st.sets(st.integers(0, G * Hkv - 1)))
        c = case(T, S, G=G, Hkv=Hkv, B=B, D=draw(16, 32), device=device, dense=dense)
        starts = data.draw(st.none() | st.lists(st.integers(0, S), min_size=B, max_size=B))
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        blocks = draw(32, 64), draw(16, 32, 64)
        tile = Tile(*blocks, 4, 2, descriptors=kind != "pointers", warp_specialize=kind == "warp_specialized")
        sink = data.draw(st.integers(0, 300) | st.sampled_from((16, 32, 64, 128)))
        window = data.draw(st.integers(1, 300) | st.sampled_from((1, 32, 64)))
        starts = starts and torch.tensor(starts)
        result = run(c, sink, window, starts, tile)
        # One key only, and torch makes no error at all: so not a ratio, but what float32 can do.
        truth = cases.run(reference.hybrid_attention, c, sink, window, starts)
        torch.testing.assert_close(result.double(), truth, rtol=1e-5, atol=2e-6)

    check()


# --- which blocks are read, in which order


@triton.jit(do_not_specialize=hybrid_prefill._VARYING)
def record_places(
    Tiles, Blocks, head_order, first_token, B, T, S, num_dense, num_heads, window, sink,
    LIMIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PADDED: tl.constexpr, SINK_CUT: tl.constexpr,
):  # fmt: skip
    (h, b, m0, p0, width, start, n, sinks, low, full, causal,
     free_sinks, num_free, upto_sinks, upto_cut, upto_edge, num_masked) = _place(
        head_order, first_token, B, T, S, num_dense, num_heads, window, sink, BLOCK_M, BLOCK_N, PADDED, SINK_CUT
    )  # fmt: skip
    found = Tiles + tl.program_id(0) * 9
    tl.store(found, h)
    tl.store(found + 1, b)
    tl.store(found + 2, m0)
    tl.store(found + 3, num_free)
    tl.store(found + 4, num_masked)
    tl.store(found + 5, free_sinks)
    tl.store(found + 6, upto_sinks)
    tl.store(found + 7, upto_cut)
    tl.store(found + 8, upto_edge)
    blocks = Blocks + tl.program_id(0) * LIMIT
    for j in range(num_free):
        tl.store(blocks + j, _unmasked_block(j, free_sinks, full))
    for j in range(num_masked):
        block = _masked_block(j, sinks, low, causal, free_sinks, upto_sinks, upto_cut, upto_edge)
        tl.store(blocks + num_free + j, block)


def places(T, S, sink, window, dense, starts=None, num_heads=3, block=16, device="cpu"):
    """Of every program, in order: head, batch, first row, unmasked blocks, masked blocks, kinds of the masked ones."""
    B, rows, limit = len(starts or [0]), -(-T // block), -(-S // block) + 1
    heads = torch.zeros(num_heads, dtype=torch.bool)
    heads[list(dense)] = True
    found = torch.full((B * num_heads * rows, 9), -1, dtype=torch.int32, device=device)
    blocks = torch.full((B * num_heads * rows, limit), -1, dtype=torch.int32, device=device)
    order = hybrid_prefill._head_order(tuple(heads.tolist()), torch.device(device))
    first = order if starts is None else torch.tensor(starts, dtype=torch.int32, device=device)
    record_places[(len(found),)](
        found, blocks, order, first, B, T, S, len(dense), num_heads, window, sink, LIMIT=limit, BLOCK_M=block,
        BLOCK_N=block, PADDED=starts is not None, SINK_CUT=sink % block != 0,
    )  # fmt: skip
    programs = []
    for (h, b, m0, free, masked, free_sinks, *upto), line in zip(found.tolist(), blocks.tolist(), strict=True):
        kinds = {"free sinks": free_sinks, "sinks": upto[0], "cut": upto[1] - upto[0], "edge": upto[2] - upto[1]}
        kinds |= {"diagonal": masked - upto[2], "free": free - free_sinks}
        programs.append((h, b, m0, line[:free], line[free : free + masked], kinds))
    return heads, programs


PLACES = [
    # T, S, sink, window, dense, starts, kinds of blocks that must occur
    (111, 111, 0, 40, (1,), None, {"free", "edge", "diagonal"}),
    (111, 111, 32, 20, (0, 2), None, {"free sinks", "sinks", "edge", "diagonal"}),
    (111, 111, 50, 7, (2,), None, {"free sinks", "sinks", "cut", "edge", "diagonal"}),
    (50, 190, 21, 70, (), None, {"free sinks", "cut", "free", "edge", "diagonal"}),
    (50, 190, 300, 3, (), None, {"free sinks", "sinks"}),
    (64, 192, 64, 1, (0, 1, 2), None, {"free sinks", "free", "diagonal"}),
    (111, 150, 5, 33, (1,), [0, 70, 149, 150], {"free", "cut", "edge", "diagonal"}),
    (1, 1, 4, 4, (0,), [0, 1], {"diagonal"}),
    (1, 177, 16, 16, (0,), None, {"free sinks", "edge", "diagonal"}),
]


@on_device
@pytest.mark.parametrize("T, S, sink, window, dense, starts, kinds", PLACES)
def test_every_block_that_is_seen_is_read_once_and_no_other(T, S, sink, window, dense, starts, kinds, device):
    heads, programs = places(T, S, sink, window, dense, starts, device=device)
    B, block = len(starts or [0]), 16
    todo = {(h, b, m0) for h in range(3) for b in range(B) for m0 in range(0, T, block)}
    assert sorted(todo) == sorted(program[:3] for program in programs)
    assert kinds <= {kind for program in programs for kind, count in program[5].items() if count}
    mask = reference.hybrid_mask(heads, T, S, sink, window, None if starts is None else torch.tensor(starts))
    for h, b, m0, free, masked, _ in programs:
        first = starts[b] if starts else 0
        seen = mask[b, h, m0 : m0 + block, first:]
        seen = [seen[:, k : k + block] for k in range(0, seen.shape[1], block)]
        assert sorted(free + masked) == [j for j, part in enumerate(seen) if part.any()]
        whole = [j for j, part in enumerate(seen) if part.all() and part.shape[1] == block]
        assert set(free) <= set(whole)
        assert len(whole) - len(free) <= 2  # only the blocks at the edges are masked where they need not be


@on_device
@pytest.mark.parametrize("dense", [(), (0, 2), (1,), (0, 1, 2)])
def test_the_longest_work_comes_first(dense, device):
    heads, programs = places(90, 130, 32, 40, dense, [0, 0], device=device)
    count = 2 * 6 * len(dense)  # 2 sequences, 6 tiles of 16 rows
    assert [heads[program[0]].item() for program in programs] == [i < count for i in range(len(programs))]
    lengths = [len(program[3]) + len(program[4]) for program in programs[:count]]
    assert lengths == sorted(lengths, reverse=True)


# --- writing


@on_device
@every_kind
def test_streaming_only_leaves_dense_heads_alone(device, tile):
    c = case(40, 40, G=2, B=1, dense=(1, 2), device=device)
    output = torch.full((1, 40, 4, 16), 7.0, device=device)
    assert run(c, 5, 20, tile=tile, output=output, streaming_only=True) is output
    assert (output[:, :, c.heads] == 7).all()
    assert torch.equal(output[:, :, ~c.heads], run(c, 5, 20, tile=tile)[:, :, ~c.heads])
    c.heads[:] = True
    assert (run(c, 5, 20, tile=tile, output=torch.full_like(output, 7.0), streaming_only=True) == 7).all()


@on_device
def test_an_output_of_another_layout(device):
    c = case(40, 40, G=1, device=device)
    output = torch.full((2, 2, 50, 20), 7.0, device=device)
    inside = output[:, :, 3:43, 2:18].transpose(1, 2)
    run(c, 5, 20, output=inside)
    assert torch.equal(inside, run(c, 5, 20))
    inside.fill_(7)
    assert (output == 7).all()


@on_device
def test_a_tile_that_the_device_refuses_is_replaced(device, monkeypatch, caplog):
    c, launch, tried = case(20, 20, G=2, Hkv=1, B=1, device=device), hybrid_prefill._launch, []
    big = Tile(64, 32, 4, 2)

    def refusing(tensors, numbers, tile):
        tried.append(tile)
        if tile == big:
            raise triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory")
        launch(tensors, numbers, tile)

    monkeypatch.setattr(hybrid_prefill, "_launch", refusing)
    monkeypatch.setattr(tiles, "table", lambda *args: (big, POINTERS))
    monkeypatch.setattr(tiles, "_rejected", set())
    tiles.candidates.cache_clear()
    try:
        assert torch.equal(run(c, 5, 20, tile=None), run(c, 5, 20))
        assert tried[:2] == [big, POINTERS]
        assert "does not run on" in caplog.text
        run(c, 5, 20, tile=None)
        assert tried[3:] == [POINTERS]  # it is not tried again
        monkeypatch.setattr(tiles, "table", lambda *args: (big,))
        tiles.candidates.cache_clear()
        with pytest.raises(RuntimeError, match="no tile of the table fits"):
            run(c, 5, 20, tile=None)
    finally:
        tiles.candidates.cache_clear()


@pytest.mark.parametrize("D, dtype", [(8, torch.float32), (264, torch.float32), (16, torch.float64)])
def test_what_it_cannot_take_is_refused(D, dtype):
    with pytest.raises(ValueError, match=f"{dtype} with head_dim {D} - .* use backend='banded'"):
        run(case(5, 5, D=D, dtype=dtype), 1, 2)


def test_gradients_are_refused_not_lost():
    c = case(5, 5)
    c.key.requires_grad_()
    with pytest.raises(RuntimeError, match="no backward pass"):
        run(c, 1, 2)


def test_which_tensors_descriptors_can_read():
    x = torch.zeros(2, 3, 32, 64, dtype=torch.bfloat16)
    for fit in (x, x.transpose(1, 2), x[:, :, 1:], x[:1, :, :, :32], x[..., 8:40]):
        assert hybrid_prefill._describable(fit)
    odd_steps = torch.zeros(2, 3, 32, 65, dtype=torch.bfloat16)[..., :64]
    for unfit in (odd_steps, x[..., 1:33], x[..., :40], x[..., 4:36]):
        assert not hybrid_prefill._describable(unfit)


# --- on a GPU, at its own tiles and real sizes


def sampled_mask(c, rows, sink, window):
    """bool [1, Hq, rows, S]: row p of a prefill is the one query of a prefill that ends there."""
    S, parts = c.key.shape[2], []
    for p in rows:
        part = reference.hybrid_mask(c.heads, 1, p + 1, sink, window)
        parts.append(torch.nn.functional.pad(part, (0, S - p - 1)))
    return torch.cat(parts, dim=2).to(c.query.device)


def assert_rows_as_good_as_torch(result, c, rows, sink, window):
    """As cases.assert_as_good_as_torch, on some rows of a T == S too long for a whole mask."""
    mask, G = sampled_mask(c, rows, sink, window), c.query.shape[1] // c.key.shape[1]
    query, key, value = (x.repeat_interleave(n, 1) for x, n in ((c.query[:, :, rows], 1), (c.key, G), (c.value, G)))
    theirs = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=c.scaling).transpose(1, 2)
    truth = torch.empty(theirs.shape, dtype=torch.float64, device=theirs.device)
    for h in range(c.query.shape[1]):  # one head at a time: float64 keys of all would not fit
        one = slice(h, h + 1)
        seen = reference.attention_probabilities(query[:, one], key[:, one], c.scaling, mask[:, one])
        truth[:, :, one] = (seen @ value[:, one].double()).transpose(1, 2)
    assert cases.error(result[:, rows], truth) <= 2 * cases.error(theirs, truth)


def edges_and(count, T, sink, window):
    drawn = torch.randperm(T, generator=torch.Generator().manual_seed(0))[:count].tolist()
    edges = {0, 1, sink, window - 1, window, window + sink, 127, 128, T - 2, T - 1}
    return sorted({p for p in edges if p < T} | set(drawn))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("T, dense", [(2048, (1, 4)), (8191, (1,)), (32768, ())])
def test_error_at_real_lengths(T, dense, dtype):
    c = case(T, T, B=1, D=128, dtype=dtype, device="cuda", dense=dense)
    result = hybrid_attention(c.query, c.key, c.value, c.heads, sink_size=128, window_size=2048, scaling=c.scaling)
    assert_rows_as_good_as_torch(result, c, edges_and(48, T, 128, 2048), 128, 2048)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_error_of_a_long_dense_head(dtype):
    c = case(32768, 32768, Hkv=1, G=2, B=1, D=128, dtype=dtype, device="cuda", dense=(0,))
    assert_rows_as_good_as_torch(run(c, 128, 2048, tile=None), c, edges_and(48, 32768, 128, 2048), 128, 2048)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("starts", [None, [0, 1200, 3000]])
def test_error_of_a_padded_prefill_that_continues_a_cache(starts, dtype):
    c = case(1000, 3000, B=3, Hkv=1, D=128, dtype=dtype, device="cuda")
    starts = starts and torch.tensor(starts)
    cases.assert_as_good_as_torch(run(c, 100, 500, starts, tile=None), c, 100, 500, starts)


SHIPPED = []
if CUDA:
    chip = tiles.architecture_of("cuda")
    wide = {(torch.bfloat16, width): tiles.table(chip, torch.bfloat16, width) for width in (64, 256)}
    wide |= {(torch.bfloat16, 128): tiles.trials(chip, torch.bfloat16, 128)}
    wide |= {(torch.float32, width): tiles.table(chip, torch.float32, width) for width in (64, 128, 256)}
    SHIPPED = [(dtype, width, tile) for (dtype, width), rows in wide.items() for tile in rows]


@on_gpu
@pytest.mark.parametrize("dtype, D, tile", SHIPPED or [pytest.param(None, None, None, id="no-chip")])
def test_error_of_every_tile_of_this_chip(dtype, D, tile):
    c = case(700, 1333, Hkv=1, B=2, D=D, dtype=dtype, device="cuda")
    starts = torch.tensor([0, 705])
    assert_as_good_as_torch(c, 128, 300, starts, tile)


@on_gpu
@pytest.mark.parametrize("padded", [False, True])
def test_repeats_are_bit_equal(padded):
    c = case(8192, 8192, B=1, D=128, dtype=torch.bfloat16, device="cuda", dense=(1, 4))
    starts = torch.tensor([77], device="cuda") if padded else None
    first = run(c, 128, 1024, starts, tile=None)
    assert all(torch.equal(run(c, 128, 1024, starts, tile=None), first) for _ in range(10))


@on_gpu
def test_a_graph_replays_with_other_inputs():
    c, other = (case(T, 1024, B=2, D=128, dtype=torch.bfloat16, device="cuda") for T in (1024, 1000))
    other.query = torch.nn.functional.pad(other.query, (0, 0, 0, 24))
    starts = torch.tensor([0, 100], device="cuda")
    run(c, 128, 300, starts, tile=None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(c, 128, 300, starts, tile=None)
    for name in ("query", "key", "value"):
        getattr(c, name).copy_(getattr(other, name))
    starts.copy_(torch.tensor([517, 3]))
    graph.replay()
    assert torch.equal(result, run(c, 128, 300, starts, tile=None))


@on_gpu
@pytest.mark.parametrize("padded", [False, True])
def test_the_host_never_waits_for_the_device(padded):
    c = case(2048, 2048, B=2, D=128, dtype=torch.bfloat16, device="cuda")
    starts = torch.tensor([0, 100], device="cuda") if padded else None
    backends = ["triton_one_launch"] + ["triton_two_launches"] * (not padded)
    for mode in ("default", "error"):  # the first time compiles, and uploads the head set
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for backend in backends:
                cases.run(hybrid_attention, c, 128, 300, starts, backend=backend)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_one_compilation_serves_every_length_and_head_set():
    kernels = (hybrid_prefill.hybrid_prefill_kernel, hybrid_prefill.hybrid_prefill_warp_specialized_kernel)
    count = lambda: sum(len(caches[0]) for kernel in kernels for caches in kernel.device_caches.values())  # noqa: E731
    settings = {"Hkv": 1, "G": 5, "D": 64, "dtype": torch.float16, "device": "cuda"}  # a group that no other test has
    before = count()
    for T, S, B, dense in [(1023, 1023, 1, (0,)), (1, 2049, 2, ()), (2048, 3001, 1, (0, 1, 3)), (4999, 4999, 1, (4,))]:
        c = case(T, S, B=B, dense=dense, **settings)
        run(c, 128, 300 + T, tile=None)
        run(c, 256, 1, tile=None, streaming_only=True)
    assert count() == before + 1


@on_gpu
@pytest.mark.parametrize("tile", [None, Tile(64, 32, 4, 2)], ids=["table", "pointers"])
def test_offsets_beyond_32_bits(tile):
    T, generator = 600_000, torch.Generator("cuda").manual_seed(0)
    fused = torch.randn(1, T, 48, 128, generator=generator, dtype=torch.bfloat16, device="cuda")
    query, key, value = (x.transpose(1, 2) for x in fused.split((32, 8, 8), dim=2))
    assert T * fused.stride(1) > 2**31 and T * 32 * 128 > 2**31
    heads = torch.zeros(32, dtype=torch.bool)
    heads[5] = True
    c = SimpleNamespace(query=query, key=key, value=value, heads=heads, scaling=128**-0.5)
    result = run(c, 128, 2048, tile=tile)
    for h in (5, 31):  # the dense head and the last one, each alone with its keys
        kv = slice(h // 4, h // 4 + 1)
        one = {"query": query[:, h : h + 1], "key": key[:, kv], "value": value[:, kv], "heads": heads[h : h + 1]}
        alone = SimpleNamespace(**vars(c) | one)
        assert_rows_as_good_as_torch(result[:, :, h : h + 1], alone, edges_and(8, T, 128, 2048), 128, 2048)


@on_gpu
def test_heads_beyond_32_bits():
    # [B, H, S, D]: the step from head to head itself is large
    T = 600_000
    query = torch.randn(1, 32, T, 128, dtype=torch.bfloat16, device="cuda")
    key, value = (torch.randn(1, 8, T, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    assert 31 * query.stride(1) > 2**31
    c = SimpleNamespace(query=query, key=key, value=value, heads=torch.zeros(32, dtype=torch.bool), scaling=0.1)
    output = torch.empty_like(query).transpose(1, 2)  # and in the output
    result = run(c, 128, 2048, tile=Tile(128, 64, 8, 2) if HOPPER else None, output=output)
    last = SimpleNamespace(query=query[:, 31:], key=key[:, 7:], value=value[:, 7:], heads=c.heads[:1], scaling=0.1)
    assert_rows_as_good_as_torch(result[:, :, 31:], last, edges_and(8, T, 128, 2048), 128, 2048)


@on_gpu
def test_a_tile_too_large_for_this_chip_is_replaced(monkeypatch, caplog):
    c = case(500, 500, B=1, D=128, dtype=torch.bfloat16, device="cuda")
    huge, fitting = Tile(128, 128, 8, 5), tiles.table(tiles.architecture_of("cuda"), torch.bfloat16, 128)[-1]
    monkeypatch.setattr(tiles, "table", lambda *args: (huge, fitting))
    monkeypatch.setattr(tiles, "shared_memory_of", lambda device: 1 << 30)
    monkeypatch.setattr(tiles, "_rejected", set())
    tiles.candidates.cache_clear()
    try:
        assert torch.equal(run(c, 128, 300, tile=None), run(c, 128, 300, tile=fitting))
    finally:
        tiles.candidates.cache_clear()
    assert "does not run on" in caplog.text
