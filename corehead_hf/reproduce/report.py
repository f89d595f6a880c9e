"""The report: every table and figure that was made, beside the paper's values, and what could not be made."""

from __future__ import annotations

from typing import Any

from corehead_hf._version import __version__
from corehead_hf.measuring.fingerprint import package_versions
from corehead_hf.plots.text import last_part
from corehead_hf.reproduce.run import Run
from corehead_hf.reproduce.tables import (
    Rows,
    accuracy_rows,
    figure_rows,
    latency_rows,
    markdown,
    task_rows,
    write_csv,
)

REPORT_NAME = "report.md"
_HOW = (
    "Head budgets are counts of query heads, taken from the pooled map of all measured data sets, every example "
    "counting once. Intervals are 95 % over questions. A dash is a number that was not measured, or that the paper "
    "does not give for this model."
)


def write_report(run: Run) -> None:
    """Write report.md, and its tables as CSV."""
    lines = [f"# CoRe heads of {last_part(run.plan.model)}", "", _about(run), "", _HOW, ""]
    lines += _missing(run)
    if run.maps:
        tables = {
            "Table 2": (run.plan.mlvu.name, accuracy_rows(run, run.plan.mlvu, "table2"), task_rows(run, run.plan.mlvu)),
            "Table 4": (
                run.plan.video_mme.name,
                accuracy_rows(run, run.plan.video_mme, "table4"),
                task_rows(run, run.plan.video_mme),
            ),
        }
        for title, (name, rows, tasks) in tables.items():
            lines += _table(run, f"{title}: {name}, accuracy in percent", rows)
            lines += _table(run, f"{title}: by task", tasks)
        lines += _table(run, "Figure 7: prefill", latency_rows(run))
        lines += _table(run, "Figures 5 and 6", figure_rows(run))
    lines += _figures(run)
    (run.folder / REPORT_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _about(run: Run) -> str:
    plan, versions = run.plan, ", ".join(f"{name} {version}" for name, version in package_versions().items())
    answered = "all questions" if plan.num_answered is None else f"at most {plan.num_answered} questions"
    return (
        f"Model `{last_part(plan.model)}`; at most {plan.num_measured} examples of each of "
        f"{', '.join(source.name for source in plan.measured)} measured; {answered} of each benchmark; streaming heads "
        f"see sink {plan.sink_size} + window {plan.window_size} tokens. Made by corehead_hf {__version__} ({versions})."
    )


def _missing(run: Run) -> list[str]:
    if not run.missing:
        return []
    return ["## Left out", "", *(f"* {name}: {' '.join(why.split())}" for name, why in run.missing.items()), ""]


def _table(run: Run, title: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    path = run.place("tables", f"{title.split(',')[0]}.csv")
    write_csv(rows, path)
    return [f"## {title}", "", *markdown(rows), "", f"[{path.name}]({path.relative_to(run.folder).as_posix()})", ""]


def _figures(run: Run) -> list[str]:
    found: list[Any] = sorted((run.folder / "figures").glob("*.png"))
    lines = [f"![{file.stem.replace('-', ' ')}]({file.relative_to(run.folder).as_posix()})" for file in found]
    return ["## Figures", "", *lines] if lines else []
