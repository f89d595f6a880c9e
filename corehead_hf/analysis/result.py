"""Result: what every study returns, a frozen dataclass that becomes a table and a JSON file, and comes back from it."""

from __future__ import annotations

import json
import math
import os
import tempfile
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from corehead_hf._version import __version__

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT_VERSION = 1
MAX_BYTES = 1 << 26  # far above any study: 60 head maps of 4096 heads take 7 MB

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Heads = tuple[tuple[int, int], ...]  # (layer, head) each

_CLASS_OF = {
    "ablation": "analysis.ablation.AblationCurve",
    "evaluation": "evaluation.evaluation.Evaluation",
    "hybrid_grid": "analysis.hybrid_grid.HybridGrid",
    "keep_sweep": "analysis.keep_sweep.KeepSweep",
    "key_tokens": "analysis.key_tokens.KeyTokenStudy",
    "prefill_latency": "analysis.prefill_latency.PrefillLatency",
    "stability": "analysis.stability.Stability",
    "vision_heads": "analysis.vision_heads.VisionHeads",
}
_ENVELOPE = {"kind", "format_version", "corehead_version"}
_ENTRIES: dict[type, set[type]] = {np.float64: {float, int}, np.int64: {int}, np.bool_: {bool}}

R = TypeVar("R", bound="Result")


class Result(ABC):
    """Base of the studies' frozen dataclasses. A subclass names its kind and stands in _CLASS_OF.

    Its fields are annotated with str, int, float, bool, Floats, Integers, Booleans, dataclasses of these, tuples, dicts
    by str, and `| None`; the annotations are what load checks a file against.
    """

    kind: ClassVar[str]

    @abstractmethod
    def to_pandas(self) -> DataFrame:
        """The study as a tidy table: one row an observation."""

    def save(self, path: str | Path) -> None:
        """Write the study as strict JSON, whole or not at all; arrays become nested lists.

        Raises:
            ValueError: a field is not of its type, or not finite.
        """
        path = Path(path)
        values = {field.name: _encoded(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        _fields_of(type(self), values, f"{type(self).__name__} that is to be saved")
        document = {"kind": self.kind, "format_version": FORMAT_VERSION, "corehead_version": __version__, **values}
        text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".result-") as staging:
            whole = Path(staging) / path.name
            with whole.open("wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, path)

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """The study in a file: of any kind when called on Result, else of the class's own.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is too large, no strict JSON, of another kind or a newer format, or a field is malformed.
        """
        document = _document(Path(path))
        kind = document["kind"]
        if kind not in _CLASS_OF:
            raise ValueError(f"{path} holds the kind {kind!r:.60} - known are {', '.join(_CLASS_OF)} - check the path.")
        module, _, name = _CLASS_OF[kind].rpartition(".")
        found = getattr(import_module(f"corehead_hf.{module}"), name)
        if not issubclass(found, cls):
            asked = getattr(cls, "kind", cls.__name__)
            raise ValueError(f"{path} was asked for as {asked!r} - it holds {kind!r} - read it with {name}.load.")
        values = {name: value for name, value in document.items() if name not in _ENVELOPE}
        try:
            loaded: R = found(**_fields_of(found, values, str(path)))
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply - that is no saved study - get the file again.") from None
        return loaded


def data_frame(columns: Mapping[str, Any]) -> DataFrame:
    """A pandas DataFrame of columns of one length; scalars are repeated.

    Raises:
        ImportError: pandas is missing.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("a table needs pandas: pip install 'corehead-hf[analysis]'") from error
    return pandas.DataFrame(columns)


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError where an array is not of this shape; None passes."""
    if array is not None and np.shape(array) != shape:
        raise ValueError(f"{name} of shape {np.shape(array)} was given - it is {shape} here - give it in this shape.")


def _encoded(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(entry) for key, entry in value.items()}
    return [_encoded(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def _document(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes - no study is - get the file again.")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is no strict JSON: {error!s:.200} - get the file again.") from error
    named = isinstance(document, dict) and (document.get("kind"), document.get("corehead_version"))
    if not named or not all(isinstance(name, str) for name in named):
        raise ValueError(f"{path} is no study saved by corehead_hf: it does not name its kind - check the path.")
    version = document.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version!r:.40}, written by corehead_hf {document['corehead_version']:.40} - "
            f"this version reads {FORMAT_VERSION} - upgrade with `pip install --upgrade corehead_hf`."
        )
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]!s:.100}")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _fields_of(kind: type, values: Any, where: str) -> dict[str, Any]:
    """Arguments of a dataclass, from JSON values that must be exactly its fields."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or set(values) != set(names):
        given = sorted(values) if isinstance(values, dict) else values
        raise ValueError(f"{where} has {given!r:.200} - {kind.__name__} has {', '.join(names)} - get the file again.")
    return {name: _decoded(hints[name], values[name], f"{name} of {where}") for name in names}


def _decoded(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field is annotated with."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        some = next(kind for kind in inner if kind is not type(None))
        return None if value is None else _decoded(some, value, where)
    if origin is np.ndarray:
        return _array(get_args(inner[1])[0], value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) == len(value):
            return tuple(_decoded(kind, entry, where) for kind, entry in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {key: _decoded(inner[1], entry, f"{key!r:.60} in {where}") for key, entry in value.items()}
    elif is_dataclass(hint) and isinstance(hint, type):
        return hint(**_fields_of(hint, value, where))
    elif hint is float and type(value) in (float, int) and math.isfinite(value):
        return float(value)
    elif hint in (str, int, bool) and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", hint) if origin is None else hint
    raise ValueError(f"{where} is {value!r:.60} - it must be a finite {wanted} - get the file again.")


def _array(dtype: type, value: Any, where: str) -> NDArray[Any]:
    array: NDArray[Any] | None
    try:
        entries = np.array(value, dtype=object)
        sound = isinstance(value, list) and {type(entry) for entry in entries.ravel()} <= _ENTRIES[dtype]
        array = entries.astype(dtype) if sound else None
    except (ValueError, OverflowError):  # ragged, or an integer beyond int64
        array = None
    if array is None or not np.isfinite(array).all():
        wanted = f"a rectangular nested list of finite {np.dtype(dtype).name}"
        raise ValueError(f"{where} is {value!r:.60} - it must be {wanted} - get the file again.")
    return array
