"""Fitted statistics as files: a table of counts per statistic, and each row's values of the file they were fitted on.

`NNN.npy` holds a statistic's distinct keys, ascending, and their clicks and rows. `columns.bin` holds the
values that the fitted file's own rows were given, one column of float32 after the other, so that any range of rows is
one read per column. `manifest.json` says what they are and what they were made from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.counted import statistic_names
from qin.columns.schema import Schema, differences
from qin.features.columns import ColumnFile
from qin.features.cosines import CosineTable
from qin.features.counting import KeyCounts, Keys
from qin.features.histories import HistoryPair, rates_of_keys
from qin.features.lookups import CosineLookup, HistoryLookup, Lookup, Lookups, ValueLookup
from qin.features.rates import Prior, measure
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import file_crc32, fingerprint, read_array, read_exact_json, write_array, write_exact_json
from qin.shards.files import ShardReader

COLUMNS, MANIFEST = "columns.bin", "manifest.json"
FORMAT = 3
_TABLE = "<u8,<u4,<u4"  # key, clicks, rows
_AGAIN = "run the train stage again"


@dataclass(frozen=True)
class Statistic:
    """Clicks and rows by the value of one categorical field, by the values of two, or by value and history.

    Attributes:
        fields: Names of the fields; of a sequence and a categorical field where `is_history`.
        measures: Those of `counted.MEASURES` that are used, or of `counted.COSINES`.
        num_keys: Distinct keys of its table; 0 before it is fitted.
        crc32: Checksum of its table's file.
        is_history: Whether each item of the history makes a pair with the value; see `histories`.
        user: Field that names whose histories are compared, where the measures are cosines; see `cosines`.
    """

    fields: tuple[str, ...]
    measures: tuple[str, ...]
    num_keys: int = 0
    crc32: int = 0
    is_history: bool = False
    user: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its numeric fields."""
        return statistic_names(self.fields, self.measures)


@dataclass(frozen=True)
class Table:
    """A statistic's counts.

    Attributes:
        keys: Distinct keys, ascending, `(num_keys,)`.
        counts: Of each key.
    """

    keys: Keys
    counts: KeyCounts

    def write(self, path: Path) -> int:
        """Write one array of keys with their counts, and return the file's checksum."""
        table = np.empty(self.keys.size, _TABLE)
        table["f0"], table["f1"], table["f2"] = self.keys, *self.counts
        return write_array(path, table)

    @classmethod
    def read(cls, path: Path, *, num_keys: int, crc32: int) -> "Table":
        """Inverse of `write`.

        Raises:
            ArtifactError: If the file is missing or damaged.
        """
        table = read_array(path, crc32=crc32, dtype=_TABLE, shape=(num_keys,), stage="train")
        columns = [np.ascontiguousarray(table[name]) for name in ("f0", "f1", "f2")]
        return cls(columns[0], KeyCounts(columns[1], columns[2]))


class KeyMaker:
    """Makes the keys of a statistic from buckets.

    Args:
        schema: The prepared file's.
        fields: One or two categorical fields.
    """

    def __init__(self, schema: Schema, fields: Sequence[str]) -> None:
        position = {field.name: column for column, field in enumerate(schema.categorical)}
        self.columns = [position[name] for name in fields]
        self.num_buckets = [schema.categorical[column].num_buckets for column in self.columns]

    def __call__(self, buckets: Sequence[npt.NDArray[Any]]) -> Keys:
        """Keys `(n,)` from the buckets of each field, `(n,)` each; bucket numbers stay below 2^31, so pairs fit."""
        key = buckets[0].astype(np.uint64)
        for column, num_buckets in zip(buckets[1:], self.num_buckets[1:], strict=True):
            key *= np.uint64(num_buckets)
            key += column.astype(np.uint64)
        return key


def write_manifest(
    folder: Path,
    statistics: Sequence[Statistic],
    *,
    reader: ShardReader,
    prior: Prior,
    num_fitted: int,
    origin: Origin | None,
) -> None:
    """Describe the tables and columns that lie in the folder.

    Args:
        folder: Has a table for each statistic, in their order, and the columns.
        statistics: Those that are used.
        reader: The file they were fitted on.
        prior: What rates are smoothed towards.
        num_fitted: Rows they were fitted on.
        origin: What they are made from.
    """
    manifest = {
        "format": FORMAT,
        "statistics": [asdict(statistic) for statistic in statistics],
        "prior": asdict(prior),
        "num_fitted": num_fitted,
        "num_rows": reader.num_rows,
        "prepared": fingerprint(reader.manifest),
        "encoding": _encoding(reader.schema).to_json(),
        "columns_crc32": file_crc32(folder / COLUMNS),
        **origin_entry(origin),
    }
    write_exact_json(folder / MANIFEST, manifest)


def table_file(number: int) -> str:
    """Name of a statistic's table."""
    return f"{number:03d}.npy"


class Statistics:
    """Fitted statistics, to read of the file they were fitted on or to look up for another.

    Args:
        folder: Written by `statistics.fit_statistics`.
        tables_alone: Whether to look up only, for which the stored values of the fitted rows need not be there.

    Raises:
        ArtifactError: If a file is missing, damaged or of another format.
    """

    def __init__(self, folder: Path, *, tables_alone: bool = False) -> None:
        self.folder = folder
        self._manifest = read_exact_json(folder / MANIFEST)
        if self._manifest.get("format") != FORMAT:
            raise ArtifactError(f"{folder / MANIFEST}: format {self._manifest.get('format')!r}, expected {FORMAT}")
        self.statistics = tuple(
            Statistic(tuple(tree.pop("fields")), tuple(tree.pop("measures")), **tree)
            # Copies: what is popped must stay in the manifest, whose fingerprint names the content.
            for tree in map(dict, self._manifest["statistics"])
        )
        self.names = tuple(name for statistic in self.statistics for name in statistic.names)
        self._encoding = Schema.from_json(self._manifest["encoding"])
        self._num_fitted: int = self._manifest["num_fitted"]
        self._prior = Prior(**self._manifest["prior"])
        self._columns = ColumnFile(folder / COLUMNS, self._manifest["num_rows"], len(self.names))
        if not tables_alone:
            self._check_size()

    def _check_size(self) -> None:
        size = _size(self.folder / COLUMNS)
        if size != self._columns.num_bytes:
            raise ArtifactError(
                f"{self.folder / COLUMNS}: has {size} bytes, which is not what its manifest says; {_AGAIN}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """A name for their content."""
        return fingerprint(self._manifest)

    def verify(self) -> None:
        """Compare all checksums.

        Raises:
            ArtifactError: Naming the file that is damaged or missing.
        """
        if file_crc32(self.folder / COLUMNS) != self._manifest["columns_crc32"]:
            raise ArtifactError(f"{self.folder / COLUMNS}: damaged; {_AGAIN}")
        for number in range(len(self.statistics)):
            self._table(number)

    def check_schema(self, schema: Schema, *, place: Path) -> None:
        """Check that rows are encoded as the fitted ones were.

        Args:
            schema: Of the rows.
            place: Where they, or what reads them, lie, for messages.

        Raises:
            ArtifactError: If they are not.
        """
        found = _encoding(schema)
        if found != self._encoding:
            names = differences(self._encoding, found)
            raise ArtifactError(f"{place}: not encoded as the model was trained; different: {names}")

    def is_fitted_on(self, reader: ShardReader) -> bool:
        """Whether this is the file whose values are stored."""
        # By content, so that a copy of the prepared file elsewhere is the file that it was fitted on.
        return bool(fingerprint(reader.manifest) == self._manifest["prepared"])

    def read_stored(self, start: int, out: npt.NDArray[np.float32]) -> None:
        """Fill `out (n, num_names)` with the stored values of the rows from `start` on.

        Raises:
            ArtifactError: If the file has been truncated since.
        """
        self._columns.read_into(start, out)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of a prepared file that looking up reads."""
        histories = [f"sequence.{statistic.fields[0]}" for statistic in self.statistics if statistic.is_history]
        return ("categorical", *dict.fromkeys(histories))

    def look_up(self, arrays: Mapping[str, npt.NDArray[Any]], out: npt.NDArray[np.float32]) -> None:
        """Fill `out (n, num_names)` for rows of another file by their `groups`, `(n, width)` each."""
        self._all.fill(arrays, out)

    @cached_property
    def _all(self) -> Lookups:
        by_value = [statistic for statistic in self.statistics if not statistic.is_history]
        num_values = sum(len(statistic.measures) * (statistic.num_keys + 1) for statistic in by_value)
        num_keys = sum(statistic.num_keys for statistic in by_value)
        return Lookups(self.lookups(), num_keys=num_keys, num_values=num_values)

    def lookups(self) -> Iterator[Lookup]:
        """What looks each statistic up, in order."""
        for number, statistic in enumerate(self.statistics):
            table = self._table(number)
            if statistic.is_history:
                pair = HistoryPair.of(self._encoding, *statistic.fields)
                if statistic.user:
                    cosines = CosineTable.of_keys(table.keys, table.counts, num_values=int(pair.num_values))
                    yield CosineLookup(pair, cosines, statistic.measures)
                else:
                    yield HistoryLookup(pair, rates_of_keys(table.keys, table.counts, self._prior))
                continue
            make_keys, rows_so_far = KeyMaker(self._encoding, statistic.fields), np.array([self._num_fitted])
            values = [measure(name, table.counts, rows_so_far, self._prior) for name in statistic.measures]
            nothing = np.zeros(1, np.float32)
            # Last, where a key that is not found points.
            with_nothing = [np.append(column, nothing) for column in values]
            yield ValueLookup(make_keys.columns, make_keys.num_buckets, table.keys, with_nothing)

    def _table(self, number: int) -> Table:
        statistic = self.statistics[number]
        return Table.read(self.folder / table_file(number), num_keys=statistic.num_keys, crc32=statistic.crc32)


def _encoding(schema: Schema) -> Schema:
    """What of a schema decides the buckets, which are all that statistics read."""
    return replace(schema, fields=(*schema.categorical, *schema.sequences))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: file not found; run the train stage") from error
