"""The calibrator: an increasing function of the logit, by one of four methods, and an optional shift per segment.

With `z = logit + offset`, the training logit on its natural scale, and `p = sigmoid(z)`, the calibrated logit is

    identity       z
    temperature    z / temperature
    platt          a z + b
    beta           a log p - b log(1 - p) + c,  a and b not negative

and, with segments, this plus the row's segment's shift. The offset is known, never fitted (`qin.prior`).
`beta` holds `identity` (a = b = 1, c = 0), and bends the two tails of the logit differently.

Source: Guo et al. (2017), On calibration of modern neural networks; Platt (1999), Probabilistic outputs for support
vector machines; Kull, Silva Filho and Flach (2017), Beta calibration.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from qin.calibrate.shifts import SegmentShifts
from qin.metrics.logits import Float64Array, FloatArray, row_chunks
from qin.raw.segments import Segments

Method = Literal["temperature", "platt", "beta", "identity"]

PARAMETERS: Mapping[Method, tuple[str, ...]] = {
    "identity": (),
    "temperature": ("temperature",),
    "platt": ("a", "b"),
    "beta": ("a", "b", "c"),
}


@dataclass(frozen=True)
class Calibrator:
    """Maps a training logit to a calibrated one; see the module for the equations.

    Attributes:
        method: which equation.
        parameters: its numbers by name, finite, such that it increases.
        offset: see `prior_offset`.
        segments: shifts by segment, or None.
    """

    method: Method
    parameters: Mapping[str, float]
    offset: float = 0.0
    segments: SegmentShifts | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}: method={self.method!r}")
        if set(self.parameters) != set(PARAMETERS[self.method]):
            raise ValueError(f"method {self.method} has the parameters {PARAMETERS[self.method]}: {self.parameters}")
        for name, value in {**self.parameters, "offset": self.offset}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number: {name}={value!r}")
        self._check_increasing()

    def _check_increasing(self) -> None:
        number = self.parameters
        if self.method == "temperature" and number["temperature"] <= 0.0:
            raise ValueError(f"temperature must be positive: temperature={number['temperature']}")
        if self.method == "platt" and number["a"] <= 0.0:
            raise ValueError(f"a must be positive for platt: a={number['a']}")
        if self.method == "beta" and (min(number["a"], number["b"]) < 0.0 or number["a"] == number["b"] == 0.0):
            raise ValueError(f"a and b must not be negative for beta, nor both 0: a={number['a']}, b={number['b']}")

    @property
    def temperature(self) -> float | None:
        """The temperature; 1 for `identity`, None where no single number stands for it."""
        return 1.0 if self.method == "identity" else self.parameters.get("temperature")

    @property
    def fits_prior(self) -> bool:
        """Whether it moves the logits to the click rate of the rows it was fitted on; a temperature cannot."""
        return self.method in ("platt", "beta") or self.segments is not None

    def apply(self, logit: FloatArray, segments: Segments | None = None) -> Float64Array:
        """Return the calibrated logits; rows do not influence each other, so any division into calls gives the same.

        Args:
            logit: ndarray of shape (n,), training scale, any float type.
            segments: each row's segment, where the calibrator has shifts; unknown names are shifted by 0.

        Returns:
            float64 ndarray of shape (n,).

        Raises:
            ValueError: segments are missing, or of another length.
        """
        out = np.empty(logit.shape, np.float64)
        for rows, chunk in row_chunks(logit):
            out[rows] = self._curve(chunk + self.offset)
        if self.segments is not None:
            if segments is None or segments.code.shape != logit.shape:
                raise ValueError(f"the calibrator needs the {self.segments.column} of each of {logit.size} rows")
            out += self.segments.of_rows(segments)
        return out

    def _curve(self, z: Float64Array) -> Float64Array:
        number = self.parameters
        match self.method:
            case "identity":
                return z
            case "temperature":
                return z / number["temperature"]
            case "platt":
                return number["a"] * z + number["b"]
            case "beta":
                return number["a"] * log_probability(z) + number["b"] * minus_log_complement(z) + number["c"]

    def to_dict(self) -> dict[str, Any]:
        """Return one key per attribute, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibrator":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a value breaks a rule of the class.
        """
        shifts = values["segments"]
        segments = None if shifts is None else SegmentShifts.from_dict(shifts)
        return cls(values["method"], values["parameters"], values["offset"], segments)


def log_probability(z: Float64Array) -> Float64Array:
    """Return `log sigmoid(z)`, beta's first column, without overflow."""
    return -np.logaddexp(0.0, -z)


def minus_log_complement(z: Float64Array) -> Float64Array:
    """Return `-log(1 - sigmoid(z))`, beta's second column, without overflow."""
    return np.logaddexp(0.0, z)
