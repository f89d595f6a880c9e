"""Load a family's real processor, also where torchvision is missing and only pictures are needed.

transformers' processors of these families insist on a video processor, which insists on torchvision, whose wheels
often do not match a CPU torch. Without it the native processor class is built around its image processor and
tokenizer alone.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import cached_file, is_torchvision_available

from corehead_hf.families import family_of_config

# Where every transformers version looks for the settings of a video processor.
VIDEO_FILE = "video_preprocessor_config.json"


def load_processor(pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
    """The processor of a supported model, from a Hub id or folder.

    Args:
        kwargs: passed on to the loaders: revision, token, cache_dir, local_files_only, ...

    Returns:
        What AutoProcessor returns; without torchvision the same native class, which then takes pictures but no videos.
        Its save_pretrained writes the video settings back as they were read.

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
    # Positional: the class below names two parts, so that transformers leaves the third, the video processor, unread.
    processor = _without_video(native)(
        image_processor, tokenizer, None, chat_template=tokenizer.chat_template, **options
    )
    processor.core_video_settings = _video_settings(pretrained_model_name_or_path, **kwargs)
    return processor


def _video_settings(pretrained_model_name_or_path: str | Path, **kwargs: Any) -> dict[str, Any] | None:
    """A checkpoint's video settings, None where it has none: transformers 5 nests them in the processor's file."""
    for name, key in (("processor_config.json", "video_processor"), (VIDEO_FILE, None)):
        file = cached_file(pretrained_model_name_or_path, name, _raise_exceptions_for_missing_entries=False, **kwargs)
        read = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
        found = read.get(key) if key else read
        if found:
            return found
    return None


class _WithoutVideo:
    """In front of a native processor class: two parts instead of three, and the settings of the third kept for saving.

    transformers counts a processor's parts, and saves each, by `attributes` (4.57) or `get_attributes` (5.x).
    """

    attributes = ("image_processor", "tokenizer")
    video_processor = None
    core_video_settings: dict[str, Any] | None = None

    @classmethod
    def get_attributes(cls) -> list[str]:
        return list(cls.attributes)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As upstream; the settings of the video processor go into a file of their own."""
        written = super().save_pretrained(save_directory, **({} if push_to_hub else kwargs))  # type: ignore[misc]
        if self.core_video_settings is not None:
            text = json.dumps(self.core_video_settings, indent=2, sort_keys=True) + "\n"
            Path(save_directory, VIDEO_FILE).write_text(text, encoding="utf-8")
        if push_to_hub:  # after that file: upstream uploads what its own save_pretrained wrote
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, **kwargs)  # type: ignore[attr-defined]
        return written

    def __reduce_ex__(self, protocol: Any) -> Any:  # a data loader's workers get the processor pickled
        return _rebuild, (type(self).__mro__[2],), self.__dict__.copy()


@functools.cache
def _without_video(native: type) -> type:
    return type(native.__name__, (_WithoutVideo, native), {"__module__": native.__module__})


def _rebuild(native: type) -> Any:
    return object.__new__(_without_video(native))
