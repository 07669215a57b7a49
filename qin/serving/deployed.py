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

from qin.calibrate.calibrator import segment_column, segment_type
from qin.calibrate.folds import averaged, read_deployed_folds
from qin.calibrate.report import CalibrationReport, read_calibrations
from qin.columns.schema import Schema
from qin.config import ImpressionParams
from qin.features.artifact import Statistics
from qin.features.derived import Impressions
from qin.labels.artifacts import artifacts_of
from qin.members import Members
from qin.metrics.logits import sigmoid
from qin.raw.segments import segments_of
from qin.runtime import paths
from qin.runtime.chain import Artifact, check_links, read_artifact
from qin.runtime.errors import ArtifactError
from qin.runtime.files import fingerprint
from qin.runtime.folded import place_of_fold
from qin.scored.prior import OutputPrior, shift_prior
from qin.serving.columns import SEGMENT, Column, columns_of, problems_of
from qin.serving.encoding import BATCH_ROWS, RowEncoder, batches_of_folds, without_statistics
from qin.shards.loader import Batch

Tabular = TypeVar("Tabular", pa.Table, pa.RecordBatch)

_ALWAYS = (paths.STATISTICS, paths.BLEND, paths.CALIBRATOR)
_LEFT_OUT = ("data.drop", "data.ignore")
_NAMED = ("data.id", "data.label")


@dataclass(frozen=True)
class FoldModel:
    """What one fold of a cross-validation deploys, or the only model there is.

    Attributes:
        number: Of the fold; 1 where there are none.
        members: What scores.
        statistics: Of the rows that the members were fitted on.
        calibration: From logits to probabilities.
    """

    number: int
    members: Members
    statistics: Statistics
    calibration: CalibrationReport


@dataclass(frozen=True)
class Deployed:
    """A whole model, as the predict stage would use it.

    Attributes:
        folds: The models that score, whose calibrated logits are averaged; most often there is one.
        schema: Of raw rows, with what prepare derives from them.
        impressions: What features of impressions are made of, or None.
        known: Names and globs of columns that the log had and the model does not read.
        version: A name for the content of all of it.
        settings: That it was made with, by dotted key.
    """

    folds: tuple[FoldModel, ...]
    schema: Schema
    impressions: Impressions | None
    known: tuple[str, ...]
    version: str
    settings: Mapping[str, Any]

    @property
    def segment(self) -> str | None:
        """Column whose values the calibrator shifts by."""
        return segment_column(fold.calibration.deployed for fold in self.folds)

    @property
    def label(self) -> str:
        """Column of the label."""
        return self.schema.label

    @property
    def base_rate(self) -> float:
        """Click rate that probabilities of the natural prior refer to; of several folds the mean."""
        return sum(fold.calibration.base_rate for fold in self.folds) / len(self.folds)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns that raw rows must have, by name."""
        kind = segment_type(fold.calibration.deployed for fold in self.folds)
        segment = None if self.segment is None else Column(self.segment, SEGMENT, kind)
        return columns_of(self.schema, self.impressions, segment)

    def problems(self, found: pa.Schema, *, may_miss: bool, name: str) -> list[str]:
        """What is wrong with the columns of rows, a line each; see `problems_of`."""
        fields = self.schema.columns
        return problems_of(
            found, self.columns, fields, segment=self.segment, may_miss=may_miss, known=self.known, name=name
        )

    def completed(self, rows: Tabular) -> Tabular:
        """The columns that are read, in order, of rows without problems; those that are missing are null."""
        there = set(rows.schema.names)  # Arrow makes a new list of them each time
        for name in self.columns:
            if name not in there:
                rows = rows.append_column(name, pa.nulls(rows.num_rows))
        return rows.select(list(self.columns))

    def encoder(self, name: str) -> RowEncoder:
        """The encoder of rows that messages call by a name."""
        return RowEncoder(self.schema, [fold.statistics for fold in self.folds], self.impressions, name=name)

    def logit(self, batch: Batch, *, num_threads: int) -> npt.NDArray[np.float32]:
        """The members' logits as they are blended, `(n,)`, or `(n, folds)` where there are several folds."""
        views = batches_of_folds(batch, [fold.statistics for fold in self.folds])
        logits = [
            fold.members.logit_of(view, batch_size=BATCH_ROWS, num_threads=num_threads)
            for fold, view in zip(self.folds, views, strict=True)
        ]
        return logits[0] if len(logits) == 1 else np.stack(logits, axis=1)

    def probability(
        self, logit: npt.NDArray[np.float32], segment: pa.Array | None, prior: OutputPrior
    ) -> npt.NDArray[np.float64]:
        """Calibrated probabilities, `(n,)`.

        Args:
            logit: Of the members, as `logit` has them.
            segment: The column that the calibrator shifts by, where there is one.
            prior: Base rate of the probabilities.

        Raises:
            ValueError: If it is no prior.
        """
        segments = None if segment is None else segments_of(segment)
        columns = [logit] if len(self.folds) == 1 else list(logit.T)
        shifted = []
        for fold, column in zip(self.folds, columns, strict=True):
            calibrated = fold.calibration.deployed.apply(column, segments)
            # Each fold by its own base rate, and then the mean, as the predict stage has it.
            shifted.append(shift_prior(calibrated, base_rate=fold.calibration.base_rate, prior=prior))
        return sigmoid(averaged(shifted))


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


def read_deployed(
    folder: Path,
    *,
    num_threads: int,
    precision: str | None,
    num_folds: int | None = None,
    label: str | None = None,
) -> Deployed:
    """Read a folder of artifacts and check that they belong together.

    Args:
        folder: `artifacts` of a repository, or a copy of it.
        num_threads: To score with.
        precision: Of the network's products; None for that of the predict stage, which is recorded.
        num_folds: The models of the first so many folds alone; None for all that are deployed.
        label: Which label's model, where there are several; None for the first.

    Raises:
        ArtifactError: If a file is missing or damaged, or they are of different runs, or there is no such label.
    """
    with artifacts_of(folder, label) as place:
        return _read(place, num_threads=num_threads, precision=precision, num_folds=num_folds)


def _read(folder: Path, *, num_threads: int, precision: str | None, num_folds: int | None) -> Deployed:
    # The calibrator is the last: its origin knows the settings of every stage before it.
    artifacts = [_artifact(place, folder) for place in _ALWAYS]
    settings = artifacts[-1].origin.settings
    computing = OnCpu(num_threads, precision or settings.get("train.precision", "auto"))
    numbers = read_deployed_folds(folder / paths.BLEND.name)[:num_folds]
    folds = tuple(_fold_model(folder, computing, number) for number in numbers)
    weighted = [fold.members.blend.members.items() for fold in folds]
    # A member without a weight is not read, so a copy of the artifacts need not hold it.
    used = dict.fromkeys(name for members in weighted for name, member in members if member.weight)
    artifacts += [_artifact(paths.MEMBERS[name], folder) for name in used]
    check_links(artifacts)
    schema = without_statistics(folds[0].members.schema)
    for fold in folds:
        fold.statistics.check_schema(schema, place=folder)
    try:
        impressions = Impressions.of(schema, ImpressionParams.model_validate(settings["features.impression"]))
        known = [name for key in _LEFT_OUT for name in settings[key]] + [settings[key] for key in _NAMED]
    except (KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{folder}: of another version; run `dvc repro`") from error
    return Deployed(
        folds=folds,
        schema=schema,
        impressions=impressions,
        known=tuple(known),
        # Each checksum covers what its artifact was made from: equal names mean equal scores.
        version=fingerprint({artifact.place: artifact.checksum for artifact in artifacts}),
        settings=settings,
    )


def _fold_model(folder: Path, computing: OnCpu, number: int) -> FoldModel:
    statistics = folder / paths.STATISTICS.name
    if statistics.is_symlink():  # of one label, for the time of reading; tables are read when rows ask for them
        statistics = statistics.resolve()
    tables = place_of_fold(paths.STATISTICS, number, at=statistics)
    return FoldModel(
        number,
        Members.read(folder, computing, fold=number),
        Statistics(tables, tables_alone=True),
        read_calibrations(folder / paths.CALIBRATOR.name)[number - 1],
    )


def _artifact(place: Path, folder: Path) -> Artifact:
    return read_artifact(place, at=folder / place.name)
