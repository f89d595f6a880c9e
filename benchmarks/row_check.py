"""Sampled rows of an attention result against float64: what is wrong is not timed."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers import Problem, dense
from corehead_hf import reference

SAMPLED_ROWS = 16


class RowCheck:
    """The float64 truth of some rows of one problem.

    A result passes with at most twice the relative error that torch makes in the same dtype: the larger of SDPA's on
    the same rows and mask, and of the dense kernel's on the same inputs. One key too many or too few is far outside:
    1 / sqrt(window), about 2 % at 2048.
    """

    def __init__(self, problem: Problem) -> None:
        n, generator = problem.n, torch.Generator().manual_seed(0)
        edges = [0, problem.window - 1, problem.window, problem.window + problem.sink, n - 1]
        drawn = torch.randperm(n, generator=generator)[: SAMPLED_ROWS - len(edges)].tolist()
        self.rows = sorted({row for row in edges + drawn if row < n})
        self.truth = torch.stack([self._row(problem, row, problem.heads)[0] for row in self.rows])
        same_mask = torch.stack([self._row(problem, row, problem.heads)[1] for row in self.rows])
        all_dense = torch.ones_like(problem.heads)
        dense_truth = torch.stack([self._row(problem, row, all_dense)[0] for row in self.rows])
        found = dense(problem)[0, self.rows]
        self.limit = 2 * max(_error(same_mask, self.truth), _error(found, dense_truth))

    def refuse(self, result: torch.Tensor) -> str | None:
        """What is wrong with [1, T, Hq, D], or None."""
        error = _error(result[0, self.rows], self.truth)
        if error <= self.limit:
            return None
        return f"wrong: error {error:.2e} on sampled rows, at most {self.limit:.2e} allowed; not timed, run the tests"

    @staticmethod
    def _row(problem: Problem, p: int, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row p [Hq, D], in float64 and by SDPA in the same dtype."""
        # row p of a prefill is the one query of a prefill that ends there
        q, k, v = problem.query[:, :, p : p + 1], problem.key[:, :, : p + 1], problem.value[:, :, : p + 1]
        sizes = {"sink_size": problem.sink, "window_size": problem.window}
        truth = reference.hybrid_attention(q, k, v, heads, **sizes, scaling=problem.scaling)
        mask = reference.hybrid_mask(heads, 1, p + 1, problem.sink, problem.window).to(q.device)
        k, v = (x.repeat_interleave(problem.group, dim=1) for x in (k, v))
        same_dtype = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=problem.scaling).transpose(1, 2)
        return truth[0, 0], same_dtype[0, 0].double()


def _error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative, in the Euclidean norm; NaN counts as infinite."""
    error = ((found.double() - truth).norm() / truth.norm()).item()
    return error if error == error else float("inf")
