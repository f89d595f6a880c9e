"""What arXiv 2606.05843 reports, as far as it is known here: numbers to stand beside one's own.

Each table is a CSV file in this folder whose last column says where in the paper a row stands. A number that is not
known here is absent, never estimated: of Tables 2 and 4 these are averages and speed-ups, not the cells per task.

* models: Hub id, the name used in the tables, layers and query heads a layer.
* table2: MLVU, average of six tasks in percent, prefill speed-up over dense; `heads` are dense query heads.
* table4: Video-MME, average over all 2700 questions in percent.
* figures: single numbers of Figures 5 and 6, as a range.
* groups: the tasks behind the two averages, and how many questions each has.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TypeAlias

TABLES = ("models", "table2", "table4", "figures", "groups")
_NUMBERS = ("layers", "heads", "average", "speedup", "low", "high", "questions")

PaperRow: TypeAlias = dict[str, "str | float | None"]


def table(name: str) -> tuple[PaperRow, ...]:
    """The rows of a table by column: texts, and numbers as floats, None where one is not known.

    Raises:
        ValueError: there is no such table.
    """
    if name not in TABLES:
        raise ValueError(
            f"the paper's table {name!r} was asked for - there are {', '.join(TABLES)} - take one of them."
        )
    text = (files(__name__) / f"{name}.csv").read_text(encoding="utf-8")
    return tuple({key: _value(key, cell) for key, cell in row.items()} for row in csv.DictReader(text.splitlines()))


def short_name(model: str) -> str | None:
    """What the tables call a model with this Hub id, or None where the paper has none of the kind."""
    return next((str(row["name"]) for row in table("models") if row["model"] == model), None)


def budgets(model: str) -> tuple[int, ...]:
    """The head budgets, rising, that Tables 2 and 4 report for a model of its short name, less dense; () for others."""
    total = {row["name"]: int(row["layers"] or 0) * int(row["heads"] or 0) for row in table("models")}
    rows = [row for name in ("table2", "table4") for row in table(name) if row["model"] == model]
    return tuple(sorted({int(row["heads"] or 0) for row in rows} - {total.get(model)}))


def _value(key: str, cell: str) -> str | float | None:
    if key not in _NUMBERS:
        return cell
    return float(cell) if cell else None
