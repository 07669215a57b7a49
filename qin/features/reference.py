"""What the rows looked like that a model was fitted on, so that a new file can be compared with them.

1. Buckets that the fitted rows hold, by vocabulary: the rows of the embedding table that were trained.
2. The share of the validation fold's values whose bucket the train fold did not hold, which is how much was new where
   the model's figures were measured.
3. Shares of nulls, lengths of histories, and of numeric fields the tenths and moments of their signed log, from rows
   evenly spaced among the fitted ones.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.buckets import FIRST_VALUE_BUCKET, NULL_BUCKET, PADDING_BUCKET
from qin.columns.schema import Field, Schema
from qin.features.drift import bin_counts, tenths
from qin.features.scale import signed_log
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json, write_exact_json
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, VALIDATION, Folds

REFERENCE = "reference.json"
FORMAT = 1

_CHUNK_ROWS = 65536
_SAMPLED_ROWS = 65536  # of numbers: a tenth is off by 0.1% of the rows
_MOST_FILLED = 0.9  # of a vocabulary: in a fuller one most new values look like known ones

Mask = npt.NDArray[np.bool_]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Numbers:
    """A numeric field of the fitted rows.

    Attributes:
        null_share: Rows without a value.
        mean: Of the signed log.
        std: Of the signed log.
        cuts: Tenths of the signed log, equal ones once.
        counts: Rows between them.
    """

    null_share: float
    mean: float
    std: float
    cuts: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """What the fitted rows looked like.

    Attributes:
        num_rows: Fitted rows.
        num_held: Rows of the validation fold.
        used: Buckets that they hold, by vocabulary, `(num_buckets,)`.
        new_share: Share of the validation fold's values that the train fold did not hold, by field; None where the
            vocabulary is too full to tell.
        null_share: Share of rows without a value, by categorical field, or with an empty history, by sequence.
        mean_length: Of each sequence, as far as it is kept.
        numbers: By numeric field.
    """

    num_rows: int
    num_held: int
    used: dict[str, Mask]
    new_share: dict[str, float | None]
    null_share: dict[str, float]
    mean_length: dict[str, float]
    numbers: dict[str, Numbers]

    @property
    def num_sampled(self) -> int:
        """Rows that the numbers are taken from."""
        return min(self.num_rows, _SAMPLED_ROWS)

    def write(self, folder: Path) -> None:
        """Write it as one file into an existing folder."""
        packed = {
            name: {"size": used.size, "bits": base64.b64encode(np.packbits(used).tobytes()).decode()}
            for name, used in self.used.items()
        }
        plain = {
            name: getattr(self, name) for name in ("num_rows", "num_held", "new_share", "null_share", "mean_length")
        }
        numbers = {name: asdict(one) for name, one in self.numbers.items()}
        write_exact_json(folder / REFERENCE, {**plain, "numbers": numbers, "used": packed, "format": FORMAT})

    @classmethod
    def read(cls, folder: Path) -> "Reference":
        """Inverse of `write`.

        Raises:
            ArtifactError: If the file is missing or damaged, or of another version.
        """
        tree = read_exact_json(folder / REFERENCE)
        if tree.pop("format", None) != FORMAT:
            raise ArtifactError(f"{folder / REFERENCE}: of another version; run the train stage again")
        used = {
            name: np.unpackbits(np.frombuffer(base64.b64decode(one["bits"]), np.uint8))[: one["size"]].astype(np.bool_)
            for name, one in tree.pop("used").items()
        }
        numbers = {
            name: Numbers(**{**one, "cuts": tuple(one["cuts"]), "counts": tuple(one["counts"])})
            for name, one in tree.pop("numbers").items()
        }
        return cls(used=used, numbers=numbers, **tree)


class ValueCounter:
    """Counts values of rows, and among them those whose bucket is not one of the known.

    Args:
        schema: Of the prepared rows.
        used: Known buckets, by vocabulary.
    """

    def __init__(self, schema: Schema, used: Mapping[str, Mask]) -> None:
        self._schema, self._used = schema, used
        self.num_rows = 0
        self._values = {field.name: 0 for field in (*schema.categorical, *schema.sequences)}
        self._new = dict(self._values)
        self._null = dict(self._values)

    def update(self, arrays: Arrays) -> None:
        """Add rows, given as the groups of a prepared file."""
        self.num_rows += len(arrays["categorical"])
        for field, column in values_of(self._schema, arrays):
            is_value = column >= FIRST_VALUE_BUCKET
            self._values[field.name] += int(np.count_nonzero(is_value))
            self._new[field.name] += int(np.count_nonzero(is_value & ~self._used[field.vocabulary][column]))
            is_null = (column == PADDING_BUCKET).all(axis=1) if column.ndim > 1 else column == NULL_BUCKET
            self._null[field.name] += int(np.count_nonzero(is_null))

    def new_share(self, field: Field) -> float | None:
        """Share of a field's values that are new, None where it cannot be told.

        A new value takes a known bucket by chance as often as buckets are known, so the share of those that did not is
        divided by the share of free buckets.
        """
        used = self._used[field.vocabulary][FIRST_VALUE_BUCKET:]
        filled = float(used.mean())
        if filled > _MOST_FILLED:
            return None
        found = self._new[field.name] / max(self._values[field.name], 1)
        return min(1.0, found / (1.0 - filled))

    def null_share(self, field: Field) -> float:
        """Share of rows without a value of a field."""
        return self._null[field.name] / max(self.num_rows, 1)

    def mean_length(self, field: Field) -> float:
        """Values of a sequence per row."""
        return self._values[field.name] / max(self.num_rows, 1)


def values_of(schema: Schema, arrays: Arrays) -> Iterator[tuple[Field, npt.NDArray[Any]]]:
    """Each field that has buckets, with those of rows: `(n,)`, or of a sequence `(n, max_len)`."""
    yield from zip(schema.categorical, arrays["categorical"].T, strict=True)
    for field in schema.sequences:
        yield field, arrays[f"sequence.{field.name}"]


def fit_reference(reader: ShardReader, fold: Folds, *, with_validation: bool) -> Reference:
    """Look at the fitted rows, in bounded memory: one pass over each fold, and one over a sample's numbers.

    Args:
        reader: Prepared train file.
        fold: Of each row, `(num_rows,)`.
        with_validation: Whether the validation fold was fitted as well.
    """
    schema, is_train, is_held = reader.schema, fold == TRAIN, fold == VALIDATION
    is_fitted = is_train | is_held if with_validation else is_train
    used = {name: np.zeros(size, np.bool_) for name, size in schema.vocabularies.items()}
    groups = ("categorical", *(f"sequence.{field.name}" for field in schema.sequences))
    fitted, held = ValueCounter(schema, used), ValueCounter(schema, used)
    for arrays in chunks(reader, is_train, groups=groups):
        _mark(schema, arrays, used)
        fitted.update(arrays)
    # From here on `used` stays the train fold's: by it `held` counts what is new.
    known = {name: column.copy() for name, column in used.items()}
    for arrays in chunks(reader, is_held, groups=groups):
        held.update(arrays)
        if with_validation:
            _mark(schema, arrays, known)
            fitted.update(arrays)
    fields = (*schema.categorical, *schema.sequences)
    return Reference(
        num_rows=fitted.num_rows,
        num_held=held.num_rows,
        used=known,
        new_share={field.name: held.new_share(field) for field in fields},
        null_share={field.name: fitted.null_share(field) for field in fields},
        mean_length={field.name: fitted.mean_length(field) for field in schema.sequences},
        numbers=_numbers(reader, np.flatnonzero(is_fitted)),
    )


def chunks(
    reader: ShardReader, is_selected: Mask | None = None, *, groups: Sequence[str] | None = None
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The arrays of some rows, or of all, a chunk at a time; of some groups, or of all."""
    names = [group.name for group in reader.groups] if groups is None else groups
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, reader.num_rows)
        wanted = slice(None) if is_selected is None else is_selected[start:stop]
        yield {name: reader.read(name, start, stop)[wanted] for name in names}


def _mark(schema: Schema, arrays: Arrays, used: Mapping[str, Mask]) -> None:
    for field, column in values_of(schema, arrays):
        used[field.vocabulary][column.ravel()] = True


def _numbers(reader: ShardReader, rows: npt.NDArray[np.int64]) -> dict[str, Numbers]:
    rows = rows[np.arange(min(rows.size, _SAMPLED_ROWS)) * rows.size // min(rows.size, _SAMPLED_ROWS)]
    is_drawn = np.zeros(reader.num_rows, np.bool_)
    is_drawn[rows] = True
    values = np.concatenate([arrays["numeric"] for arrays in chunks(reader, is_drawn, groups=("numeric",))])
    return {field.name: _numbers_of(column) for field, column in zip(reader.schema.numeric, values.T, strict=True)}


def _numbers_of(column: npt.NDArray[Any]) -> Numbers:
    is_null = np.isnan(column)
    logs = signed_log(column[~is_null])
    if not logs.size:
        return Numbers(float(is_null.mean()), 0.0, 0.0, (), (0,))
    cuts = tenths(logs)
    counts = bin_counts(logs, cuts)
    return Numbers(
        float(is_null.mean()), float(logs.mean()), float(logs.std()), tuple(cuts.tolist()), tuple(counts.tolist())
    )
