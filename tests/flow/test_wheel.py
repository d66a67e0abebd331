"""The wheel: built, installed where there is no clone, it does the demo."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_installs_and_does_the_demo(tmp_path):
    """Libraries are those of this environment; whet is the wheel's."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    installed = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (installed / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    found = run(python, "-c", "import whet; print(whet.__file__)").strip()
    assert Path(found).is_relative_to(installed)
    run(tmp_path / "fresh" / "bin" / "whet", "demo", "--out", "run")
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()
    assert (tmp_path / "run" / "report.md").exists()
