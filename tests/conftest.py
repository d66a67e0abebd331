"""Fixtures that all tests share, and the strict mode of continuous integration.

With ``WHET_STRICT=1`` a test that would be skipped (a framework or the assets are missing) fails instead.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUICK = Path(__file__).parent / "quick"
STRICT = os.environ.get("WHET_STRICT") == "1"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which strict mode forbids: {reason}"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WHET_ASSETS") or ROOT.parent / "shared" / "assets")
    if not (folder / "models" / "zoo.py").exists():
        pytest.skip(f"no real models and data in {folder}; name their folder in WHET_ASSETS")
    return folder


@pytest.fixture(scope="session")
def files() -> Path:
    """The folder of small files that tests use: models and data sets as a user would write them."""
    return Path(__file__).parent / "files"


@pytest.fixture(scope="session", autouse=True)
def quick_clock():
    """Let every child process measure latency in eight short rounds of four openings."""
    patch = pytest.MonkeyPatch()
    inherited = os.environ.get("PYTHONPATH")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(QUICK), *([inherited] if inherited else [])]))
    yield
    patch.undo()


HOSTILE = (
    "traceback", "exit code", "message", "hang", "half-written", "orphan", "changed", "written outside", "control",
)  # fmt: skip


def pytest_terminal_summary(terminalreporter):
    """Count the hostile cases and what went wrong in them, by kind."""
    tables = [
        dict(report.user_properties)["hostile"]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call" and "hostile" in dict(report.user_properties)
    ]
    if tables:
        counts = ", ".join(f"{kind} {sum(kind in found for found in tables)}" for kind in HOSTILE)
        terminalreporter.write_line(f"hostile cases: {len(tables)}; problems: {counts}")
