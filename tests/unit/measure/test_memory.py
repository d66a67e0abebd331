"""Memory figures of this process, against psutil's and against what was just allocated."""

import subprocess
import sys

import psutil
import pytest

from whet.measure import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@linux
def test_resident_memory_is_what_psutil_sees():
    assert memory._status("VmRSS") == pytest.approx(psutil.Process().memory_info().rss, rel=0.01)


ALLOCATE = """
import numpy as np
from whet.measure import memory
resident, peak = memory._status("VmRSS"), memory._status("VmHWM")
more = peak - resident + 50_000_000
block = np.ones(more, dtype=np.uint8)
held = memory._status("VmRSS")
del block
print(resident, peak, more, held, memory._status("VmHWM"), memory._status("VmRSS"))
"""


@linux
def test_the_peak_remembers_memory_that_was_given_back():
    """In a process of its own: the peak of this one may be gigabytes, which would have to be allocated again."""
    told = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True).stdout
    resident, peak, more, held, highest, after = map(int, told.split())
    assert peak >= 0.99 * resident  # the kernel counts each in lots
    assert held == pytest.approx(resident + more, rel=0.05)
    assert highest == pytest.approx(held, rel=0.02)
    assert after < held - 40_000_000


def test_an_unknown_figure_falls_back_on_the_peak_that_the_system_counts():
    """Which on Linux may be that of the program that started this one."""
    assert 0.99 * memory._status("VmHWM") <= memory._status("VmNothing") < psutil.virtual_memory().total
