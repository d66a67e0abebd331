"""Hostile command lines: bounds are checked before any work starts."""

import pytest
from driver import Case

OPTIMIZE = ("optimize", "{here}/good.onnx", "--data", "{here}/good.npz", "--out", "{here}/out")

CASES = [
    Case("max-drop-nan", (*OPTIMIZE, "--max-drop", "nan"), says=("max-drop",)),
    Case("no-such-model", ("bench", "{here}/absent.onnx"), says=("absent.onnx",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile(case, survives):
    survives(case)
