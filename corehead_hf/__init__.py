"""Find, prove, use and share the CoRe (context-aware retrieval) heads of multimodal LLMs.

Importing this package changes nothing in the process and loads nothing heavy: each public name brings its module
along when it is first used. AutoCoReModel changes only the model it is given.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corehead_hf._version import __version__

if TYPE_CHECKING:
    from corehead_hf.auto import AutoCoReModel
    from corehead_hf.data.example import Evidence, Example, Video
    from corehead_hf.detection import measure
    from corehead_hf.head_map import HeadMap
    from corehead_hf.head_map.errors import HeadMapError, HeadMapFormatError
    from corehead_hf.model import CoReModelMixin
    from corehead_hf.processor import load_processor

_MODULE_OF = {
    "AutoCoReModel": "auto",
    "CoReModelMixin": "model",
    "Evidence": "data.example",
    "Example": "data.example",
    "HeadMap": "head_map",
    "HeadMapError": "head_map.errors",
    "HeadMapFormatError": "head_map.errors",
    "load_processor": "processor",
    "Video": "data.example",
    "measure": "detection",
}

__all__ = [
    "AutoCoReModel",
    "CoReModelMixin",
    "Evidence",
    "Example",
    "HeadMap",
    "HeadMapError",
    "HeadMapFormatError",
    "Video",
    "__version__",
    "load_processor",
    "measure",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
