"""Whether two TFLite files give the same bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from whet.errors import in_one_line
from whet.models.tflite.flatbuffer import Content
from whet.models.tflite.interpreter import Running

if TYPE_CHECKING:
    from whet.types import Batch


def difference(before: Content, after: Content, batch: Batch, kernels: Iterable[str]) -> str:
    """Run both files and return in what the second differs; empty where it gives the same bits.

    Args:
        before: The file as it was. Kernels in which it does not run (INT8 of float activations that is stored
            sparse does not with XNNPACK) are left out; one has to be left.
        after: The file as it is to be.
        batch: What goes in.
        kernels: Which of LiteRT's to run: see ``KERNELS`` of ``interpreter``.
    """
    compared = 0
    for each in kernels:
        try:
            wanted = Running(bytes(before), each).run(batch)
        except (ValueError, RuntimeError):
            continue
        compared += 1
        try:
            found = Running(bytes(after), each).run(batch)
        except (ValueError, RuntimeError) as error:
            return f"LiteRT ({each} kernels) would not run it any more ({in_one_line(error)})"
        for name, array in wanted.items():
            if not np.array_equal(array, found[name], equal_nan=True):
                return f"output {name!r} would differ in LiteRT ({each} kernels)"
    return "" if compared else "LiteRT does not run it as it is, so that nothing can be compared"
