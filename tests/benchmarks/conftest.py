"""What the benchmark tests share: one thread, and no interpreted Triton in fused operations."""

import pytest
import torch

from corehead_hf.kernels import fused_ops


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of calls of microseconds: with more threads they would mostly wait for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fused_operations_in_torch(monkeypatch):
    """Triton's interpreter would take minutes, and these operations have tests of their own."""
    monkeypatch.setattr(fused_ops, "triton_runs", lambda device: False)
