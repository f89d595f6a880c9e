"""The tables of tiles: what is offered to which device."""

from types import SimpleNamespace

import pytest
import torch

from corehead_hf.kernels import tiles, tuning
from corehead_hf.kernels.tiles import SHARED_MEMORY, Tile, architecture_of, candidates

CHIPS = sorted(SHARED_MEMORY)
WIDTHS = (16, 64, 80, 128, 256)
HALF, FLOAT = torch.bfloat16, torch.float32
BOTH = pytest.mark.parametrize("dtype", [HALF, FLOAT])


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """No measurement of this machine, no tile refused, before and after."""
    monkeypatch.setattr(tuning, "file", lambda: tmp_path / "measured.json")
    monkeypatch.setattr(tiles, "_rejected", set())
    tuning.forget()
    yield
    monkeypatch.undo()
    tuning.forget()


@pytest.fixture
def chip(monkeypatch):
    """chip("sm_90", 1000): from now on any device is such a chip, with so many bytes of shared memory."""

    def become(architecture, shared=None):
        monkeypatch.setattr(tiles, "architecture_of", lambda device: architecture)
        monkeypatch.setattr(tiles, "shared_memory_of", lambda device: shared or SHARED_MEMORY[architecture])
        candidates.cache_clear()

    return become


def offered(dtype, head_dim, descriptors=True):
    return candidates(torch.device("cpu"), dtype, head_dim, descriptors)


@BOTH
@pytest.mark.parametrize("head_dim", WIDTHS)
@pytest.mark.parametrize("architecture", CHIPS)
def test_every_row_is_offered_on_its_chip_and_one_without_descriptors(architecture, head_dim, dtype, chip):
    chip(architecture)
    rows = tiles.table(architecture, dtype, head_dim)
    assert offered(dtype, head_dim) == rows
    plain = offered(dtype, head_dim, descriptors=False)
    assert plain == tuple(tile for tile in rows if not tile.descriptors)
    assert plain


@pytest.mark.parametrize("architecture", CHIPS)
def test_what_the_table_may_hold(architecture):
    """The traps: descriptors off Hopper and Blackwell, warps specialised by more than 4 or without descriptors."""
    for dtype in (HALF, FLOAT):
        for head_dim in WIDTHS:
            rows = tiles.table(architecture, dtype, head_dim)
            assert not any(tile.warp_specialize for tile in rows)  # a measurement must choose it
            for tile in tiles.trials(architecture, dtype, head_dim):
                assert not tile.descriptors or (architecture in ("sm_90", "sm_100") and dtype == HALF)
                if tile.warp_specialize:
                    assert (architecture, tile.num_warps, tile.descriptors) == ("sm_90", 4, True)
                assert {n & (n - 1) for n in (tile.block_m, tile.block_n, tile.num_warps)} == {0}
                assert min(tile.block_m, tile.block_n) >= 16


@BOTH
@pytest.mark.parametrize("head_dim", WIDTHS)
@pytest.mark.parametrize("shared", [166_912, 101_376, 65_536])  # A100; RTX; T4
def test_less_shared_memory_takes_a_smaller_tile_and_never_none(shared, head_dim, dtype, chip):
    chip("sm_89", shared)
    size = dtype.itemsize
    for tile in offered(dtype, head_dim):
        assert tile.shared_memory("sm_89", size, head_dim) <= shared
    assert offered(dtype, head_dim)


def test_the_first_choice_gives_way_to_the_next(chip):
    first, second, *_ = tiles.table("sm_90", HALF, 128)
    need = first.shared_memory("sm_90", 2, 128)
    chip("sm_90", need)
    assert offered(HALF, 128)[0] == first
    chip("sm_90", need - 1)
    assert offered(HALF, 128)[0] == second


def test_shared_memory_by_hand():
    # queries 128x128, one block of keys and one of values 32x128 in flight twice, probabilities 128x32, in 2 bytes
    assert Tile(128, 32, 8, 3).shared_memory("sm_80", 2, 128) == 2 * (128 * 128 + 4 * 32 * 128 + 128 * 32) + 1024
    # head_dim 80 takes the room of 128
    assert Tile(64, 64, 4, 2).shared_memory("sm_90", 2, 80) == Tile(64, 64, 4, 2).shared_memory("sm_90", 2, 128)


def test_what_was_tuned_comes_first(chip):
    chip("sm_90")
    fastest = Tile(64, 128, 4, 2, descriptors=True)
    tuning.save("cpu", {"tiles": {"bfloat16 128": vars(fastest)}})
    assert offered(HALF, 128) == (fastest, *tiles.table("sm_90", HALF, 128))
    assert offered(HALF, 64) == tiles.table("sm_90", HALF, 64)
    assert fastest not in offered(HALF, 128, descriptors=False)


def test_a_tile_that_was_refused_is_never_offered_again(chip, caplog):
    chip("sm_90")
    first, *others = offered(HALF, 128)
    tiles.reject(torch.device("cpu"), HALF, 128, first, RuntimeError("out of resource: shared memory"))
    assert offered(HALF, 128) == tuple(others)
    assert offered(torch.float16, 128)[0] == first
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(first) in record.getMessage()
    assert "out of resource" in record.getMessage()


@pytest.mark.parametrize(
    "capability, row",
    [
        ((7, 5), "sm_89"),
        ((8, 0), "sm_80"),
        ((8, 6), "sm_89"),
        ((8, 7), "sm_80"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((10, 3), "sm_100"),
        ((12, 0), "sm_89"),
    ],
)
def test_the_row_of_a_chip(capability, row, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert architecture_of("cuda") == row


def test_the_row_of_amd_and_of_no_gpu(monkeypatch):
    assert architecture_of("cpu") == "interpreted"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert architecture_of("cuda:1") == "gfx942"


@pytest.mark.parametrize("reported, expected", [({"shared_memory_per_block_optin": 70_000}, 70_000), ({}, 232_448)])
def test_shared_memory_is_asked_for_where_torch_knows(reported, expected, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**reported))
    assert tiles.shared_memory_of("cuda") == expected
