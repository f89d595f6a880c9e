"""Run transformers' own model tests on native and on wrapped models and compare what passes; see README.md.

    python tests/upstream/run_upstream.py /path/to/transformers-5.23.0 --write

Exit status 1: a test that passes on the native model does not pass under another condition, and EXPECTED does not say
why it cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAMILIES = ("qwen3_vl", "llava_onevision", "internvl_qwen3")
CONDITIONS = ("native", "wrapped", "dense", "streaming")
# (pattern of test names, conditions, why it cannot pass): what CoRe changes on purpose.
EXPECTED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "test_attention_outputs|test_retain_grad_hidden_states_attentions|test_model_outputs_equivalence"
        "|test_eager_matches_sdpa_inference_.*_output_attentions|test_capture_outputs_decorator",
        ("streaming",),
        "output_attentions=True is refused in a hybrid prefill, whose kernels compute no attention weights",
    ),
)
OUTCOMES = ("passed", "failed", "skipped")


@dataclass
class Run:
    """What one family's tests did under one condition.

    Attributes:
        outcomes: test -> passed, failed or skipped; a test with a failed subtest has failed.
        reasons: failed test -> first line of its first error.
        subtests: how many subtests passed.
    """

    outcomes: dict[str, str]
    reasons: dict[str, str]
    subtests: int

    def count(self, outcome: str) -> int:
        return sum(found == outcome for found in self.outcomes.values())

    def lost(self, native: Run) -> dict[str, str]:
        """Tests that pass on the native model and not here -> why."""
        wanted = [name for name, outcome in native.outcomes.items() if outcome == "passed"]
        found = {name: self.outcomes.get(name, "missing") for name in wanted}
        return {name: self.reasons.get(name, got) for name, got in found.items() if got != "passed"}


def run_tests(source: Path, family: str, condition: str, chosen: str | None) -> Run:
    """Upstream's tests of one family under one condition, in a process of their own.

    Raises:
        RuntimeError: pytest could not run them.
    """
    paths = [str(HERE), str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"UPSTREAM_SOURCE": str(source), "UPSTREAM_FAMILY": family, "UPSTREAM_CONDITION": condition}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment["UPSTREAM_REPORT"] = str(report)
        command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "-c", os.devnull]
        command += ["--rootdir", str(HERE), "--confcutdir", str(HERE), "-p", "upstream_outcomes"]
        command += ["-k", chosen] if chosen else []
        done = subprocess.run(
            [*command, str(HERE / "upstream_cases.py")], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(
                f"pytest stopped with status {done.returncode} on {family}, {condition}:\n{done.stdout[-2000:]}"
                f"{done.stderr[-2000:]}"
            )
        return Run(**json.loads(report.read_text(encoding="utf-8")))


def expected(test: str, condition: str) -> str | None:
    """Why a test cannot pass under a condition, or None where nothing is known to hinder it."""
    for pattern, conditions, why in EXPECTED:
        if condition in conditions and re.fullmatch(pattern, test):
            return why
    return None


def source_version(source: Path) -> str:
    """The version that a transformers source tree says it is."""
    text = (source / "src" / "transformers" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+?)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def summary(runs: dict[str, dict[str, Run]]) -> dict[str, dict[str, dict[str, object]]]:
    """Per family and condition: counts, what failed on the native model, what passes there and not here."""
    told: dict[str, dict[str, dict[str, object]]] = {}
    for family, by_condition in runs.items():
        native = by_condition["native"]
        for condition, run in by_condition.items():
            entry: dict[str, object] = {outcome: run.count(outcome) for outcome in OUTCOMES}
            entry["subtests"] = run.subtests
            entry["failing" if run is native else "lost"] = run.reasons if run is native else run.lost(native)
            told.setdefault(family, {})[condition] = entry
    return told


def tell(runs: dict[str, dict[str, Run]]) -> int:
    """Print a Markdown table of the counts and every lost test; how many were not expected."""
    print("| family | condition | passed | failed | skipped | subtests | lost | of these expected |")
    print("|---|---|---|---|---|---|---|---|")
    lines, unexpected = [], 0
    for family, by_condition in runs.items():
        for condition, run in by_condition.items():
            lost = run.lost(by_condition["native"])
            known = {test: expected(test, condition) for test in lost}
            unexpected += sum(why is None for why in known.values())
            counts = [run.count(outcome) for outcome in OUTCOMES]
            counts += [run.subtests, len(lost), sum(why is not None for why in known.values())]
            print(f"| {family} | {condition} | {' | '.join(map(str, counts))} |")
            lines += [f"{condition}: {test}: expected: {why}" for test, why in known.items() if why is not None]
            lines += [f"{family}, {condition}: {test}: {lost[test]}" for test, why in known.items() if why is None]
    print("\n" + "\n".join(dict.fromkeys(lines) or ["no test is lost"]))  # an expected loss is told once
    return unexpected


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="an unpacked transformers source distribution, or a checkout")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only this one; may be repeated")
    parser.add_argument("--condition", action="append", choices=CONDITIONS[1:], help="only this one beside native")
    parser.add_argument("-k", dest="chosen", help="only tests that this pytest expression selects")
    parser.add_argument("--write", action="store_true", help="write results/VERSION.json")
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.write and (given.family or given.condition or given.chosen):
        parser.error("--write keeps whole runs; leave --family, --condition and -k out.")
    import torch
    import transformers

    version = source_version(given.source)
    if version != transformers.__version__:
        parser.error(
            f"{given.source} holds transformers {version}, installed is {transformers.__version__}; tests of another "
            "version tell nothing. Install that version or unpack this one's source."
        )
    conditions = ["native", *(given.condition or CONDITIONS[1:])]
    families = given.family or FAMILIES
    runs: dict[str, dict[str, Run]] = {}
    for family in families:
        for condition in conditions:
            print(f"running {family}, {condition}", file=sys.stderr, flush=True)
            runs.setdefault(family, {})[condition] = run_tests(given.source.resolve(), family, condition, given.chosen)
    unexpected = tell(runs)
    if given.write:
        about = {"transformers": version, "torch": torch.__version__, "families": summary(runs)}
        path = HERE / "results" / f"{version}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
