"""The calibrator: an increasing function of the logit, by a method of the table, and an optional shift per segment.

The training logit is brought to its natural scale by a known offset, never fitted (`qin.scored.prior`); the method's
curve (`qin.calibrate.methods`) bends it, and with segments the row's segment's shift is added.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qin.calibrate.methods import METHODS, Method
from qin.calibrate.shifts import SegmentShifts
from qin.metrics.logits import Float64Array, FloatArray, row_chunks
from qin.raw.segments import Segments


@dataclass(frozen=True)
class Calibrator:
    """Maps a training logit to a calibrated one; see `qin.calibrate.methods` for the equations.

    Attributes:
        method: Which curve.
        parameters: Its numbers by name, finite, such that it increases.
        offset: See `prior_offset`.
        segments: Shifts by segment, or None.
    """

    method: Method
    parameters: Mapping[str, float]
    offset: float = 0.0
    segments: SegmentShifts | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {tuple(METHODS)}: method={self.method!r}")
        names = METHODS[self.method].parameters
        if set(self.parameters) != set(names):
            raise ValueError(f"method {self.method} has the parameters {names}: {self.parameters}")
        for name, value in {**self.parameters, "offset": self.offset}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number: {name}={value!r}")
        METHODS[self.method].check(self.parameters)

    @property
    def temperature(self) -> float | None:
        """The temperature; 1 for `identity`, None where no single number stands for it."""
        return 1.0 if self.method == "identity" else self.parameters.get("temperature")

    @property
    def fits_prior(self) -> bool:
        """Whether it moves the logits to the click rate of the rows it was fitted on; a temperature cannot."""
        return METHODS[self.method].fits_prior or self.segments is not None

    def apply(self, logit: FloatArray, segments: Segments | None = None) -> Float64Array:
        """The calibrated logits; rows do not influence each other, so any division into calls gives the same.

        Args:
            logit: `(n,)`, training scale, any float type.
            segments: Each row's segment, where the calibrator has shifts; unknown names are shifted by 0.

        Returns:
            float64 `(n,)`.

        Raises:
            ValueError: Segments are missing, or of another length.
        """
        out = np.empty(logit.shape, np.float64)
        for rows, chunk in row_chunks(logit):
            out[rows] = METHODS[self.method].curve(chunk + self.offset, self.parameters)
        if self.segments is not None:
            if segments is None or segments.code.shape != logit.shape:
                raise ValueError(f"the calibrator needs the {self.segments.column} of each of {logit.size} rows")
            out += self.segments.of_rows(segments)
        return out

    def to_dict(self) -> dict[str, Any]:
        """One key per attribute, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibrator":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A value breaks a rule of the class.
        """
        shifts = values["segments"]
        segments = None if shifts is None else SegmentShifts.from_dict(shifts)
        return cls(values["method"], values["parameters"], values["offset"], segments)


def segment_column(calibrators: Iterable[Calibrator]) -> str | None:
    """The column whose values calibrators of one log's folds shift by; None where none does."""
    return next((shifts.column for shifts in _shifts(calibrators)), None)


def segment_type(calibrators: Iterable[Calibrator]) -> str:
    """The Arrow type that this column had in the train file; empty where none is recorded."""
    return next((shifts.type for shifts in _shifts(calibrators)), "")


def _shifts(calibrators: Iterable[Calibrator]) -> Iterator[SegmentShifts]:
    return (one.segments for one in calibrators if one.segments is not None)
