"""Text backbones of the real shapes inside the real transformers classes, with random weights and CoRe installed.

Everything a prefill runs is upstream's code; only the vision tower, which no text prompt enters, is tiny.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from benchmarks.shapes import Shape
from corehead_hf import AutoCoReModel
from corehead_hf.families import family_of

IMAGE_TOKENS = 8  # the last ids of the vocabulary; prompts never draw them
RECENT = int(transformers.__version__.split(".")[0]) >= 5


def configuration(shape: Shape) -> Any:
    """The family's configuration with this text tower and the smallest vision tower it accepts."""
    text: dict[str, Any] = {
        "model_type": shape.text,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    }
    if shape.text != "qwen2":  # which derives it
        text["head_dim"] = shape.head_dim
    rope: dict[str, Any] = {"rope_type": "default"}
    if shape.text == "qwen3_vl_text":
        pairs = shape.head_dim // 2
        rope |= {"mrope_section": [pairs - 2 * (5 * pairs // 16), *[5 * pairs // 16] * 2], "mrope_interleaved": True}
    if RECENT:
        text["rope_parameters"] = {**rope, "rope_theta": shape.rope_theta}
    else:
        text |= {"rope_theta": shape.rope_theta, "rope_scaling": rope if len(rope) > 1 else None}
    return CONFIG_MAPPING[shape.family](text_config=text, tie_word_embeddings=False, **_rest(shape))


def _rest(shape: Shape) -> dict[str, Any]:
    last = shape.vocabulary - 1
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48}
    if shape.family == "qwen3_vl":
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": shape.hidden, "deepstack_visual_indexes": [0]}
        vision |= {"num_position_embeddings": 64}
        tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return {"vision_config": vision} | {name: last - index for index, name in enumerate(tokens)}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    if shape.family == "llava_onevision":
        vision |= {"model_type": "siglip_vision_model", "vision_use_head": False}
        return {"vision_config": vision, "image_token_index": last, "video_token_index": last - 1}
    return {"vision_config": vision, "image_token_id": last}


def build(shape: Shape, device: torch.device, dtype: str) -> Any:
    """The model with CoRe installed: norms one, biases zero, matrices normal with deviation 1 / sqrt(width)."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(configuration(shape), attn_implementation="sdpa")
    model = model.to(getattr(torch, dtype)).to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    text = family_of(model).text_model(model)
    text.rotary_emb = type(text.rotary_emb)(config=text.config).to(device)  # its buffers are in no state dict
    return AutoCoReModel.from_model(model)


def prefill(model: Any, ids: torch.Tensor, cache: Any = None) -> Any:
    """As generate() calls the model: the KV cache written, logits of the last token only."""
    more = {}
    if not RECENT:  # Qwen3-VL of 4.57 takes the positions of a decoded token from it
        past = 0 if cache is None else cache.get_seq_length()
        more["cache_position"] = torch.arange(past, past + ids.shape[1], device=ids.device)
    return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **more)


def token_ids(shape: Shape, n: int, device: torch.device) -> torch.Tensor:
    """int64 [1, n], drawn uniformly from the vocabulary without its image tokens."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(1, shape.vocabulary - IMAGE_TOKENS, (1, n), generator=generator).to(device)


def spread_heads(layers: int, heads: int, count: int, seed: int = 0) -> torch.Tensor:
    """bool [L, Hq] with `count` True, uneven over layers as a measured map is.

    Made up, not measured: every head gets a log-normal score, times a log-normal weight of its layer, times a bell over
    depth with its top at 55 % and a deviation of 20 %; the highest scores are taken. So some middle layers hold several
    dense heads and many layers none, which is what decides how much of a layer's time is dense.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = (torch.arange(layers) + 0.5) / layers
    bell = torch.exp(-0.5 * ((depth - 0.55) / 0.2) ** 2)
    layer_weight = bell * torch.exp(0.7 * torch.randn(layers, generator=generator))
    scores = layer_weight[:, None] * torch.exp(torch.randn(layers, heads, generator=generator))
    chosen = torch.zeros(layers * heads, dtype=torch.bool)
    chosen[torch.sort(scores.flatten(), descending=True, stable=True).indices[:count]] = True
    return chosen.view(layers, heads)


def missing_memory(shape: Shape, n: int, device: torch.device, dtype: str) -> str | None:
    """Why weights and cache of n tokens cannot fit on the device, or None; activations come on top."""
    if device.type != "cuda":
        return None
    size = torch.finfo(getattr(torch, dtype)).bits // 8
    need = size * (shape.parameters + shape.cache_elements(n)) / 2**30
    have = torch.cuda.get_device_properties(device).total_memory / 2**30
    return None if need < have else f"weights and cache need {need:.0f} GiB, the device has {have:.0f}"
