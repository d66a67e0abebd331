"""How many samples static quantization is calibrated on, whatever the format."""

from __future__ import annotations

from whet.data.data import Part
from whet.errors import RecipeError
from whet.passes.base import PassContext
from whet.passes.quantize.spec import StaticInt8

_SAMPLES = 512  # at most, where the recipe names no number


def sample_count(request: StaticInt8, context: PassContext) -> int:
    """Return how many samples of ``calibrate`` are run.

    Raises:
        RecipeError: There are no data, or fewer samples than are asked for.
    """
    if context.data is None:
        raise RecipeError("static-int8 calibrates on data, and none was given; give --data, or use dynamic-int8")
    available = context.data.size(Part.CALIBRATE)
    if request.samples > available:
        raise RecipeError(
            f"static-int8 asks for {request.samples} calibration samples, the data has {available}; "
            f"give more, or set samples = {available}"
        )
    return request.samples or min(_SAMPLES, available)
