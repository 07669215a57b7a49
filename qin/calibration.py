"""From training logits to natural probabilities: exact prior offsets, a fitted temperature, and its judgement.

The order is fixed: `calibrated logit = (logit + offset) / temperature`. The offset undoes what the training set-up did
to the prior and is known, never fitted; a temperature scales towards or away from probability 1/2 and cannot move
the prior back.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qin.artifacts import read_json
from qin.errors import ArtifactError
from qin.logits import BoolArray, Float64Array, FloatArray, IntArray, LabelArray, positive_rows, prior_logit
from qin.metrics import probability_metrics, ranking_metrics
from qin.temperature import fit_temperature

Method = Literal["temperature", "identity"]
Objective = Literal["log_loss", "wll"]
Metrics = dict[str, float | None]

_JUDGE_SALT = 0x43414C4942524154  # "CALIBRAT": other users of the same seed draw other halves


_HEADLINE = ("ap", "log_loss", "wll")

# Offsets


def prior_offset(*, pos_weight: float, neg_ratio: float, reweighted: bool) -> float:
    """Return what to add to a training logit so that it is on the natural scale.

    Weighting positives by `pos_weight` multiplies the fitted odds by it. Keeping a share `neg_ratio` of the negatives
    divides them by it, unless each kept negative was weighted by `1 / neg_ratio`.

    Args:
        pos_weight: weight of a positive in the loss; 1 for none.
        neg_ratio: share of negatives kept in training, in (0, 1].
        reweighted: whether the kept negatives carried the weight `1 / neg_ratio`.

    Raises:
        ValueError: `pos_weight` is not positive and finite, or `neg_ratio` is not in (0, 1].

    Source: King and Zeng (2001), Logistic regression in rare events data, equation 7.
    """
    if not 0.0 < pos_weight < math.inf:
        raise ValueError(f"pos_weight must be positive and finite: {pos_weight=}")
    if not 0.0 < neg_ratio <= 1.0:
        raise ValueError(f"neg_ratio must lie in (0, 1]: {neg_ratio=}")
    return (0.0 if reweighted else math.log(neg_ratio)) - math.log(pos_weight)


def shift_prior(logit: FloatArray, *, base_rate: float, prior: float | Literal["natural", "balanced"]) -> Float64Array:
    """Move natural logits to another prior: `logit + logit(prior) - logit(base_rate)`.

    Args:
        logit: ndarray of shape (n,), calibrated at `base_rate`.
        base_rate: click rate that the logits are calibrated to.
        prior: `natural` changes nothing, `balanced` is 0.5 (it minimises WLL), a number is the click rate to assume.

    Raises:
        ValueError: `base_rate` or a numeric `prior` is not strictly between 0 and 1, or `prior` is another word.

    Source: Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a priori
    probabilities, equation 4.
    """
    base_logit = prior_logit(base_rate)
    if isinstance(prior, str):
        if prior not in ("natural", "balanced"):
            raise ValueError(f"prior must be natural, balanced or a number: {prior=}")
        shift = 0.0 if prior == "natural" else -base_logit
    else:
        shift = prior_logit(prior) - base_logit
    return logit.astype(np.float64) + shift


# The calibrator


@dataclass(frozen=True)
class Calibrator:
    """Maps a training logit to a calibrated one: `(logit + offset) / temperature`.

    Attributes:
        method: how `temperature` came about; `identity` fits nothing and has temperature 1.
        temperature: positive and finite.
        offset: see `prior_offset`.
    """

    method: Method
    temperature: float
    offset: float

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}: method={self.method!r}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite: temperature={self.temperature}")
        if self.method == "identity" and self.temperature != 1.0:
            raise ValueError(f"method identity must have temperature 1: temperature={self.temperature}")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite: offset={self.offset}")

    def apply(self, logit: FloatArray) -> Float64Array:
        """Return the calibrated logits, float64, of the same shape."""
        return (logit.astype(np.float64) + self.offset) / self.temperature

    def to_dict(self) -> dict[str, str | float]:
        """Return `method`, `temperature` and `offset`, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibrator":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a key is missing or unknown, or a value breaks a rule of the class.
        """
        _check_keys(values, cls)
        for name in ("temperature", "offset"):
            if isinstance(values[name], bool) or not isinstance(values[name], int | float):
                raise ValueError(f"{name} must be a number: {name}={values[name]!r}")
        return cls(values["method"], float(values["temperature"]), float(values["offset"]))


def _check_keys(values: Mapping[str, Any], record: type) -> None:
    names = {field.name for field in fields(record)}
    missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
    if missing or unknown:
        raise ValueError(f"{record.__name__} must have exactly the keys {sorted(names)}: {missing=}, {unknown=}")


# Fit and judge


@dataclass(frozen=True)
class CalibrationReport:
    """What `artifacts/temperature.json` holds: the deployed calibrator, and its judgement on rows it did not see.

    Attributes:
        method: see `Calibrator`.
        temperature: fitted on every validation row; this is the one to deploy.
        offset: see `prior_offset`.
        parameters: what was fitted: `inverse_temperature`, or nothing for `identity`.
        standard_errors: of `temperature` and `inverse_temperature`; empty for `identity`.
        judged_temperature: fitted on the fit half only; `after` belongs to it.
        objective: the loss that was minimised.
        base_rates: click rates: `train`, `validation`, `fit_half`, `judge_half`.
        num_rows: rows: `validation`, `fit_half`, `judge_half`.
        before: metrics of the judge half from the training logits as they are.
        after: metrics of the judge half from `(logit + offset) / judged_temperature`.
    """

    method: Method
    temperature: float
    offset: float
    parameters: dict[str, float]
    standard_errors: dict[str, float]
    judged_temperature: float
    objective: Objective
    base_rates: dict[str, float]
    num_rows: dict[str, int]
    before: Metrics
    after: Metrics

    @property
    def calibrator(self) -> Calibrator:
        """The calibrator to deploy."""
        return Calibrator(self.method, self.temperature, self.offset)

    def to_dict(self) -> dict[str, Any]:
        """Return one key per attribute, ready for JSON."""
        return asdict(self)

    def headline(self) -> dict[str, Any]:
        """Return what is worth a column in `dvc exp show`; the evaluate stage has the rest."""
        return {
            "temperature": self.temperature,
            "temperature_standard_error": self.standard_errors.get("temperature", 0.0),
            "offset": self.offset,
            "before": {name: self.before[name] for name in _HEADLINE},
            "after": {name: self.after[name] for name in _HEADLINE},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CalibrationReport":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a key is missing or unknown, or the calibrator breaks a rule of its class.
        """
        _check_keys(values, cls)
        names = [field.name for field in fields(Calibrator)]
        calibrator = Calibrator.from_dict({name: values[name] for name in names})
        return cls(**{**values, **calibrator.to_dict()})


def check_objective(*, method: Method, objective: Objective) -> None:
    """Refuse an objective that the method cannot meet.

    Raises:
        ValueError: `method` or `objective` is unknown, or `temperature` is asked to minimise `wll`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}: {method=}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {get_args(Objective)}: {objective=}")
    if (method, objective) == ("temperature", "wll"):
        raise ValueError(
            "objective wll with method temperature diverges on the natural prior: WLL is least at the balanced "
            "prior, which a temperature can only approach by flattening every probability to 0.5. "
            "Fit log_loss and set predict.prior to balanced instead"
        )


def judge_half(row_number: IntArray, *, seed: int) -> BoolArray:
    """Draw about half of the rows by a seeded hash of their number, whatever their order.

    Args:
        row_number: int64 ndarray of shape (n,), the rows' numbers in the raw file.
        seed: the run's seed, in [0, 2**64).

    Returns:
        bool ndarray of shape (n,), true for the rows that judge and false for those that fit.

    Raises:
        ValueError: `row_number` does not hold integers, or `seed` is out of range.
    """
    if not np.issubdtype(row_number.dtype, np.integer):
        raise ValueError(f"row_number must hold integers: {row_number.dtype=}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64): {seed=}")
    key = _splitmix64(np.array([seed], dtype=np.uint64) ^ np.uint64(_JUDGE_SALT))
    in_half: BoolArray = _splitmix64(row_number.astype(np.uint64) ^ key) >> np.uint64(63) == 1
    return in_half


def _splitmix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit words. Source: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def fit_and_judge(
    logit: FloatArray,
    label: LabelArray,
    *,
    judge: BoolArray,
    train_base_rate: float,
    method: Method = "temperature",
    objective: Objective = "log_loss",
    offset: float = 0.0,
) -> CalibrationReport:
    """Fit on one half of the validation rows, judge on the other, then refit on all of them for deployment.

    Args:
        logit: ndarray of shape (n,), training scale, every row of the validation fold.
        label: ndarray of shape (n,) in {0, 1}.
        judge: bool ndarray of shape (n,), true for the rows to judge on; see `judge_half`.
        train_base_rate: natural click rate of the train fold.
        method: `temperature`, or `identity` to apply the offset alone.
        objective: only `log_loss` can be fitted; see `check_objective`.
        offset: see `prior_offset`.

    Raises:
        ValueError: see `check_objective`, `fit_temperature` and `qin.logits.positive_rows`, which hold for either half.
    """
    check_objective(method=method, objective=objective)
    if judge.shape != label.shape or judge.dtype != np.bool_:
        raise ValueError(f"judge must be a mask over the labels: {judge.shape=}, {judge.dtype=}, {label.shape=}")
    is_positive = positive_rows(logit, label)
    positive_rows(logit[judge], label[judge])
    positive_rows(logit[~judge], label[~judge])
    judged, _ = _fit(logit[~judge], label[~judge], method=method, offset=offset)
    deployed, standard_errors = _fit(logit, label, method=method, offset=offset)
    return CalibrationReport(
        method=method,
        temperature=deployed.temperature,
        offset=offset,
        parameters={"inverse_temperature": 1.0 / deployed.temperature} if standard_errors else {},
        standard_errors=standard_errors,
        judged_temperature=judged.temperature,
        objective=objective,
        base_rates={
            "train": train_base_rate,
            "validation": float(is_positive.mean()),
            "fit_half": float(is_positive[~judge].mean()),
            "judge_half": float(is_positive[judge].mean()),
        },
        num_rows={
            "validation": label.size,
            "fit_half": int(np.count_nonzero(~judge)),
            "judge_half": int(np.count_nonzero(judge)),
        },
        before=_all_metrics(logit[judge], label[judge], base_rate=train_base_rate),
        after=_all_metrics(judged.apply(logit[judge]), label[judge], base_rate=train_base_rate),
    )


def _fit(logit: FloatArray, label: LabelArray, *, method: Method, offset: float) -> tuple[Calibrator, dict[str, float]]:
    if method == "identity":
        return Calibrator(method, 1.0, offset), {}
    fit = fit_temperature(logit.astype(np.float64) + offset, label)
    relative_error = fit.standard_error / fit.temperature
    errors = {"temperature": fit.standard_error, "inverse_temperature": relative_error / fit.temperature}
    return Calibrator(method, fit.temperature, offset), errors


def _all_metrics(logit: FloatArray, label: LabelArray, *, base_rate: float) -> Metrics:
    return {**ranking_metrics(logit, label), **probability_metrics(logit, label, base_rate=base_rate)}


def read_calibration(path: Path) -> CalibrationReport:
    """Read what the calibrate stage wrote.

    Raises:
        ArtifactError: If it is missing, damaged, or breaks a rule.
    """
    try:
        return CalibrationReport.from_dict(read_json(path))
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
