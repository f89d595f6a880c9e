"""How the Triton kernel cuts its work, per architecture: a small table, the origin of its numbers, and a memory guard.

Every row was compiled ahead of time, without a GPU, by Triton 3.6.0 and 3.9.0 (tests/kernels/test_compile.py does it
again): no register spills (float32 on sm_80 with a sink that cuts a key block: 8 B), shared memory under the chip's
limit, on sm_90 warp-group MMA (HGMMA), and TMA where `descriptors` is set. Which of the rows that pass is fastest was
not measured: the order follows the register and occupancy figures, and `corehead autotune` finds out on a given GPU.
What was seen while compiling:

* Descriptors (TMA) only on sm_90 and sm_100. On sm_80 Triton turns them into plain loads without cp.async and spills
  0.5 KB and more; sm_120 has TMA but no warp-group MMA, and spills too.
* Ampere and Ada: 128x64 with 8 warps spills 40 B at head_dim 128, 128x32 and 64x64 do not.
* Warp specialisation compiles on sm_90 with exactly 4 warps. It is offered to the autotuner only, which compares its
  result with the reference before it times it.
* float32 multiplies in full precision, without tensor cores on NVIDIA: larger tiles spill by the kilobyte.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch

from corehead_hf.kernels import tuning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tile:
    """One way to run the kernel.

    Args:
        block_m: query rows of a program; a power of two from 16.
        block_n: keys of a step; a power of two from 16.
        num_warps: warps of a program.
        num_stages: key blocks in flight.
        descriptors: load through tensor descriptors (TMA) instead of pointers.
        warp_specialize: own warps for loading; needs descriptors, 4 warps and sm_90.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    descriptors: bool = False
    warp_specialize: bool = False

    def shared_memory(self, architecture: str, itemsize: int, head_dim: int) -> int:
        """An upper bound on the bytes of shared memory a program takes, on tiles of the kind in the table."""
        width = 1 << (head_dim - 1).bit_length()
        queries, keys = (rows * width * itemsize for rows in (self.block_m, self.block_n))
        if architecture.startswith("gfx"):  # no asynchronous copies: queries and keys pass through the same memory
            return max(queries, 2 * keys * self.num_stages)
        buffers = self.num_stages if architecture in _WARP_GROUP_MMA else max(1, self.num_stages - 1)
        return queries + 2 * buffers * keys + self.block_m * self.block_n * itemsize + 1024


_WARP_GROUP_MMA = ("sm_90", "sm_100")  # they read keys and values straight from shared memory
# Bytes a program can have; the device is asked where torch knows how.
SHARED_MEMORY = {"sm_80": 166912, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
# head_dim, rounded up to a power of two, up to ...
_WIDTHS = (64, 128, 256)

_FLOAT32 = {64: (Tile(64, 32, 8, 1), Tile(32, 32, 4, 1)), 128: (Tile(32, 16, 4, 1),), 256: (Tile(16, 16, 4, 1),)}
# First choice first. The last of each list is small enough for any chip of the kind.
_HALF: dict[str, dict[int, tuple[Tile, ...]]] = {
    "sm_80": {
        64: (Tile(128, 64, 8, 3), Tile(64, 32, 4, 2)),
        128: (Tile(128, 32, 8, 3), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
        256: (Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 4, 2)),
    },
    "sm_89": {
        64: (Tile(128, 64, 8, 3), Tile(64, 32, 4, 2)),
        128: (Tile(128, 32, 8, 3), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
        256: (Tile(64, 32, 8, 2), Tile(32, 32, 4, 2)),
    },
    "sm_90": {
        64: (Tile(128, 128, 8, 2, descriptors=True), Tile(128, 64, 8, 3), Tile(64, 32, 4, 2)),
        128: (
            Tile(128, 128, 8, 2, descriptors=True),
            Tile(64, 64, 4, 2, descriptors=True),
            Tile(128, 64, 8, 2),
            Tile(64, 32, 4, 2),
        ),
        256: (Tile(128, 64, 8, 2, descriptors=True), Tile(64, 32, 8, 2)),
    },
    "sm_100": {
        64: (Tile(128, 128, 8, 2, descriptors=True), Tile(128, 64, 8, 3), Tile(64, 32, 4, 2)),
        128: (Tile(128, 64, 8, 3, descriptors=True), Tile(128, 64, 8, 2), Tile(64, 32, 8, 2)),
        256: (Tile(128, 32, 8, 2, descriptors=True), Tile(64, 64, 8, 2)),
    },
    "gfx942": {
        64: (Tile(128, 64, 8, 1), Tile(64, 32, 4, 1)),
        128: (Tile(128, 64, 8, 1), Tile(64, 32, 4, 1)),
        256: (Tile(64, 32, 8, 1),),
    },
    "interpreted": dict.fromkeys(_WIDTHS, (Tile(64, 64, 4, 1),)),
}
# What only a measurement on the chip may put in front; head_dim 128 and half precision.
_TRIALS = {
    "sm_80": (Tile(128, 64, 8, 2), Tile(64, 64, 4, 3)),
    "sm_89": (Tile(128, 64, 8, 2), Tile(64, 64, 4, 3)),
    "sm_90": (
        Tile(128, 128, 4, 2, descriptors=True, warp_specialize=True),
        Tile(128, 64, 4, 3, descriptors=True, warp_specialize=True),
        Tile(128, 64, 8, 3, descriptors=True),
        Tile(64, 64, 4, 3, descriptors=True),
        Tile(64, 128, 4, 2, descriptors=True),
    ),
    "sm_100": (Tile(128, 128, 8, 2, descriptors=True), Tile(64, 64, 4, 2, descriptors=True)),
    "gfx942": (Tile(128, 64, 4, 1), Tile(64, 64, 4, 1)),
    "interpreted": (Tile(32, 32, 4, 1),),
}
_rejected: set[tuple] = set()


def architecture_of(device: torch.device | str) -> str:
    """The row of the table a device takes: its own, or that of the nearest chip with the same instructions."""
    device = torch.device(device)
    if device.type != "cuda":
        return "interpreted"
    if torch.version.hip is not None:
        return "gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    if major in (9, 10):
        return f"sm_{major}0"
    # 8.6, 8.9 and 12.x: 99 KB, and no warp-group MMA on 12.x
    return "sm_80" if (major, minor) in ((8, 0), (8, 7)) else "sm_89"


def shared_memory_of(device: torch.device | str) -> int:
    """Bytes of shared memory one program can have on a device."""
    device = torch.device(device)
    if device.type != "cuda":
        return 1 << 30
    properties = torch.cuda.get_device_properties(device)
    limit = getattr(properties, "shared_memory_per_block_optin", 0)
    return limit or SHARED_MEMORY[architecture_of(device)]


def table(architecture: str, dtype: torch.dtype, head_dim: int) -> tuple[Tile, ...]:
    """The table's tiles, first choice first."""
    width = next(w for w in _WIDTHS if head_dim <= w)
    if dtype == torch.float32 and architecture != "interpreted":
        return _FLOAT32[width]
    return _HALF[architecture][width]


def trials(architecture: str, dtype: torch.dtype, head_dim: int) -> tuple[Tile, ...]:
    """What the autotuner times: the table's tiles and those that only a measurement may choose."""
    rows = table(architecture, dtype, head_dim)
    return rows + (_TRIALS[architecture] if dtype != torch.float32 and 64 < head_dim <= 128 else ())


@functools.lru_cache(maxsize=256)
def candidates(device: torch.device, dtype: torch.dtype, head_dim: int, descriptors: bool) -> tuple[Tile, ...]:
    """The tiles to try on a device, first choice first: what was tuned there, then the table's that fit.

    Args:
        device: where the tensors are.
        dtype: of the tensors.
        head_dim: D, 16 to 256.
        descriptors: whether the tensors can be read through descriptors.
    """
    architecture, limit = architecture_of(device), shared_memory_of(device)
    tuned = tuning.stored(device, "tiles", tile_key(dtype, head_dim), Tile)
    choice = () if tuned is None else (tuned,)
    itemsize = torch.empty((), dtype=dtype).element_size()
    return tuple(
        tile
        for tile in choice + table(architecture, dtype, head_dim)
        if (descriptors or not tile.descriptors)
        and tile.shared_memory(architecture, itemsize, head_dim) <= limit
        and (str(device), dtype, head_dim, tile) not in _rejected
    )


def tile_key(dtype: torch.dtype, head_dim: int) -> str:
    """How a tuned tile is filed, e.g. "bfloat16 128"."""
    return f"{tuning.dtype_name(dtype)} {head_dim}"


def reject(device: torch.device, dtype: torch.dtype, head_dim: int, tile: Tile, error: Exception) -> None:
    """Never offer a tile again that the device refused."""
    logger.warning("%s does not run on %s (%s); the next smaller one is taken.", tile, device, error)
    _rejected.add((str(device), dtype, head_dim, tile))
    candidates.cache_clear()
