"""Every page of the documentation does what it says: its blocks are carried out, in order, in an empty folder."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import play
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
QUICK = ROOT / "tests" / "quick"  # a quick clock: pages are looked at for what they do, not for how exact
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if any(language in ("python", "console") for language, _, _ in play.blocks(page.read_text()))
]
QUICKLY = {"how-to/unlabelled.md"}  # the others take minutes together
TUTORIAL = DOCS / "tutorial.md"  # carried out as typed, below


def name(page):
    return page.relative_to(DOCS).as_posix()


def marked(page):
    return pytest.param(page, id=name(page), marks=[] if name(page) in QUICKLY else [pytest.mark.slow])


def test_there_are_pages_to_carry_out():
    assert {"tutorial.md", "migrate.md"} <= {name(page) for page in PAGES}


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if page != TUTORIAL])
def test_a_page_does_what_it_says(page, tmp_path):
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        "PYTHONPATH": str(QUICK),
        "WHET_DOCS": str(DOCS),
    }
    done = subprocess.run(
        [sys.executable, str(Path(play.__file__)), str(page)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_takes_ten_minutes_as_typed(tmp_path):
    """In a fresh clone, a fresh environment and a shell of its own: every command, those that install included.

    The time is the processor's: the clock's is about the same where nothing else runs.
    """
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "whet")], check=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["bash", "-e"], input=play.typed(TUTORIAL.read_text()),
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 600
    assert (tmp_path / "first" / "run" / "report.md").exists()


def test_a_page_as_a_script_stops_at_the_first_command_that_ends_otherwise_than_it_says(tmp_path):
    page = (
        '```python title="a.py"\nprint("it\'s", 1)\n```\n```console\n$ python a.py\n$ false  # exit code 1\n{}```\n'
    )
    for end, expected in (("", 0), ("$ true  # exit code 3\n$ touch after\n", 1)):
        done = subprocess.run(
            ["bash", "-e"],
            input=play.typed(page.format(end)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "it's 1" in done.stdout) == (expected, True)
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("$ whet demo --out x\nPASS\n", [("whet demo --out x", [0])]),
        ("$ whet run a \\\n    --out b  # exit code 0 or 3\n", [("whet run a      --out b", [0, 3])]),
        ("$ pip install whet\n$ ls\n", [("ls", [0])]),
    ],
)
def test_commands_are_read_from_a_console_block(code, expected):
    assert play.commands(code) == expected


def test_the_site_is_built_without_a_warning(tmp_path):
    """Every page is in the navigation, every link and every name of the API is found."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whet.measure.verdict.Budget" in (tmp_path / "site" / "api" / "index.html").read_text()
