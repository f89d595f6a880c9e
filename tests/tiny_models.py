"""Tiny random models of every supported variant, their inputs, and oracles that know nothing of corehead_hf.

Weights are large enough that attention is peaked: the default initialisation gives nearly uniform rows, on
which a wrong head, row or column hardly shows.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForImageTextToText, StaticCache
from transformers.masking_utils import AttentionMaskInterface, eager_mask

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
L, H, KV, D, HIDDEN = 3, 4, 2, 16, 64
IMAGE, VIDEO, VISION_START, VISION_END = 100, 101, 102, 103
VARIANTS = (
    "qwen3_vl",
    "qwen3_vl_moe",
    "llava_onevision",
    "internvl_qwen3",
    "internvl_qwen3_moe",
    "internvl_qwen2",
)
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def _text(**extra):
    return {
        "vocab_size": 120,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": L,
        "num_attention_heads": H,
        "num_key_value_heads": KV,
        "head_dim": D,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        # Prompt lookup of transformers <= 5.9 cannot do without one; it never comes first in these models.
        "eos_token_id": 119,
        "tie_word_embeddings": False,
        **extra,
    }


def config_for(variant, **over):
    if variant.startswith("qwen3_vl"):
        text = _text(**(MOE if variant.endswith("moe") else {}), **over)
        rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        if VERSION >= (5, 0):
            text["rope_parameters"] = {**rope, "rope_theta": 10000.0}
        else:
            text["rope_scaling"] = rope
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "in_channels": 3,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO}
        tokens |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
        config = CONFIG_MAPPING[variant]
        return config(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)
    if variant == "llava_onevision":
        text = {"model_type": "qwen2", **_text(**over)}
        text.pop("head_dim")
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
        }
        return CONFIG_MAPPING[variant](
            text_config=text,
            vision_config=vision,
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=[[16, 16], [16, 32]],
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )
    tower = variant.removeprefix("internvl_")
    text = {"model_type": tower, **_text(**(MOE if tower == "qwen3_moe" else {}), **over)}
    if tower == "qwen2":
        text.pop("head_dim")
    if tower == "gpt_oss":
        text |= {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
        rope = {"rope_type": "default"}
        text |= {"rope_parameters": {**rope, "rope_theta": 1e4}} if VERSION >= (5, 0) else {"rope_scaling": rope}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [4, 4],
    }
    return CONFIG_MAPPING["internvl"](
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def randomize(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "q_norm" in name or "k_norm" in name:
                parameter.copy_(2.2 + 0.2 * noise)
            elif parameter.dim() >= 2:
                parameter.copy_(noise * 1.6 / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "norm" in name:
                parameter.copy_(1 + 0.1 * noise)
    return model


@functools.cache
def _built(variant, attn, seed, over):
    torch.manual_seed(seed)
    config = config_for(variant, **dict(over))
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attn).float().eval()
    return randomize(model, seed)


def build(variant, attn="sdpa", seed=0, **over):
    """A fresh native model; the same weights for the same seed, whatever the backend."""
    return copy.deepcopy(_built(variant, attn, seed, tuple(sorted(over.items()))))


def inputs_for(model, batch=1, left_pad=None, text=14, seed=1):
    """Inputs with one picture per sequence; sequence b begins with left_pad[b] tokens of padding."""
    family, generator = model.config.model_type, torch.Generator().manual_seed(seed)
    extra, num_visual = {}, 4
    if family.startswith("qwen3_vl"):
        extra["pixel_values"] = torch.randn(batch * 16, 3 * 2 * 4 * 4, generator=generator)
        extra["image_grid_thw"] = torch.tensor([[1, 4, 4]] * batch)
    elif family == "llava_onevision":
        extra["pixel_values"] = torch.randn(batch, 2, 3, 16, 16, generator=generator)
        extra["image_sizes"] = torch.tensor([[16, 16]] * batch)
        num_visual = 16 + 16 + 4  # base view, one tile, its newlines
    else:
        extra["pixel_values"] = torch.randn(batch, 3, 16, 16, generator=generator)
    picture = [VISION_START] + [IMAGE] * num_visual + [VISION_END]
    words = torch.randint(3, 99, (batch, text), generator=generator).tolist()
    rows = [line[:3] + picture + line[3:] for line in words]
    if left_pad is not None:
        rows = [[0] * pad + row[: len(row) - pad] for pad, row in zip(left_pad, rows, strict=True)]
    ids = torch.tensor(rows)
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), **extra}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    return inputs


def one_of(inputs, row):
    """Sequence `row` of a padded batch by itself, without its padding."""
    real = inputs["attention_mask"][row].bool()
    batch = len(inputs["input_ids"])
    single = {}
    for name, value in inputs.items():
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            single[name] = value[row : row + 1, real]
        else:  # pictures, in equal shares
            share = len(value) // batch
            single[name] = value[row * share : (row + 1) * share]
    return single


def text_inputs(length, batch=1, left_pad=None, seed=2):
    ids = torch.randint(3, 99, (batch, length), generator=torch.Generator().manual_seed(seed))
    for row, pad in enumerate(left_pad or []):
        ids[row, :pad] = 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def masks_for(inputs, num_question=5):
    """Question mask, the last tokens; evidence mask, the first three visual tokens; visual mask."""
    ids = inputs["input_ids"]
    visual = ids == IMAGE
    question = torch.zeros_like(visual)
    question[:, -num_question:] = True
    return question, visual & (visual.cumsum(dim=1) <= 3), visual


def attentions(model):
    """The decoder's attention modules, found by name."""
    return [m for n, m in model.named_modules() if n.endswith(".self_attn") and "language_model" in n]


def logits(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def generate(model, inputs, tokens=5, **options):
    return model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)


def static_cache(model, length, batch=1):
    config = model.config.get_text_config()
    try:
        return StaticCache(config=config, max_cache_len=length)
    except TypeError:
        return StaticCache(config=config, max_cache_len=length, max_batch_size=batch)


def zero_o_proj(model, heads):
    """A copy whose o_proj has no columns for the given heads: what ablating them means."""
    copied = copy.deepcopy(model)
    for layer, head in heads:
        attentions(copied)[layer].o_proj.weight.data[:, head * D : (head + 1) * D] = 0
    return copied


def add_lora(model, seed=0):
    """The model inside a PEFT wrapper whose adapters are not neutral."""
    peft = pytest.importorskip("peft", exc_type=ImportError)
    target = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
    torch.manual_seed(seed)
    with warnings.catch_warnings():  # PEFT itself asks transformers for a deprecated property
        warnings.simplefilter("ignore", FutureWarning)
        config = peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False)
        return peft.get_peft_model(model, config).eval()


def causal(num_queries, num_keys):
    """bool [T, S] of the last T of S positions."""
    query = torch.arange(num_keys - num_queries, num_keys)[:, None]
    return torch.arange(num_keys)[None] <= query


def streaming(num_queries, num_keys, sink_size, window_size):
    """bool [T, S]: causal, and a sink column or inside the window."""
    query, key = torch.arange(num_keys - num_queries, num_keys)[:, None], torch.arange(num_keys)[None]
    return (key <= query) & ((key < sink_size) | (query - key < window_size))


def probabilities64(query, key, visible, scaling):
    """float64 [B, Hq, T, S]; visible bool, broadcasts."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.double() @ key.transpose(2, 3) * scaling
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1).nan_to_num(0.0)


def attend64(query, key, value, visible, scaling):
    """float64 [B, T, Hq, D]."""
    value = value.double().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return (probabilities64(query, key, visible, scaling) @ value).transpose(1, 2)


@dataclass(eq=False)
class Watch:
    """An outermost mode of a wrapped model that keeps every attention call and its answer."""

    order = -1
    calls: list = field(default_factory=list)
    outputs: list = field(default_factory=list)

    def attend(self, call, inner):
        output, weights = inner(call)
        self.calls.append(call)
        self.outputs.append(output)
        return output, weights


@contextmanager
def watch(model):
    mode = Watch()
    model.core_state.add(mode)
    try:
        yield mode
    finally:
        model.core_state.remove(mode)


ORACLE = "explicit_oracle"
_explicit = {}


def _oracle_attention(module, query, key, value, attention_mask, scaling, **kwargs):
    native = attention_mask[..., : key.shape[2]] >= 0  # eager_mask: 0 where attended
    visible = _explicit["visible"](module.layer_idx, native)
    return attend64(query, key, value, visible, scaling).to(query.dtype), None


@contextmanager
def explicit_masks(model, visible):
    """Run a native model's text tower in float64 attention under visible(layer, native bool [B, 1, T, S])."""
    AttentionInterface.register(ORACLE, _oracle_attention)
    AttentionMaskInterface.register(ORACLE, eager_mask)
    config, _explicit["visible"] = model.config.get_text_config(), visible
    before, config._attn_implementation = config._attn_implementation, ORACLE
    try:
        yield model
    finally:
        config._attn_implementation = before


class LargestTensor(TorchDispatchMode):
    """Elements of the largest storage that any operation allocates; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and _storage(tensor) not in given:
                count = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, count)
        return out


def _storage(tensor):
    return tensor.untyped_storage().data_ptr()
