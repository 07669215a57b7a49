"""What the calibrate stage hands on: the calibrator to deploy, the one that is reported, and how they were found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qin.calibrate.calibrator import Calibrator
from qin.calibrate.fits import LikelihoodRatio, Objective
from qin.runtime.chain import ORIGIN
from qin.runtime.errors import ArtifactError
from qin.runtime.files import check_keys, read_exact_json
from qin.scored.prior import TrainingPrior

Metrics = dict[str, float | None]

FORMAT = 4  # another one is refused, instead of being read as what it is not

_COPIED = ("standard_errors", "objective", "base_rates", "num_rows", "before", "after", "not_fitted")
_FITTED = ("method", "temperature", "parameters", "offset", "segments")
_FILE_KEYS = ("format", *_FITTED, "heldout", "offset_parts", "likelihood_ratio", *_COPIED)
_HEADLINE = ("ap", "log_loss", "wll")
_BIAS_LEVEL = 0.01  # of a warning, which one run in a hundred gets by chance


@dataclass(frozen=True)
class CalibrationReport:
    """What `artifacts/temperature.json` holds.

    Attributes:
        deployed: Fitted on every validation row.
        heldout: Fitted on the selection half only; `after` belongs to it.
        standard_errors: Of the deployed parameters; None for one that its bound holds at 0.
        objective: The loss that was minimised.
        prior: The train fold's click rate, and what training did to it: the parts of the offset.
        base_rates: Click rates: `train`, `validation`, `selection`, `report`.
        num_rows: Rows: `validation`, `selection`, `report`.
        before: Metrics of the report half from the training logits as they are.
        after: Metrics of the report half from the held-out calibrator.
        likelihood_ratio: Of a temperature against a temperature and a bias, on every validation row; None for other
            methods, and where that test does not exist.
        not_fitted: Why this is an identity though another method was asked for; None where it is what was asked for.
    """

    deployed: Calibrator
    heldout: Calibrator
    standard_errors: dict[str, float | None]
    objective: Objective
    prior: TrainingPrior
    base_rates: dict[str, float]
    num_rows: dict[str, int]
    before: Metrics
    after: Metrics
    likelihood_ratio: LikelihoodRatio | None
    not_fitted: str | None = None

    @property
    def base_rate(self) -> float:
        """Click rate that the deployed calibrator's probabilities refer to, for `shift_prior`.

        The validation fold's where the calibrator fits one; otherwise the train fold's, which the model learned.
        """
        return self.base_rates["validation" if self.deployed.fits_prior else "train"]

    @property
    def reports_all(self) -> bool:
        """Whether every validation row is reported, because a half of them lacks a class; nothing was fitted then."""
        return self.num_rows["selection"] == 0

    @property
    def heldout_base_rate(self) -> float:
        """The same for the held-out calibrator."""
        return self.base_rates["selection" if self.heldout.fits_prior else "train"]

    def warnings(self) -> list[str]:
        """What the user should know, a line each."""
        if self.not_fitted is not None:
            return [
                f"warning: the validation fold determines no calibrator: {self.not_fitted}. The model's probabilities "
                "are handed on as they are; calibration.temperature_scaling: false asks for just that"
            ]
        test = self.likelihood_ratio
        if test is None or test.p_value >= _BIAS_LEVEL:
            return []
        return [
            "warning: a temperature alone leaves a bias in the probabilities: with a bias the log-likelihood is "
            f"better by {test.statistic / 2.0:.1f} (p = {test.p_value:.2g}); consider calibration.method: platt"
        ]

    def to_dict(self) -> dict[str, Any]:
        """What the file holds, ready for JSON."""
        deployed, heldout, prior = asdict(self.deployed), asdict(self.heldout), asdict(self.prior)
        del prior["base_rate"]  # it is in `base_rates`
        return {
            "format": FORMAT,
            "method": self.deployed.method,
            "temperature": self.deployed.temperature,
            "parameters": deployed["parameters"],
            "standard_errors": self.standard_errors,
            "offset": self.deployed.offset,
            "offset_parts": prior,
            "objective": self.objective,
            "base_rates": self.base_rates,
            "num_rows": self.num_rows,
            "before": self.before,
            "after": self.after,
            "likelihood_ratio": None if self.likelihood_ratio is None else asdict(self.likelihood_ratio),
            "segments": deployed["segments"],
            "not_fitted": self.not_fitted,
            # Its method and offset are those of the deployed one.
            "heldout": {"parameters": heldout["parameters"], "segments": heldout["segments"]},
        }

    def headline(self) -> dict[str, Any]:
        """What is worth a column in `dvc exp show`, the same keys for every method; evaluate has the rest."""
        test, segments = self.likelihood_ratio, self.deployed.segments
        return {
            "temperature": self.deployed.temperature,
            "temperature_standard_error": self.standard_errors.get("temperature"),
            "offset": self.deployed.offset,
            "likelihood_ratio": {
                "statistic": None if test is None else test.statistic,
                "p_value": None if test is None else test.p_value,
            },
            "segment_tau": None if segments is None else segments.tau,
            "before": {name: self.before[name] for name in _HEADLINE},
            "after": {name: self.after[name] for name in _HEADLINE},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CalibrationReport":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: Another format, a key is missing or unknown, or a calibrator breaks a rule of its class.
        """
        if values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format')!r}, expected {FORMAT}; run the calibrate stage again")
        check_keys(values, _FILE_KEYS)
        check_keys(values["heldout"], ("parameters", "segments"))
        check_keys(values["offset_parts"], ("pos_weight", "neg_ratio", "reweighted"))
        test = values["likelihood_ratio"]
        deployed = Calibrator.from_dict(values)
        if values["temperature"] != deployed.temperature:
            raise ValueError(f"temperature {values['temperature']} is not that of the parameters {deployed.parameters}")
        return cls(
            deployed=deployed,
            heldout=Calibrator.from_dict({**values, **values["heldout"]}),
            prior=TrainingPrior(base_rate=values["base_rates"]["train"], **values["offset_parts"]),
            likelihood_ratio=None if test is None else LikelihoodRatio(**test),
            **{name: values[name] for name in _COPIED},
        )


def read_calibrations(path: Path) -> list[CalibrationReport]:
    """Read what the calibrate stage wrote: the calibration of each fold, or the one that there is.

    Raises:
        ArtifactError: If it is missing, damaged, of another format, or breaks a rule.
    """
    tree = read_exact_json(path)
    tree.pop(ORIGIN, None)  # which stages check before they read the rest
    try:
        return [CalibrationReport.from_dict(one) for one in tree.get("folds", [tree])]
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # where a part has another shape altogether
        raise ArtifactError(f"{path}: {error}") from error


def reported_base_rate(reports: Sequence[CalibrationReport]) -> float:
    """Click rate that the held-out calibrators' probabilities refer to; of several folds, the mean over their rows."""
    if len(reports) == 1:
        return reports[0].heldout_base_rate
    rates, sizes = [one.heldout_base_rate for one in reports], [one.num_rows["report"] for one in reports]
    return float(np.average(rates, weights=sizes))
