"""Memory figures of this process, against psutil's and against what was just allocated."""

import sys

import numpy as np
import psutil
import pytest

from whet.measure import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@linux
def test_resident_memory_is_what_psutil_sees():
    assert memory._status("VmRSS") == pytest.approx(psutil.Process().memory_info().rss, rel=0.01)


@linux
def test_the_peak_remembers_memory_that_was_given_back():
    resident, peak = memory._status("VmRSS"), memory._status("VmHWM")
    assert peak >= 0.99 * resident  # the kernel counts each in lots
    more = peak - resident + 50_000_000
    block = np.ones(more, dtype=np.uint8)
    held = memory._status("VmRSS")
    del block
    assert held == pytest.approx(resident + more, rel=0.05)
    assert memory._status("VmHWM") == pytest.approx(held, rel=0.02)
    assert memory._status("VmRSS") < held - 40_000_000


def test_an_unknown_figure_falls_back_on_the_peak_that_the_system_counts():
    """Which on Linux may be that of the program that started this one."""
    assert 0.99 * memory._status("VmHWM") <= memory._status("VmNothing") < psutil.virtual_memory().total
