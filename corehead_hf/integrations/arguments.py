"""The model arguments of a harness (`--model_args name=value,...`): each read, checked, and none ignored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from corehead_hf.analysis.groups import GROUPS

HYBRID_OPTIONS = ("dense_below", "backend", "chunked", "fuse")
SIZES = ("sink_size", "window_size")
ABLATION_OPTIONS = ("ablate_count", "ablate_variant", "seed")
# "mean" needs outputs recorded over a reference set, which a harness has no place for.
VARIANTS = ("zero", "visual", "stream")


@dataclass(frozen=True)
class ModelArguments:
    """What a harness is told about the model, its prompts and what CoRe does to it.

    Attributes:
        pretrained, revision: Hub id or folder.
        dtype: "auto" or the name of a torch dtype.
        device: where one process runs the model; None is accelerate's choice.
        device_map: instead of device, of transformers ("auto", ...): one model over several devices.
        attn_implementation: the dense backend.
        batch_size: prompts per generation.
        head_map, head_map_revision: Hub id or folder.
        keep: hybrid prefill with the map's top heads dense: an int is a count, a float in (0, 1] a share.
        heads: hybrid prefill with these dense heads, ((layer, head), ...).
        sink_size, window_size: tokens of a streaming head, or of an ablated one with ablate_variant="stream"; None is
            the default of enable_hybrid and ablate_heads.
        dense_below, backend, chunked, fuse: of enable_hybrid. dense_below is 0, not "auto": an accuracy must not
            depend on how fast the machine is.
        ablate: heads to ablate: "top", "bottom", "random" or "layer_matched".
        ablate_count: how many, a count or a share.
        ablate_variant: "zero", "visual" or "stream".
        seed: of random heads.
        max_frames: frames of a video, spread evenly.
        fps: frames per second to take instead, at most max_frames.
        min_pixels, max_pixels: Qwen3-VL, of an image; None is the processor's setting, here and below.
        video_max_pixels: Qwen3-VL, of all frames of a video together.
        min_tiles, max_tiles: InternVL, of an image.
        flat_images: LLaVA-OneVision, every image at any resolution; see Family.prepare.
        system_prompt: None is what the chat template writes by itself.
        on_error: "raise", or "empty": a prompt that fails is answered by an empty text, and said so.
    """

    pretrained: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1
    head_map: str | None = None
    head_map_revision: str | None = None
    keep: int | float | None = None
    heads: tuple[tuple[int, int], ...] | None = None
    sink_size: int | None = None
    window_size: int | None = None
    dense_below: int | str = 0
    backend: str = "auto"
    chunked: bool = False
    fuse: bool = False
    ablate: str | None = None
    ablate_count: int | float | None = None
    ablate_variant: str = "zero"
    seed: int = 0
    max_frames: int = 32
    fps: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    video_max_pixels: int | None = None
    min_tiles: int | None = None
    max_tiles: int | None = None
    flat_images: bool = False
    system_prompt: str | None = None
    on_error: str = "raise"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ModelArguments:
        """Check and convert what a harness passes on.

        Args:
            given: values by name, typed or as lmms-eval parses them: true and false, whole numbers, other numbers,
                and strings, which may stand in quotes.

        Raises:
            ValueError: an unknown name, a value out of range, or arguments that contradict or miss each other.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"model arguments {', '.join(unknown)} are unknown - known are {', '.join(known)}.")
        read = {name: _READERS[name](name, value) for name, value in given.items() if value is not None}
        if "pretrained" not in read:
            raise ValueError("no pretrained=... was given - a model is needed - name its Hub id or folder.")
        arguments = cls(**read)
        arguments._check(set(read))
        return arguments

    @property
    def is_hybrid(self) -> bool:
        return self.keep is not None or self.heads is not None

    def of_sizes(self) -> dict[str, int]:
        """sink_size and window_size, those that were given."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}

    def _check(self, given: set[str]) -> None:
        for name, others in _NEEDS.items():
            if name in given and not given & set(others):
                raise ValueError(f"{name}={getattr(self, name)!r} was given without {' or '.join(others)} - {_WHY}.")
        for one, other in (("keep", "heads"), ("device", "device_map")):
            if {one, other} <= given:
                raise ValueError(f"{one} and {other} were both given - they say the same thing - give one of them.")
        if self.ablate is not None and self.ablate_count is None:
            raise ValueError(f"ablate={self.ablate!r} was given without ablate_count - say how many heads, or a share.")
        if "seed" in given and self.ablate not in ("random", "layer_matched"):
            raise ValueError(f"seed={self.seed} was given with ablate={self.ablate!r} - only random heads need a seed.")
        if given & set(SIZES) and not self.is_hybrid and self.ablate_variant != "stream":
            raise ValueError(f"{self.of_sizes()} was given - no head streams - give keep=, or ablate_variant=stream.")
        for kind in ("pixels", "tiles"):
            least, most = getattr(self, f"min_{kind}"), getattr(self, f"max_{kind}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{kind}={least} was given with max_{kind}={most} - swap them.")


_WHY = "it would change nothing - leave it out, or give what it goes with"
_NEEDS: dict[str, tuple[str, ...]] = {
    "keep": ("head_map",),
    "ablate": ("head_map",),
    "head_map": ("keep", "ablate"),
    "head_map_revision": ("head_map",),
    **dict.fromkeys(HYBRID_OPTIONS, ("keep", "heads")),
    **dict.fromkeys(ABLATION_OPTIONS, ("ablate",)),
    **dict.fromkeys(SIZES, ("keep", "heads", "ablate")),
}


def _refuse(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name}={value!r} was given - it must be {wanted}.")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        # lmms-eval turns revision=1.10 into 1.1: what was written can no longer be told.
        raise _refuse(name, value, f"a text - in quotes where it looks like a number: {name}='1.10'")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    text = value[1:-1] if quoted else value
    if not text:
        raise _refuse(name, value, "a text that is not empty")
    return text


def _choice(*choices: str) -> Callable[[str, Any], str]:
    def read(name: str, value: Any) -> str:
        if value not in choices:
            raise _refuse(name, value, f"one of {', '.join(choices)}")
        return str(value)

    return read


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return value


def _whole(least: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise _refuse(name, value, f"a whole number from {least}")
        return number

    return read


def _above_zero(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:  # false for NaN
        raise _refuse(name, value, "a number above 0")
    return value


def _heads(name: str, value: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = json.loads(value) if isinstance(value, str) else value
        return tuple((_whole(0)(name, layer), _whole(0)(name, head)) for layer, head in pairs)
    except (TypeError, ValueError) as error:
        raise _refuse(name, value, "a list of [layer, head]: heads=[[3,1],[5,0]]") from error


def _dense_below(name: str, value: Any) -> int | str:
    return "auto" if value == "auto" else _whole(0)(name, value)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("pretrained", "revision", "device", "device_map", "attn_implementation"), _text),
    **dict.fromkeys(("head_map", "head_map_revision", "backend", "system_prompt"), _text),
    "dtype": _choice("auto", "float32", "bfloat16", "float16"),
    **dict.fromkeys(("batch_size", "max_frames"), _whole(1)),
    **dict.fromkeys(("min_pixels", "max_pixels", "video_max_pixels", "min_tiles", "max_tiles"), _whole(1)),
    **dict.fromkeys(("sink_size", "seed"), _whole(0)),
    "window_size": _whole(1),
    **dict.fromkeys(("keep", "ablate_count", "fps"), _above_zero),
    **dict.fromkeys(("chunked", "fuse", "flat_images"), _flag),
    "heads": _heads,
    "dense_below": _dense_below,
    "ablate": _choice(*GROUPS),
    "ablate_variant": _choice(*VARIANTS),
    "on_error": _choice("raise", "empty"),
}
