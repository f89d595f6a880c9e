"""The user's dense backend: sdpa, eager, FlexAttention, and transformers' FlashAttention path without its package."""

import sys
import types
import warnings

import proofs
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from tiny_models import attend64, build, causal, generate, inputs_for, logits, text_inputs

from corehead_hf import AutoCoReModel

BACKENDS = [
    pytest.param(name, marks=pytest.mark.compatibility("Backends and dtypes", name))
    for name in ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
]


def attend(q, k, v, scale, is_causal):
    """[B, T, H, D], as the kernels take and give it; the last of T queries sees all S keys."""
    assert is_causal
    query, key, value = (x.transpose(1, 2) for x in (q, k, v))
    return attend64(query, key, value, causal(q.shape[1], k.shape[1]), scale).to(q.dtype)


def attend_parts(q, k, v, ends_q, ends_k, scale, is_causal):
    """[tokens, H, D]: the sequences of a padded batch one after the other, without their padding."""
    out, ends_q, ends_k = torch.empty_like(q), ends_q.tolist(), ends_k.tolist()
    for row in range(len(ends_q) - 1):
        mine, seen = slice(*ends_q[row : row + 2]), slice(*ends_k[row : row + 2])
        out[mine] = attend(q[mine][None], k[seen][None], v[seen][None], scale, is_causal)[0]
    return out


# The signatures tell transformers what a package can do: version 3 has no dropout, and gives a second value.
def fa2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), deterministic=False):
    return attend(q, k, v, softmax_scale, causal)


def fa2_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
               causal=False, window_size=(-1, -1), deterministic=False):  # fmt: skip
    return attend_parts(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal)


def fa3(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), deterministic=False):
    return attend(q, k, v, softmax_scale, causal), None


def fa3_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False,
               window_size=(-1, -1), deterministic=False):  # fmt: skip
    return attend_parts(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal), None


@pytest.fixture
def packages(monkeypatch):
    """Modules `flash_attn` and `flash_attn_interface` whose functions compute in float64 what the kernels compute."""
    two, padding, three = (
        types.ModuleType(name) for name in ("flash_attn", "flash_attn.bert_padding", "flash_attn_interface")
    )
    two.flash_attn_func, two.flash_attn_varlen_func, two.flash_attn_with_kvcache = fa2, fa2_varlen, fa2
    padding.pad_input, padding.unpad_input = flash_utils._pad_input, flash_utils._unpad_input
    three.flash_attn_func, three.flash_attn_varlen_func, three.flash_attn_with_kvcache = fa3, fa3_varlen, fa3
    for module in (two, padding, three):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for version in (2, 3):
        monkeypatch.setattr(flash_utils, f"is_flash_attn_{version}_available", lambda *args, **kwargs: True)
    for name in [name for name in vars(flash_utils) if name.endswith("_fn") or name == "_loaded_implementation"]:
        monkeypatch.setattr(flash_utils, name, None)  # what an earlier import of a package left


@pytest.fixture
def uncompiled_flex():
    """FlexAttention's own code without the compiler, which would need minutes and a C++ one."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        warnings.filterwarnings("ignore", "_compile flag on create_block_mask")  # transformers passes it
        yield


def use(model, backend, cell):
    """Give the text tower a backend; False where transformers refuses it for this model, which the cell then says."""
    if backend == "flex_attention":
        if model.config.model_type == "qwen3_vl":
            with cell.upstream(ValueError, match="does not support an attention implementation through torch's flex"):
                model.set_attn_implementation({"text_config": backend})
            return False
        model.set_attn_implementation({"text_config": backend})
    model.config.get_text_config()._attn_implementation = backend  # transformers would ask for a GPU first
    return True


@pytest.mark.parametrize("left_pad", [None, [0, 5]], ids=["unpadded", "left padding"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_mode_over_it(family, backend, left_pad, cell, packages, uncompiled_flex):
    native = build(family)
    if not use(native, backend, cell):
        return
    inputs = inputs_for(native, 2, left_pad)
    real = inputs["attention_mask"].bool()
    plain, tokens = logits(native, **inputs), generate(native, inputs)
    ablated = proofs.without_heads(native, inputs)
    model = AutoCoReModel.from_model(native)
    assert torch.equal(logits(model, **inputs), plain)
    assert torch.equal(generate(model, inputs), tokens)
    ram, found = proofs.recorded_ram(model, inputs)
    assert torch.equal(found, plain)
    torch.testing.assert_close(ram, proofs.ram_of_maps(build(family, "eager"), inputs), atol=2e-5, rtol=0)
    with model.ablate_heads(proofs.HEADS):
        torch.testing.assert_close(logits(model, **inputs)[real], ablated[real], atol=1e-4, rtol=0)
    model.enable_hybrid(**proofs.HYBRID)
    sequences, found = proofs.answered(model, inputs)
    torch.testing.assert_close(found, proofs.explicit_answer(build(family), inputs, sequences), atol=2e-4, rtol=0)
    assert float((found[:, 0] - plain[:, -1]).abs().max()) > 0.1
    hybrid_ram, _ = proofs.recorded_ram(model, inputs)
    torch.testing.assert_close(hybrid_ram[:, :2], ram[:, :2], atol=2e-5, rtol=0)  # layer 0 is dense, so 1 gets the same


@pytest.mark.compatibility("Backends and dtypes", "flash_attention: packed sequences, recording")
def test_packed_sequences_are_not_recorded(family, cell, packages):
    """Without a mask only positions that begin again tell a flash backend where the second sequence begins."""
    model = AutoCoReModel.from_model(build(family))
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    ids = text_inputs(20)["input_ids"]
    question, evidence = torch.zeros(2, 1, 20, dtype=torch.bool)
    question[0, 18], evidence[0, 2] = True, True

    def ram(positions):
        packed = {"input_ids": ids, "position_ids": positions[None], "use_cache": False}
        with torch.no_grad(), model.record_attention(question, evidence) as recording:
            model.model.language_model(**packed)
        return recording.ram

    assert float(ram(torch.arange(20)).min()) > 0
    with cell.refused(ValueError, match="recording was asked for packed sequences"):
        ram(torch.cat([torch.arange(8), torch.arange(12)]))
