"""A LightGBM model that scores, through the library's C interface.

LightGBM's Python package imports scikit-learn, SciPy and pandas where they are installed, 1.2 seconds of CPU time that
a stage pays before it scores a row. Only what fits trees needs that package; the library lies beside it.
"""

import ctypes
import importlib.util
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDERS = ("lib", "bin", "..")  # where builds of the package put it
_SUFFIXES = (".so", ".dylib", ".dll")
# As its C header numbers them; -1 stands for the trees that there are.
_FLOAT64, _ROW_MAJOR, _RAW_SCORE, _ALL_TREES = 1, 1, 1, -1


class Forest:
    """Fitted trees, ready to score; several threads may use it at once.

    Args:
        text: The model as LightGBM writes it.

    Raises:
        ValueError: If the text is no model of this version.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        handle, num_rounds = ctypes.c_void_p(), ctypes.c_int()
        _call("LGBM_BoosterLoadModelFromString", text.encode(), ctypes.byref(num_rounds), ctypes.byref(handle))
        self._handle, self.num_rounds = handle, num_rounds.value
        # Not `__del__`, which at the end of the process may find the library's functions gone.
        weakref.finalize(self, _library().LGBM_BoosterFree, handle)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the text again."""
        return Forest, (self.text,)

    def predict(self, matrix: npt.NDArray[np.float64], *, num_threads: int) -> npt.NDArray[np.float64]:
        """Logits `(n,)` of rows `(n, columns)`.

        Raises:
            ValueError: If the trees were fitted on another number of columns.
        """
        rows, out, num_written = np.ascontiguousarray(matrix, np.float64), np.empty(len(matrix)), ctypes.c_int64()
        if not len(rows):
            return out
        _call(
            "LGBM_BoosterPredictForMat",
            self._handle,
            rows.ctypes.data_as(ctypes.c_void_p),
            *(ctypes.c_int(_FLOAT64), ctypes.c_int32(rows.shape[0]), ctypes.c_int32(rows.shape[1])),
            *(ctypes.c_int(_ROW_MAJOR), ctypes.c_int(_RAW_SCORE), ctypes.c_int(0), ctypes.c_int(_ALL_TREES)),
            f"num_threads={num_threads}".encode(),
            ctypes.byref(num_written),
            out.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        )
        assert num_written.value == len(out), "one logit a row"
        return out


@cache
def _library() -> ctypes.CDLL:
    """LightGBM's library, which the package loads from the same file.

    Raises:
        ImportError: If it is not there.
    """
    package = importlib.util.find_spec("lightgbm")  # which imports nothing
    places = [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
    for folder in (place / name for place in places for name in _FOLDERS):
        for suffix in _SUFFIXES:
            path = folder / f"lib_lightgbm{suffix}"
            if path.is_file():
                library = ctypes.CDLL(str(path))
                # Or ctypes would take the pointer for an int and cut it to 32 bits.
                library.LGBM_GetLastError.restype = ctypes.c_char_p
                return library
    raise ImportError(f"LightGBM's library is in none of {', '.join(map(str, places)) or 'the packages'}")


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the library, which gives 0 where all is well."""
    library = _library()
    if library[name](*arguments):
        raise ValueError(library.LGBM_GetLastError().decode("utf-8", "replace"))
