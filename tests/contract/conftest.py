"""Puts ``tests/files`` on the path, so that contract tests can ``import graphs`` and ``import tiny``."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "files"))
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # TensorFlow reads it once in a process
