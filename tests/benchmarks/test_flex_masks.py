"""The block lists written down directly are those that create_block_mask finds by evaluating the mask everywhere."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks import peers
from benchmarks.flex_masks import BLOCK, hybrid_block_mask
from corehead_hf import reference

HEADS = torch.tensor([True, False, False, True])
SIZES = [(512, 0, 1), (640, 64, 130), (1000, 128, 256), (1000, 200, 128), (897, 129, 1), (256, 500, 10), (640, 1, 900)]


def block_sets(counts, indices):
    """Set of blocks per head and row."""
    return [
        [set(row[: int(count)].tolist()) for row, count in zip(*rows, strict=True)]
        for rows in zip(indices[0], counts[0], strict=True)
    ]


@pytest.mark.parametrize("n, sink, window", SIZES)
def test_same_blocks_as_by_evaluation(n, sink, window):
    ours = hybrid_block_mask(HEADS, n, sink, window, torch.device("cpu"))
    theirs = create_block_mask(ours.mask_mod, 1, len(HEADS), n, n, device="cpu", BLOCK_SIZE=BLOCK)
    for kind in ("", "full_"):
        names = f"{kind}kv_num_blocks", f"{kind}kv_indices"
        assert block_sets(*(getattr(ours, x) for x in names)) == block_sets(*(getattr(theirs, x) for x in names))
    assert ours.seq_lengths == theirs.seq_lengths


@pytest.mark.parametrize("n, sink, window", SIZES[:3])
def test_the_mask_is_the_reference(n, sink, window):
    mask_mod = hybrid_block_mask(HEADS, n, sink, window, torch.device("cpu")).mask_mod
    h, i, j = torch.arange(len(HEADS))[:, None, None], torch.arange(n)[:, None], torch.arange(n)[None]
    rows = torch.arange(0, n, 37)
    expected = reference.hybrid_mask(HEADS, n, n, sink, window)[0][:, rows]
    assert mask_mod(None, h, i[rows], j).equal(expected)


def test_missing_peers_say_so():
    query = torch.randn(1, 4, 64, 16)
    problem = peers.Problem(query, query[:, :2], query[:, :2], HEADS, 4, 16)
    for name in ("block_sparse", "minference_a_shape"):
        with pytest.raises(ImportError):
            peers.PEERS[name][0](problem)
    for version in ("FA3", "FA4"):
        with pytest.raises(ImportError):
            peers.flash_attention_provider(version)
