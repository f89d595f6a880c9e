"""Half precision: wrapped is bit-equal to native, and hybrid prefill errs no more than dense attention does."""

import copy

import proofs
import pytest
import torch
from tiny_models import build, generate, inputs_for, logits

from corehead_hf import AutoCoReModel

DTYPES = [
    pytest.param(getattr(torch, name), marks=pytest.mark.compatibility("Backends and dtypes", name))
    for name in ("float32", "bfloat16", "float16")
]


def error(found, truth):
    """Relative, in the Euclidean norm."""
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mode_in_it(family, dtype):
    native = build(family).to(dtype)
    truth = copy.deepcopy(native).double()  # the same weights, everything in float64
    inputs = inputs_for(native, 2, [0, 5])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    inputs64 = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    plain, tokens, ablated = logits(native, **inputs), generate(native, inputs), proofs.without_heads(native, inputs)
    model = AutoCoReModel.from_model(native)
    assert model.dtype == plain.dtype == dtype
    assert torch.equal(logits(model, **inputs), plain)
    assert torch.equal(generate(model, inputs), tokens)
    with model.ablate_heads(proofs.HEADS):
        assert torch.equal(logits(model, **inputs), ablated)

    ram, found = proofs.recorded_ram(model, inputs)
    assert torch.equal(found, plain) and ram.dtype == torch.float32
    eager = build(family, "eager").to(dtype)
    rounded = proofs.ram_of_maps(eager, inputs)
    # float32 is exact enough here, and eager attention in float64 is NaN where all of a row is padding.
    exact = proofs.ram_of_maps(eager.float(), {**inputs, "pixel_values": inputs["pixel_values"].float()})
    assert error(ram, exact) < max(2 * error(rounded, exact), 1e-5)

    sequences, dense = proofs.answered(model, inputs)
    dense_error = error(dense, proofs.explicit_answer(truth, inputs64, sequences, lambda layer, mask: mask))
    model.enable_hybrid(**proofs.HYBRID)
    sequences, found = proofs.answered(model, inputs)
    expected = proofs.explicit_answer(truth, inputs64, sequences)
    assert error(found, expected) < 2 * dense_error
    assert error(plain[:, -1], expected[:, 0]) > 10 * dense_error, "hybrid and dense must differ for this to mean much"
