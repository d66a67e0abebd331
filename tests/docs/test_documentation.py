"""What the documentation says is so: recipes check, code compiles, links lead somewhere, tables are whole."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from whet import plain
from whet.cli.main import VERBS, whet
from whet.passes.registry import names
from whet.recipe.presets import NAMES
from whet.recipe.recipe import Recipe
from whet.recipe.schema import schema
from whet.types import Format

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in ROOT.rglob("*.md") if ".venv" not in path.parts and "demo-run" not in path.parts)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_is_python(page):
    for code in blocks(page, "python"):
        ast.parse(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_recipe_shown_can_be_carried_out(page, tmp_path):
    for text in blocks(page, "toml"):
        if "steps" in tomllib.loads(text):
            file = tmp_path / "shown.toml"
            file.write_text(text)
            assert Recipe.load(file).check(Format.TORCH) is Format.ONNX


def test_every_command_shown_has_the_options_it_uses():
    shown = [line for page in PAGES for block in blocks(page, "console") for line in commands(block)]
    assert shown
    for words in shown:
        if words[0] != "whet" or words[1] == "--help":
            continue
        context = click.Context(whet)
        command = whet.get_command(context, words[1])
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def test_the_readme_lists_every_verb():
    listed = re.findall(r"^\| `whet (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert listed == list(VERBS)


def test_the_readme_names_every_preset():
    text = (ROOT / "README.md").read_text()
    for name in NAMES:
        short = "-" + name.removeprefix("static-int8-")
        assert f"`{name}`" in text or f"`{short}`" in text


def test_the_schema_in_the_repository_is_the_one_the_tool_prints():
    saved = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert saved == plain.builtins(schema())
    assert set(saved["$defs"]) == {*names(), "Recovery"}  # which steps hold as a table


def test_the_architecture_page_names_every_floor():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for folder in (ROOT / "src" / "whet").iterdir():
        if folder.is_dir() and not folder.name.startswith("_"):
            assert f"{folder.name}/" in text


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    for target in ("demo", "test"):
        ran = subprocess.run(
            ["make", "-n", target, f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
