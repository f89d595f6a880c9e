"""What corehead plot draws from, told by what is on disk; a source that a KIND does not draw is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAP, ROWS = "head map", "benchmark rows"
# What a source holds -> its name, and the KINDs that draw it.
FITS = {
    MAP: ("a head map", ("heatmap", "convergence")),
    ROWS: ("benchmark rows", ("latency",)),
    "ablation": ("an ablation study", ("ablation",)),
    "evaluation": ("an evaluation", ()),
    "hybrid_grid": ("a grid of hybrid prefill", ("grid",)),
    "keep_sweep": ("a sweep of hybrid prefill", ("keep",)),
    "key_tokens": ("a key token study", ("key-tokens", "coverage")),
    "prefill_latency": ("a study of prefill latency", ("prefill",)),
    "stability": ("a stability study", ("stability", "spearman")),
    "vision_heads": ("a study of vision heads", ("vision-overlap",)),
}


def read_map(source: str, kind: str) -> Any:
    """The head map of a source.

    Raises:
        ValueError: it is something else, or broken.
        FileNotFoundError: there is nothing.
    """
    from corehead_hf.head_map import HeadMap

    if Path(source).is_file():
        raise _other(Path(source), _kind_of(Path(source)), kind)
    return HeadMap.from_pretrained(source)


def read_result(path: Path, kind: str) -> Any:
    """The saved study of a file; raises as read_map does."""
    from corehead_hf.analysis.result import Result

    found = _kind_of(path)
    if kind not in FITS[found][1]:
        raise _other(path, found, kind)
    return Result.load(path)


def read_rows(path: Path, where: list[tuple[str, str]]) -> Any:
    """The rows of a CSV file as a DataFrame, those in which each column of `where` has the value; raises as read_map.

    Raises:
        ImportError: pandas is missing.
    """
    found = _kind_of(path)
    if found != ROWS:
        raise _other(path, found, "latency")
    try:
        import pandas
    except ImportError as error:
        raise ImportError("a table needs pandas: pip install 'corehead-hf[analysis]'") from error
    table = pandas.read_csv(path)
    for column, value in where:
        if column not in table.columns:
            raise ValueError(f"--where {column}={value} was given; {path} has the columns {', '.join(table.columns)}.")
        kept = table[table[column].astype(str) == value]
        if not len(kept):
            known = ", ".join(sorted(set(table[column].astype(str))))
            raise ValueError(f"--where {column}={value} leaves no row of {path}; there is {known:.300}.")
        table = kept
    return table


def _kind_of(path: Path) -> str:
    """A key of FITS."""
    from corehead_hf.analysis.result import Result

    if not path.exists():
        raise FileNotFoundError(f"{path} was to be drawn; there is no such file or folder.")
    if path.is_dir():
        return MAP
    return ROWS if path.suffix.lower() == ".csv" else Result.load(path).kind


def _other(path: Path, found: str, kind: str) -> ValueError:
    what, fits = FITS[found]
    does = f"{' or '.join(f'`corehead plot {fit}`' for fit in fits)} does" if fits else "its numbers stand in the file"
    return ValueError(f"{path} holds {what}, which `corehead plot {kind}` does not draw; {does}.")
