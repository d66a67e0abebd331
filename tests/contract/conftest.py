"""Puts ``tests/files`` on the path, so that contract tests can ``import graphs`` and ``import tiny``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "files"))
