"""What a folder of artifacts deploys: members, statistics, calibrator, and what of the settings scoring needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from qin.calibrate.members import read_blends
from qin.calibrate.report import CalibrationReport, read_calibrations
from qin.columns.schema import Schema
from qin.config import ImpressionParams
from qin.errors import ArtifactError
from qin.features.artifact import Statistics
from qin.features.derived import Impressions
from qin.members import Members
from qin.metrics.logits import sigmoid
from qin.prior import OutputPrior, shift_prior
from qin.raw.segments import segments_of
from qin.runtime import paths
from qin.runtime.chain import Artifact, check_links, read_artifact
from qin.runtime.files import fingerprint
from qin.serving.columns import Column, columns_of, problems_of
from qin.serving.encoding import BATCH_ROWS, RowEncoder, without_statistics
from qin.shards.loader import Batch

Tabular = TypeVar("Tabular", pa.Table, pa.RecordBatch)

_ALWAYS = (paths.STATISTICS, paths.BLEND, paths.CALIBRATOR)
_LEFT_OUT = ("data.drop", "data.ignore")
_NAMED = ("data.id", "data.label")


@dataclass(frozen=True)
class Deployed:
    """A whole model, as the predict stage would use it.

    Attributes:
        members: What scores.
        statistics: Of the rows that the members were fitted on.
        calibration: From logits to probabilities.
        schema: Of raw rows, with what prepare derives from them.
        impressions: What features of impressions are made of, or None.
        known: Names and globs of columns that the log had and the model does not read.
        version: A name for the content of all of it.
        settings: That it was made with, by dotted key.
    """

    members: Members
    statistics: Statistics
    calibration: CalibrationReport
    schema: Schema
    impressions: Impressions | None
    known: tuple[str, ...]
    version: str
    settings: Mapping[str, Any]

    @property
    def segment(self) -> str | None:
        """Column whose values the calibrator shifts by."""
        shifts = self.calibration.deployed.segments
        return None if shifts is None else shifts.column

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns that raw rows must have, by name."""
        return columns_of(self.schema, self.impressions, self.segment)

    def problems(self, found: pa.Schema, *, may_miss: bool, name: str) -> list[str]:
        """What is wrong with the columns of rows, a line each; see `problems_of`."""
        fields = self.schema.columns
        return problems_of(found, self.columns, fields, may_miss=may_miss, known=self.known, name=name)

    def completed(self, rows: Tabular) -> Tabular:
        """The columns that are read, in order, of rows without problems; those that are missing are null."""
        for name in self.columns:
            if rows.schema.get_field_index(name) < 0:
                rows = rows.append_column(name, pa.nulls(rows.num_rows))
        return rows.select(list(self.columns))

    def encoder(self, name: str) -> RowEncoder:
        """The encoder of rows that messages call by a name."""
        return RowEncoder(self.schema, self.statistics, self.impressions, name=name)

    def logit(self, batch: Batch, *, num_threads: int) -> npt.NDArray[np.float32]:
        """The members' logits as they are blended, `(n,)`."""
        return self.members.logit_of(batch, batch_size=BATCH_ROWS, num_threads=num_threads)

    def probability(
        self, logit: npt.NDArray[np.float32], segment: pa.Array | None, prior: OutputPrior
    ) -> npt.NDArray[np.float64]:
        """Calibrated probabilities, `(n,)`.

        Args:
            logit: Of the members, `(n,)`.
            segment: The column that the calibrator shifts by, where there is one.
            prior: Base rate of the probabilities.

        Raises:
            ValueError: If it is no prior.
        """
        segments = None if segment is None else segments_of(segment)
        calibrated = self.calibration.deployed.apply(logit, segments)
        return sigmoid(shift_prior(calibrated, base_rate=self.calibration.base_rate, prior=prior))


@dataclass(frozen=True)
class OnCpu:
    """How a scorer computes; see `qin.model.build.Computing`.

    Attributes:
        num_threads: Threads of the trees.
        precision: Of the network's products.
        device: A scorer uses the CPU.
    """

    num_threads: int
    precision: str
    device: str = "cpu"


def read_deployed(folder: Path, *, num_threads: int, precision: str | None) -> Deployed:
    """Read a folder of artifacts and check that they belong together.

    Args:
        folder: `artifacts` of a repository, or a copy of it.
        num_threads: To score with.
        precision: Of the network's products; None for that of the predict stage, which is recorded.

    Raises:
        ArtifactError: If a file is missing or damaged, or they are of different runs.
    """
    artifacts = [_artifact(place, folder) for place in _ALWAYS]
    settings = artifacts[-1].origin.settings
    computing = OnCpu(num_threads, precision or settings.get("train.precision", "auto"))
    _check_alone(folder)
    members = Members.read(folder, computing)
    used = [name for name, member in members.blend.members.items() if member.weight]
    artifacts += [_artifact(paths.MEMBERS[name], folder) for name in used]
    check_links(artifacts)
    statistics = Statistics(folder / paths.STATISTICS.name, tables_alone=True)
    schema = without_statistics(members.schema)
    statistics.check_schema(schema, place=folder)
    try:
        impressions = Impressions.of(schema, ImpressionParams.model_validate(settings["features.impression"]))
        known = [name for key in _LEFT_OUT for name in settings[key]] + [settings[key] for key in _NAMED]
    except (KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{folder}: of another version; run `dvc repro`") from error
    return Deployed(
        members=members,
        statistics=statistics,
        calibration=read_calibrations(folder / paths.CALIBRATOR.name)[0],
        schema=schema,
        impressions=impressions,
        known=tuple(known),
        version=fingerprint({artifact.place: artifact.checksum for artifact in artifacts}),
        settings=settings,
    )


def _check_alone(folder: Path) -> None:
    num_folds = len(read_blends(folder / paths.BLEND.name))
    if num_folds > 1:
        raise ArtifactError(
            f"{folder}: made with split.num_folds: {num_folds}; only the predict stage scores with the models of all "
            "folds, a scorer and an export take one: run `dvc repro` with split.num_folds: 1"
        )


def _artifact(place: Path, folder: Path) -> Artifact:
    return read_artifact(place, at=folder / place.name)
