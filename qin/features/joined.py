"""Prepared rows with the statistics of the train fold beside their own numbers."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Field, FieldKind, Schema
from qin.features.artifact import Statistics
from qin.shards.files import Group, ShardReader

_NUMERIC = "numeric"


class JoinedRows:
    """Reads ranges of rows of a prepared file, its group `numeric` widened by the statistics, which come last.

    Those of the file they were fitted on are stored, because a train row must not see its own click; those of any
    other file are looked up by the buckets of its rows. To whoever reads, it is a `ShardReader` with more columns.

    Args:
        reader: The prepared file.
        statistics: Fitted on a file of the same schema.

    Raises:
        ArtifactError: If the file is encoded in another way than the one they were fitted on.
    """

    def __init__(self, reader: ShardReader, statistics: Statistics) -> None:
        statistics.check_schema(reader.schema, place=reader.folder)
        self._reader = reader
        self._statistics = statistics
        self._is_stored = statistics.is_fitted_on(reader)
        self.folder = reader.folder
        self.num_rows = reader.num_rows
        self.schema = with_statistics(reader.schema, statistics.names)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The prepared file's, and which statistics are joined."""
        # Other statistics are other rows: a run's fingerprint is made of this, and must not go on from theirs.
        return {**self._reader.manifest, "statistics": self._statistics.fingerprint}

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the prepared file, in its order."""
        num_added = len(self._statistics.names)
        return tuple(
            replace(group, width=group.width + num_added) if group.name == _NUMERIC else group
            for group in self._reader.groups
        )

    def verify(self) -> None:
        """Check the prepared file and stored statistics; tables are checked when they are read."""
        self._reader.verify()
        if self._is_stored:
            self._statistics.verify()

    def read(self, group: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of a group, as an array `(stop - start, width)`."""
        own = self._reader.read(group, start, stop)
        if group != _NUMERIC:
            return own
        out = np.empty((stop - start, own.shape[1] + len(self._statistics.names)), own.dtype)
        self._fill(start, own, out)
        return out

    def read_into(self, group: str, start: int, out: npt.NDArray[Any]) -> None:
        """Fill `out (num_rows, width)` with its rows from `start` on; see `ShardReader.read_into`."""
        if group != _NUMERIC:
            self._reader.read_into(group, start, out)
        else:
            self._fill(start, self._reader.read(group, start, start + len(out)), out)

    def _fill(self, start: int, own: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        out[:, : own.shape[1]] = own
        added = out[:, own.shape[1] :]
        if self._is_stored:
            self._statistics.read_stored(start, added)
        elif added.size:
            stop = start + len(out)
            arrays = {name: self._reader.read(name, start, stop) for name in self._statistics.groups}
            self._statistics.look_up(arrays, added)


def open_rows(prepared: Path, statistics: Path) -> JoinedRows:
    """The rows of a prepared file with statistics, from their folders.

    Raises:
        ArtifactError: If a file is missing, or they do not fit each other.
    """
    return JoinedRows(ShardReader(prepared), Statistics(statistics))


def with_statistics(schema: Schema, names: tuple[str, ...]) -> Schema:
    """The schema with statistics as its last numeric fields."""
    return replace(
        schema,
        fields=(*schema.categorical, *schema.numeric, *(statistic_field(name) for name in names), *schema.sequences),
    )


def statistic_field(name: str) -> Field:
    """The field of one statistic."""
    return Field(name, FieldKind.NUMERIC, source="statistic")
