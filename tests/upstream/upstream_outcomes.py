"""pytest plugin: what every test and subtest of a session did, as JSON, in the file that UPSTREAM_REPORT names."""

from __future__ import annotations

import json
import os
from pathlib import Path

_outcomes: dict[str, str] = {}
_reasons: dict[str, str] = {}
_subtests = {"passed": 0, "failed": 0, "skipped": 0}
_RANK = {"skipped": 0, "passed": 1, "failed": 2}


def pytest_runtest_logreport(report):
    name = report.nodeid.rpartition("::")[2]
    if hasattr(report, "context"):  # a subtest; its test fails with it
        _subtests[report.outcome] += 1
        if report.outcome != "failed":
            return
    elif report.when != "call" and report.outcome == "passed":
        return
    if report.outcome == "failed":
        _reasons.setdefault(name, _first_line(report))
    if _RANK[report.outcome] >= _RANK[_outcomes.get(name, "skipped")]:
        _outcomes[name] = report.outcome


def pytest_sessionfinish():
    told = {"outcomes": _outcomes, "reasons": _reasons, "subtests": _subtests["passed"]}
    Path(os.environ["UPSTREAM_REPORT"]).write_text(json.dumps(told), encoding="utf-8")


def _first_line(report) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return text.splitlines()[0][:200] if text else "no message"
