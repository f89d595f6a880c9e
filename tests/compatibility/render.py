"""The committed cells as COMPATIBILITY.md and as the README's section: python tests/compatibility/render.py"""

import json
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS = Path(__file__).parent / "cells"
FAMILIES = ("Qwen3-VL", "LLaVA-OneVision", "InternVL")
SECTIONS = ("Decoding", "Caches", "Batches and inputs", "Backends and dtypes", "Devices", "Compiling", "Quantisation")
SECTIONS += ("Training and adapters", "Around the model", "Mixture of experts")
BEGIN, END = "<!-- works with: begin -->", "<!-- works with: end -->"
INTRODUCTION = """# Compatibility

Made by `python tests/compatibility/render.py` from what the marked tests found on each transformers version
(`tests/compatibility_matrix.py`); a test whose finding differs from its cell fails. Not written by hand.

**yes**: a passing test with a wrapped model, hybrid prefill, recording or ablation included where they could matter.
**no**: refused, with the error below. **upstream**: fails, or does not exist, without corehead_hf as well.
**–**: not run.
"""
ORDER = ("refused", "upstream", "works")
WORD = {"works": "yes", "refused": "no", "upstream": "upstream"}


def versions():
    """{transformers version: {test id: entry}}, oldest first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in CELLS.glob("*.json")]
    return {f["transformers"]: f["cells"] for f in sorted(found, key=lambda f: version_key(f["transformers"]))}


def version_key(version):
    return [int(part) for part in version.split(".") if part.isdecimal()]


def merged(cells):
    """{(section, feature): {family: the weakest finding of its tests}}."""
    found = {}
    for entry in cells.values():
        found.setdefault((entry["section"], entry["feature"]), {}).setdefault(entry["family"], []).append(entry)
    weakest = {}
    for row, families in found.items():
        for family, entries in families.items():
            entry = min(entries, key=lambda e: ORDER.index(e["status"]))
            weakest.setdefault(row, {})[family] = entry
    return weakest


def document(by_version):
    """COMPATIBILITY.md."""
    tables, notes = {version: merged(cells) for version, cells in by_version.items()}, []
    lines = [INTRODUCTION]
    features = list(dict.fromkeys(row for table in tables.values() for row in table))
    for section in sorted({s for s, _ in features}, key=SECTIONS.index):
        lines += [f"## {section}", "", *header(tables)]
        for row in sorted(r for r in features if r[0] == section):
            cells = [shown(tables[v].get(row, {}).get(f), notes) for f in FAMILIES for v in tables]
            lines.append(f"| {row[1]} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Why not", "", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""]
    return "\n".join(lines)


def header(tables):
    columns = [f"{family} {version}" for family in FAMILIES for version in tables]
    return [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]


def shown(entry, notes):
    if entry is None:
        return "–"
    if entry["status"] == "works":
        return WORD["works"]
    note = f"`{entry['why']}`"
    if note not in notes:
        notes.append(note)
    return f"{WORD[entry['status']]} [{notes.index(note) + 1}]"


def summary(by_version):
    """The README's section: what works in every column, and what does not everywhere."""
    tables = [merged(cells) for cells in by_version.values()]
    everywhere, partly, number = {}, [], 0
    for row in dict.fromkeys(row for table in tables for row in table):
        entries = [entry for table in tables for entry in table.get(row, {}).values()]
        number += len(entries)
        statuses = {entry["status"] for entry in entries}
        if statuses == {"works"}:
            everywhere.setdefault(row[0], []).append(row[1])
        else:
            why = "refused" if "refused" in statuses else "not everywhere upstream"
            partly.append(f"{row[1]} ({why})")
    where = f"{', '.join(by_version)} ({number} cells, [COMPATIBILITY.md](COMPATIBILITY.md))"
    lines = [BEGIN, f"A passing test per family on transformers {where}:", ""]
    lists = {f"**{section}**": everywhere[section] for section in SECTIONS if section in everywhere}
    if partly:
        lists["Not everywhere, each with its reason in the matrix"] = partly
    for title, features in lists.items():
        text = f"* {title}: {'; '.join(sorted(features))}."
        lines += textwrap.wrap(text, 128, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, END])


def main():
    found = versions()
    (ROOT / "COMPATIBILITY.md").write_text(document(found), encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(before + summary(found) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
