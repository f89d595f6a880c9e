"""House rules read off the source: imports point down, files stay small, only cli.py prints."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "corehead_hf"
LEVELS = {
    "_version": 0,
    "attention_call": 0,
    "data.example": 0,
    "reference": 0,
    "attention": 1,
    "data": 1,
    "families": 1,
    "kernels": 1,
    "measures": 1,
    "paper": 1,
    "rows": 1,
    "scoring": 1,
    "modes": 2,
    "processor": 2,
    "fusion": 3,
    "head_map": 3,
    "patching": 3,
    "measuring": 4,
    "model": 4,
    "analysis": 5,
    "auto": 5,
    "detection": 5,
    "evaluation": 6,
    "plots": 6,
    "demo": 7,
    "explorer": 7,
    "integrations": 7,
    "reproduce": 7,
    "commands": 8,
    "cli": 9,
}
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level_of(module):
    """Of the module itself where it is listed, else of its folder."""
    return LEVELS[module if module in LEVELS else module.split(".")[0]]


def imported_modules(path):
    """Modules of the package that a file imports, at any depth of its code."""
    found = set()
    known = {module_of(other) for other in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "corehead_hf":
                inner = name.removeprefix("corehead_hf").lstrip(".")
                while inner not in known:  # a name inside a module
                    inner = inner.rpartition(".")[0]
                found.add(inner)
    return found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_down(path):
    module = module_of(path)
    if module == "":
        return  # the public names, which are loaded on first use
    assert module in LEVELS or module.split(".")[0] in LEVELS, f"{module} has no level; give it one here"
    for other in imported_modules(path):
        same_folder = "." in module + "." and other.split(".")[0] == module.split(".")[0]
        assert other != "", f"{module} imports the package itself, which every file is part of"
        assert same_folder or level_of(other) < level_of(module), f"{module} imports {other}, which is not below it"


def test_the_reader_of_imports_sees_them():
    assert imported_modules(PACKAGE / "rows.py") == {"attention_call"}
    assert {"attention_call", "kernels", "modes.record", "rows"} == imported_modules(PACKAGE / "modes" / "ablate.py")
    assert "reference" in imported_modules(PACKAGE / "kernels" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_stay_small(path):
    limit = 400 if path.parent.name == "kernels" else 250
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= limit, f"{path.name} has {count} lines, more than {limit}; split it by job"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert path.name == "cli.py" or printed == [], f"{path.name} prints on lines {printed}; use logging"


def test_no_file_is_named_after_nothing():
    banned = {"utils", "helpers", "common"}
    assert not banned & {path.stem for path in FILES}
