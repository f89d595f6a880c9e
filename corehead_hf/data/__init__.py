"""Data sets: real file formats and Glyphs, as Examples."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

from corehead_hf.data.example_set import ExampleSet
from corehead_hf.data.files import resolve

_SOURCES = {
    "glyphs": ("glyphs_set", "Glyphs"),
    "jsonl": ("jsonl", "JsonLines"),
    "mlvu": ("mlvu", "MLVU"),
    "mmdocir": ("mmdocir", "MMDocIR"),
    "mmlongbench": ("mmlongbench", "MMLongBench"),
    "mmlongbench-doc": ("mmlongbench_doc", "MMLongBenchDoc"),
    "refcocog": ("refcocog", "RefCOCOg"),
    "video-mme": ("video_mme", "VideoMME"),
    "vidstg": ("vidstg", "VidSTG"),
}

__all__ = ["ExampleSet", "load"]


def load(
    name: str,
    path: str | Path | None = None,
    *,
    on_error: str = "raise",
    limit: int | None = None,
    revision: str | None = None,
    **options: Any,
) -> ExampleSet:
    """An annotated data set as Examples, made one at a time.

    Args:
        name: "refcocog", "vidstg", "mmdocir", "mmlongbench", "mmlongbench-doc", "glyphs", or "jsonl" for one's own;
            "mlvu" and "video-mme" are only to be answered.
        path: a local folder (a file for "jsonl", nothing for "glyphs"), or a Hub id, "owner/name", of a data set that
            holds the files as published.
        on_error: what a wrong row does: "raise" a ValueError that names file, row and value, or "skip" it, counted.
            Sound rows without visual evidence are left out and counted either way.
        limit: at most so many examples.
        revision: of the Hub id; give a commit for a result that can be repeated.
        options: of the data set, such as split or mode; see its class in corehead_hf.data.<module>.

    Returns:
        An iterable of Examples that can be iterated again; its `report` counts what became of every row.

    Raises:
        ValueError: the name is unknown, or the files are not there.
        TypeError: an option is unknown or missing.
    """
    if name not in _SOURCES:
        raise ValueError(f"data set {name!r} was asked; known are {', '.join(sorted(_SOURCES))}.")
    module, kind = _SOURCES[name]
    source = getattr(import_module(f"{__name__}.{module}"), kind)
    settings = _settings(name, source, options)
    if "path" not in settings:
        if path is not None:
            raise ValueError(f"path={str(path)!r} was given; {name!r} is generated and takes none.")
    elif path is None:
        raise ValueError(f"load({name!r}) needs path: a local folder or file, or a Hub id.")
    elif hasattr(source, "hub_files"):
        patterns = [pattern.format(**settings) for pattern in source.hub_files]
        settings["path"] = resolve(path, revision=revision, patterns=patterns)
    else:
        settings["path"] = Path(path).expanduser()
    return ExampleSet(source(**settings), on_error=on_error, limit=limit)


def _settings(name: str, source: type, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a data set's class with these options; `path` is left to be set."""
    defaults = {item.name: item.default for item in dataclasses.fields(source)}  # type: ignore[arg-type]
    known = [option for option in defaults if option != "path"]
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"load({name!r}) has no option {', '.join(unknown)}; options: {', '.join(known)}.")
    if missing := [option for option in known if {**defaults, **options}[option] is dataclasses.MISSING]:
        raise TypeError(f"load({name!r}) needs {', '.join(missing)}.")
    return {**defaults, **options}
