"""What every way of generating must show, held against oracles that know nothing of corehead_hf."""

import torch
from tiny_models import IMAGE, H, L, build, explicit_masks, zero_o_proj

from corehead_hf import AutoCoReModel

DENSE = [(0, 1), (1, 0), (1, 3), (2, 2)]
MASK = torch.zeros(L, H, dtype=torch.bool)
MASK[tuple(torch.tensor(DENSE).T)] = True
NEW = 4  # tokens to generate
SIZES = {"sink_size": 2, "window_size": 4, "dense_below": 0}


def streamed(layer, mask, chunked=False):
    """visible() of explicit_masks: sink + window for the heads not in DENSE, in prefill; `chunked`: in every T > 1."""
    num_queries, num_keys = mask.shape[-2:]
    if num_queries == 1 or (num_queries < num_keys and not chunked):
        return mask
    first = mask[:, 0, -1].int().argmax(dim=-1)[:, None, None, None]  # the last row sees all but the padding
    query, key = torch.arange(num_keys - num_queries, num_keys)[:, None], torch.arange(num_keys)[None]
    near = (key - first < SIZES["sink_size"]) | (query - key < SIZES["window_size"])
    return torch.where(MASK[layer][None, :, None, None], mask, mask & near)


def streamed_in_chunks(layer, mask):
    return streamed(layer, mask, chunked=True)


def new_tokens(model, inputs, **options):
    """What generate() adds to the prompt, the same draws each time."""
    torch.manual_seed(0)
    if "cache_config" in options:  # whose keys transformers <= 5.0 takes out of the caller's
        options["cache_config"] = dict(options["cache_config"])
    found = model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **options})
    return found[:, inputs["input_ids"].shape[1] :]


def check_generating(family, inputs, options, oracle_options=None, copies=1):
    """Bit-equal to native without modes; hybrid prefill, ablation and recording as the oracles say.

    Args:
        options: of generate().
        oracle_options: the oracles' options, where another way of generating must give the same tokens.
        copies: rows that generate() makes of each sequence.
    """
    plain = check_modes(family, inputs, options, options if oracle_options is None else oracle_options)
    model = AutoCoReModel.from_model(build(family))
    question, evidence = (mask.repeat_interleave(copies, dim=0) for mask in asked(inputs))
    with model.record_attention(*asked(inputs)) as prefill:
        model.prefill(**inputs)
    with model.record_attention(question, evidence) as recording:
        assert same(new_tokens(model, inputs, **options), plain)
    torch.testing.assert_close(recording.ram, prefill.ram.repeat_interleave(copies, dim=0), atol=1e-5, rtol=0)


def check_modes(family, inputs, options, oracle_options):
    """As check_generating, without a recording; returns the native tokens."""
    native = build(family)
    plain = new_tokens(native, inputs, **options)
    with explicit_masks(build(family), streamed) as oracle:
        hybrid = new_tokens(oracle, inputs, **oracle_options)
    ablated = new_tokens(zero_o_proj(native, DENSE), inputs, **oracle_options)
    assert not same(plain, hybrid) and not same(plain, ablated), "the modes would not show in these tokens"
    model = AutoCoReModel.from_model(native)
    assert same(new_tokens(model, inputs, **options), plain)
    model.enable_hybrid(heads=DENSE, **SIZES)
    assert same(new_tokens(model, inputs, **options), hybrid)
    model.disable_hybrid()
    with model.ablate_heads(DENSE):
        assert same(new_tokens(model, inputs, **options), ablated)
    return plain


def asked(inputs):
    """Question and evidence masks: the last four real tokens; the first visual tokens, or words where none is."""
    real, visual = inputs["attention_mask"].bool(), inputs["input_ids"] == IMAGE
    place = real.cumsum(dim=1)
    words = real & (place >= 3) & (place <= 5)
    first_visual = visual & (visual.cumsum(dim=1) <= 3)
    return real & (place > place[:, -1:] - 4), torch.where(visual.any(dim=1, keepdim=True), first_visual, words)


def same(tokens, others):
    return tokens.shape == others.shape and torch.equal(tokens, others)
