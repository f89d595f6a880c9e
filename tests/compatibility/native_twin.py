"""A wrapped model against its native twin, a model of the same weights that knows nothing of corehead_hf."""

import copy
from contextlib import contextmanager

import torch
from tiny_models import H, L, explicit_masks, logits, masks_for

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]
SINK, WINDOW = 1, 3
HYBRID = {"heads": HEADS, "sink_size": SINK, "window_size": WINDOW, "dense_below": 0}


def hybrid_masks(heads=HEADS, sink_size=SINK, window_size=WINDOW, num_heads=H):
    """visible(layer, mask) for explicit_masks: what hybrid prefill of a left-padded batch shows, head by head."""

    def visible(layer, mask):
        T, S = mask.shape[-2:]
        if T == 1:
            return mask
        first = mask[:, :, -1:].int().argmax(dim=3, keepdim=True)
        query, key = torch.arange(S - T, S)[:, None], torch.arange(S)[None]
        streaming = mask & ((key - first < sink_size) | (query - key < window_size))
        dense = torch.tensor([(layer, head) in heads for head in range(num_heads)])
        return torch.where(dense[None, :, None, None], mask, streaming)

    return visible


@contextmanager
def without_heads(native, heads=HEADS):
    """The native model with the heads' columns taken out of what o_proj, and any adapter of it, gets."""

    def drop(head):
        def hook(module, args):
            hidden = args[0].clone()
            hidden[..., head * head_dim : (head + 1) * head_dim] = 0
            return (hidden,)

        return hook

    # By what they have, not by name: PEFT's modules_to_save puts a copy beside an attention module.
    modules = [module for module in native.modules() if "layer_idx" in module.__dict__ and hasattr(module, "o_proj")]
    head_dim, hooks = modules[0].head_dim, []
    for module in modules:
        for head in (head for layer, head in heads if layer == module.layer_idx):
            hooks.append(module.o_proj.register_forward_pre_hook(drop(head)))
    try:
        yield native
    finally:
        for hook in hooks:
            hook.remove()


def eager_ram(native, inputs, question, evidence):
    """float32 [B, L, Hq] from the attention weights that eager attention returns."""
    native = copy.deepcopy(native)
    native.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.stack(native(**inputs, output_attentions=True).attentions, dim=1)  # [B, L, Hq, T, T]
    row = (weights * question[:, None, None, :, None]).sum(dim=3) / question.sum(dim=1)[:, None, None, None]
    return (row * evidence[:, None, None]).sum(dim=-1)


def check_modes(model, native, inputs):
    """Off, the wrapped model is its twin to the bit; ablated, hybrid and recorded it is what the oracles say."""
    real = inputs["attention_mask"].bool()
    plain = logits(native, **inputs)
    assert torch.equal(logits(model, **inputs), plain)
    with without_heads(native):
        ablated = logits(native, **inputs)
    with explicit_masks(native, hybrid_masks()):
        hybrid = logits(native, **inputs)
    for found in (ablated, hybrid):
        assert float((found - plain)[real].abs().max()) > 0.1, "the oracle changes nothing: this would show nothing"
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs)[real], ablated[real], atol=1e-4, rtol=0)
    model.enable_hybrid(**HYBRID)
    torch.testing.assert_close(logits(model, **inputs)[real], hybrid[real], atol=2e-4, rtol=0)
    model.disable_hybrid()
    question, evidence, _ = masks_for(inputs)
    with model.record_attention(question, evidence) as recording:
        model.prefill(**inputs)
    assert recording.ram.shape == (len(real), L, H)
    expected = eager_ram(native, inputs, question, evidence)
    torch.testing.assert_close(recording.ram, expected, atol=2e-5, rtol=0)
    assert torch.equal(logits(model, **inputs), plain)
