"""An environment where whet is not installed: what a bundle's requirements.txt names, and no more."""

import json
import os
import re
import subprocess
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


class Alone:
    """An environment that has nothing but what a requirements.txt names, and what that needs."""

    def __init__(self, folder, requirements):
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        site = next(folder.glob("lib/python3*/site-packages"))
        for name in needed(requirements):
            for top in tops(name):
                if not (site / top.name).exists():
                    (site / top.name).symlink_to(top)
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(self, *arguments, cwd=None):
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=self.environment, timeout=120, check=False
        )

    def has(self, library):
        return self.run("-c", f"import {library}").returncode == 0

    def answers(self, bundle, *files):
        done = self.run(bundle / "predict.py", *files)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(line["input"] in {str(file) for file in files} for line in lines)
        return [line["answer"] for line in lines]


def needed(requirements):
    """Return the distributions that a requirements.txt asks for, and all that these ask for."""
    found, ask = set(), [Requirement(line) for line in requirements.read_text().split()]
    while ask:
        wanted = ask.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for other systems, such as CUDA's
        found.add(name)
        ask += [Requirement(text) for text in distribution.requires or ()]
    return found


def tops(name):
    """Return the files and folders that a distribution put into site-packages."""
    distribution = metadata.distribution(name)
    names = {Path(str(file)).parts[0] for file in distribution.files or ()}
    site = Path(str(distribution.locate_file("")))
    return [site / top for top in names if top not in ("..", "__pycache__") and (site / top).exists()]
