"""Whether a module computes what its fused form computes: by what its code names, and on random numbers.

Each check gives None, or the reason why the module stays native.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import torch
import transformers
from torch import nn

from corehead_hf.fusion.modules import ROPE
from corehead_hf.kernels import fused_ops

_TRANSFORMERS = transformers.__path__[0]

# All that a native forward may name. A new name is a new step, which the fused form would leave out.
_ATTENTION = {
    "ALL_ATTENTION_FUNCTIONS", "_attn_implementation", "attention_dropout", "config", "contiguous",
    "eager_attention_forward", "get_interface", "head_dim", "k_norm", "k_proj", "layer_idx", "o_proj", "q_norm",
    "q_proj", "reshape", "scaling", "shape", "sliding_window", "training", "transpose", "update", "v_proj", "view",
    ROPE,
}  # fmt: skip
_MLP = {"act_fn", "down_proj", "gate_proj", "up_proj"}
_LAYER = {"input_layernorm", "isinstance", "mlp", "post_attention_layernorm", "self_attn", "tuple"}


def place_of(norm: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype to compare on; offloaded weights are on no device."""
    weight = norm.weight
    assert isinstance(weight, torch.Tensor)
    return torch.device("cpu") if weight.is_meta else weight.device, weight.dtype


@torch.no_grad()
def norm_differs(norm: Any) -> str | None:
    """Of an RMSNorm module; its own weight is replaced by random numbers, its hooks do not run."""
    name = type(norm).__name__
    if list(norm._parameters) != ["weight"] or norm._modules or not hasattr(norm, "variance_epsilon"):
        return f"{name} is not an RMSNorm with one weight"
    if _is_replaced(norm):
        return f"the forward of {name} was replaced on the instance"
    device, dtype = place_of(norm)
    x, weight = _random([(3, *norm.weight.shape), tuple(norm.weight.shape)], device, dtype)
    probe = norm.__class__.__new__(norm.__class__)
    probe.__dict__.update(norm.__dict__, _parameters={"weight": nn.Parameter(weight)})
    expected = type(norm).forward(probe, x)
    return _compare(name, fused_ops.rms_norm(x, weight, norm.variance_epsilon), expected)


@torch.no_grad()
def mlp_differs(mlp: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Of a layer's MLP: only dense gated ones with SiLU have a fused form."""
    name = type(mlp).__name__
    if _names(type(mlp)) != _MLP or not isinstance(getattr(mlp, "act_fn", None), nn.Module):
        return f"{name} is not a dense gated MLP"
    if _is_replaced(mlp):
        return f"the forward of {name} was replaced on the instance"
    gate, up = _random([(3, 16), (3, 16)], device, dtype)
    expected = type(mlp.act_fn).forward(mlp.act_fn, gate) * up
    return _compare(f"{name} with {type(mlp.act_fn).__name__}", fused_ops.silu_mul(gate, up), expected)


@torch.no_grad()
def attention_differs(attention: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Of a CoRe-aware attention: its rotary positions. Its head norms are checked as norms."""
    native_class = attention.native_class
    rotate = vars(sys.modules[native_class.__module__]).get(ROPE)
    unknown = _names(native_class) - _ATTENTION
    if unknown or rotate is None or ROPE not in _names(native_class):
        return f"the forward of {native_class.__name__} has steps that are not known here: {sorted(unknown)}"
    D = attention.head_dim
    query, key, cos, sin = _random([(1, 3, 2, D), (1, 3, 1, D), (1, 3, D), (1, 3, D)], device, dtype)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    found, expected = fused_ops.norm_rope(query, key, cos, sin), rotate(query, key, cos, sin)
    name = f"{ROPE} of {native_class.__name__}"
    return _compare(name, found[0], expected[0]) or _compare(name, found[1], expected[1])


def last_layer_differs(layers: list[Any], config: Any) -> str | None:
    """Of the last decoder layer: whether its rows but the last are used for keys and values alone."""
    layer = layers[-1]
    name, attention = type(layer).__name__, layer.self_attn
    unknown = _names(type(layer)) - _LAYER | _names(attention.native_class) - _ATTENTION
    if unknown:
        return f"the forwards of {name} have steps that are not known here: {sorted(unknown)}"
    if _is_replaced(layer):
        return f"the forward of {name} was replaced on the instance"
    if len(getattr(config.vision_config, "deepstack_visual_indexes", ())) >= len(layers):
        return f"pictures are added to the rows that the last {name} gives"
    if ROPE not in vars(sys.modules[attention.native_class.__module__]):
        return f"{name} has no {ROPE} in its module"
    return None


def _names(native_class: Any) -> set[str]:
    forward = native_class.forward
    code = getattr(inspect.unwrap(forward), "__code__", None)
    wrapped = hasattr(forward, "__wrapped__") and not _is_transparent(forward)
    return {"a function around its forward"} if code is None or wrapped else set(code.co_names)


def _is_transparent(forward: Any) -> bool:
    """Whether what wraps a native forward is transformers' own (it renames arguments, or picks a kernel)."""
    while hasattr(forward, "__wrapped__"):
        if not forward.__code__.co_filename.startswith(_TRANSFORMERS):
            return False
        forward = forward.__wrapped__
    return True


def _is_replaced(module: nn.Module) -> bool:
    """Whether something stands on the instance that a swapped class would not reach."""
    forward = module.__dict__.get("_old_forward", module.__dict__.get("forward"))
    if forward is None:
        return False
    return not (isinstance(forward, types.MethodType) and forward.__func__ is type(module).forward)


def _random(shapes: list[tuple[int, ...]], device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    # A generator of its own: installing must not move the user's random numbers.
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def _compare(name: str, found: torch.Tensor, expected: torch.Tensor) -> str | None:
    scale = float(expected.float().abs().max())
    error = float((found.float() - expected.float()).abs().max())
    if found.dtype == expected.dtype and error <= 4 * torch.finfo(expected.dtype).eps * scale:
        return None
    return f"{name} computes something else than its fused form: they differ by {error:.2g} of {scale:.2g}"
