"""Load a family's real processor, also where torchvision is missing and only pictures are needed.

transformers' processors of these families insist on a video processor, which insists on torchvision, whose wheels
often do not match a CPU torch. Without it the native processor class is built around its image processor and
tokenizer alone.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available

from corehead_hf.families import family_of_config


def load_processor(pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
    """The processor of a supported model, from a Hub id or folder.

    Args:
        kwargs: passed on to the loaders: revision, token, cache_dir, local_files_only, ...

    Returns:
        What AutoProcessor returns; without torchvision the same native class, which then takes pictures but no videos.

    Raises:
        ValueError: the model type is not supported.
    """
    family = family_of_config(AutoConfig.from_pretrained(pretrained_model_name_or_path, **kwargs))
    if is_torchvision_available():
        return AutoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
    native = getattr(transformers, family.processor_class)
    tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
    image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
    written, _ = image_processor.get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
    if "size" in written and hasattr(image_processor, "min_pixels"):
        # Qwen2VLImageProcessor of transformers 4.57 takes its default size whatever the folder says.
        image_processor.size = written["size"]
        image_processor.min_pixels = written["size"]["shortest_edge"]
        image_processor.max_pixels = written["size"]["longest_edge"]
    settings, _ = native.get_processor_dict(pretrained_model_name_or_path, **kwargs)
    known = inspect.signature(native.__init__).parameters
    parts = ("image_processor", "tokenizer", "video_processor", "chat_template", "self", "kwargs")
    options = {name: settings[name] for name in known if name in settings and name not in parts}
    # Positional: transformers 4.57 and 5.x name the missing part differently but count the same three.
    return _without_video(native)(image_processor, tokenizer, None, chat_template=tokenizer.chat_template, **options)


@functools.cache
def _without_video(native: type) -> type:
    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return type(None)
        return native.check_argument_for_proper_class(self, argument_name, argument)  # type: ignore[attr-defined]

    body = {"check_argument_for_proper_class": check_argument_for_proper_class, "__module__": native.__module__}
    return type(native.__name__, (native,), body)
