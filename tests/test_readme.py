"""The README's promises: its code runs, its commands exist."""

import ast
import configparser
import inspect
import re
from pathlib import Path

from corehead_hf import AutoCoReModel, CoReModelMixin, HeadMap

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub_artifacts").symlink_to(ROOT / "hub_artifacts")
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert len(blocks) >= 3
    names = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README block {number}", "exec"), names)
    assert names["recording"].ram.shape == (4, 12, 4)


def test_the_code_that_needs_a_hub_or_files_of_others_names_what_exists():
    blocks = re.findall(r"```py\n(.*?)```", TEXT, flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        for call in [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]:
            owner = {"model": CoReModelMixin, "AutoCoReModel": AutoCoReModel}.get(call.func.value.id, HeadMap)
            known = inspect.signature(getattr(owner, call.func.attr)).parameters
            assert {keyword.arg for keyword in call.keywords} <= set(known), ast.unparse(call)


def test_its_commands_use_extras_that_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    commands = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    assert [command.strip().split("&& ")[-1] for command in commands] == [
        "corehead demo",
        "pytest -n auto --dist loadfile",
    ]
    for command in commands:
        (extra,) = re.findall(r"\.\[(\w+)\]", command)
        assert extra in setup["options.extras_require"]


def test_its_links_and_pictures_exist():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
