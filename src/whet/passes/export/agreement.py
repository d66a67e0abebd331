"""Whether an export computes what its source does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import PassError

if TYPE_CHECKING:
    from whet.types import Array


def compare(wanted: Mapping[str, Array], found: Mapping[str, Array], tolerance: float) -> dict[str, Any]:
    """Return the greatest difference of outputs by name, absolute and as a share of the greatest output.

    Raises:
        PassError: It exceeds the tolerance.
    """
    worst = {"max_abs_difference": 0.0, "max_rel_difference": 0.0}
    for name, array in wanted.items():
        want, have = array.astype(np.float64), found[name].astype(np.float64)
        if want.shape != have.shape:
            raise PassError(
                f"for {len(array)} sample(s) the exported model's output {name!r} has shape {list(have.shape)}, "
                f"the source's {list(want.shape)}; the export changed what the model computes"
            )
        alike = (want == have) | (np.isnan(want) & np.isnan(have))
        with np.errstate(invalid="ignore"):
            difference = float(np.where(alike, 0.0, np.abs(have - want)).max(initial=0.0))
        scale = float(np.abs(want).max(initial=0.0, where=np.isfinite(want)))
        share = difference / scale if scale else difference
        if not share <= tolerance:
            raise PassError(
                f"the exported model's output {name!r} is off the source's by {share:.2g} of its greatest value "
                f"(allowed: {tolerance:.2g}); the export changed what the model computes"
            )
        worst["max_abs_difference"] = max(worst["max_abs_difference"], difference)
        worst["max_rel_difference"] = max(worst["max_rel_difference"], share)
    return worst
