"""The scale on which the model sees a number."""

import numpy as np
import numpy.typing as npt


def signed_log(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return `sign(x) * log(1 + |x|)` in float64; NaN stays NaN."""
    wide = x.astype(np.float64)
    return np.copysign(np.log1p(np.abs(wide)), wide)
