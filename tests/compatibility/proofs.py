"""What a cell of the matrix must show for a wrapped model: recording, ablation and hybrid prefill against oracles.

The oracles are native models: their eager attention maps, their o_proj without the ablated columns, and their text
tower under explicit masks in float64.
"""

import torch
from tiny_models import H, L, attentions, explicit_masks, generate, logits, masks_for

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]  # ablated
DENSE = torch.zeros(L, H, dtype=torch.bool)  # one layer of dense heads only, two mixed ones
DENSE[0], DENSE[1, 0], DENSE[1, 3], DENSE[2, 2] = True, True, True, True
SINK, WINDOW = 2, 4
HYBRID = {"heads": DENSE, "sink_size": SINK, "window_size": WINDOW, "dense_below": 0}


def hybrid_rule(inputs):
    """visible() of explicit_masks: the prompt's rows hybrid, sinks from the first real token, later rows dense."""
    length = inputs["attention_mask"].shape[1]
    first = (inputs["attention_mask"] == 0).sum(dim=1)[:, None, None, None]

    def visible(layer, mask):
        query, key = torch.arange(mask.shape[-2])[:, None], torch.arange(mask.shape[-1])[None]
        near = (key - first < SINK) | (query - key < WINDOW) | (query >= length)
        return torch.where(DENSE[layer][None, :, None, None], mask, mask & near)

    return visible


def with_answer(inputs, sequences):
    """The inputs of one forward over prompt and answer, [B, T + new]."""
    new = sequences.shape[1] - inputs["input_ids"].shape[1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, new), value=1)
    longer = {**inputs, "input_ids": sequences, "attention_mask": mask}
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, new))
    return longer


def answered(model, inputs, **options):
    """Tokens [B, T + 3] and logits [B, 3, V] of a greedy answer."""
    asked = {"return_dict_in_generate": True, "output_logits": True}
    out = generate(model, inputs, 3, **asked, **options)
    return out.sequences, torch.stack(out.logits, dim=1)


def explicit_answer(native, inputs, sequences, rule=None):
    """Logits [B, new, V] of an answer from one forward of a native model under explicit masks."""
    prompt = inputs["input_ids"].shape[1]
    with explicit_masks(native, rule or hybrid_rule(inputs)) as oracle:
        return logits(oracle, **with_answer(inputs, sequences))[:, prompt - 1 : -1]


def without_heads(native, inputs, heads=HEADS):
    """Logits of a native model whose o_proj gets zeros from some heads, whatever its weights are kept in."""

    def cut(layer):
        def hook(module, args):
            zeroed = args[0].clone()
            for head in [h for at, h in heads if at == layer]:
                size = zeroed.shape[-1] // H
                zeroed[..., head * size : (head + 1) * size] = 0
            return (zeroed, *args[1:])

        return hook

    handles = [m.o_proj.register_forward_pre_hook(cut(layer)) for layer, m in enumerate(attentions(native))]
    found = logits(native, **inputs)
    for handle in handles:
        handle.remove()
    return found


def ram_of_maps(eager, inputs):
    """RAM [B, L, H] by hand from the attention maps that a native eager model returns."""
    question, evidence, _ = masks_for(inputs)
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    ram = torch.zeros(len(question), L, H)
    for b in range(len(question)):
        for layer in range(L):
            ram[b, layer] = maps[layer][b].float()[:, question[b]].mean(dim=1)[:, evidence[b]].sum(dim=-1)
    return ram


def recorded_ram(model, inputs):
    """RAM and logits of a forward inside record_attention."""
    question, evidence, _ = masks_for(inputs)
    with model.record_attention(question, evidence) as recording:
        found = logits(model, **inputs)
    assert recording.num_columns.tolist() == inputs["attention_mask"].sum(dim=1).tolist()
    return recording.ram, found
