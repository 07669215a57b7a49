"""Types of the arrays that kernels take; C-contiguous unless a kernel says otherwise."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
FloatArray = Float32Array | Float64Array
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
ProductArray = npt.NDArray[np.float32] | npt.NDArray[np.uint16]  # float32, or bfloat16 by its bits
