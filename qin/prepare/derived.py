"""The numbers that prepare derives of each row, filled in batch by batch; `qin.features.derived` names them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qin.columns.schema import Field, Schema
from qin.features.columns import RowColumns
from qin.features.derived import HITS, IMPRESSION, LENGTH, SHARE, SINCE
from qin.prepare.matches import Matches, match_history
from qin.prepare.tokens import token_rules
from qin.raw.hashing import Hashes

_OwnValues = Mapping[str, tuple[Hashes, npt.NDArray[np.bool_]]]
_Lengths = npt.NDArray[np.int64]


class DerivedNumbers:
    """Fills the derived numeric fields of batches; safe to call from several threads.

    Args:
        schema: With the derived fields.
        seeds: Hash seed of each vocabulary.
        impressions: The features of impressions of the whole file, if there are any.
    """

    def __init__(self, schema: Schema, seeds: Mapping[str, np.uint64], impressions: RowColumns | None) -> None:
        self._position = {field.name: column for column, field in enumerate(schema.numeric)}
        self._histories = [f for f in schema.sequences if f"{f.name}.{LENGTH}" in self._position]
        self._seeds = seeds
        self._impressions = impressions
        # `with_derived` puts them last, in the order in which they are computed: so they are filled as one block.
        self._first_of_impression = sum(field.source != IMPRESSION for field in schema.numeric)

    def fill(
        self,
        first_row: int,
        batch: pa.RecordBatch,
        numeric: npt.NDArray[np.float32],
        *,
        own: _OwnValues,
        lengths: Mapping[str, _Lengths],
    ) -> None:
        """Fill the derived columns of `numeric (num_rows, num_numeric)`.

        Args:
            first_row: Number of the batch's first row in the log.
            batch: The raw columns.
            numeric: What to fill; its other columns stay.
            own: Hashes of each categorical field's values, and which are null.
            lengths: Of each sequence, in tokens.
        """
        for field in self._histories:
            numeric[:, self._position[f"{field.name}.{LENGTH}"]] = lengths[field.name]
            if f"{field.name}.{HITS}" in self._position:
                matches = self.matches(batch, field, own)
                for name, values in _measures(matches, lengths[field.name]).items():
                    numeric[:, self._position[f"{field.name}.{name}"]] = values
        if self._impressions is not None:
            self._impressions.read_into(first_row, numeric[:, self._first_of_impression :])

    def matches(self, batch: pa.RecordBatch, field: Field, own: _OwnValues) -> Matches:
        """The row's own value of the field whose vocabulary a history shares, in that history."""
        rules = token_rules(field, self._seeds[field.vocabulary])
        return match_history(batch.column(field.name), rules, *own[field.vocabulary])


def _measures(matches: Matches, lengths: _Lengths) -> dict[str, npt.NDArray[np.float64]]:
    """NaN where a number has no meaning: without an occurrence, or of an empty history."""
    hits = matches.hits.astype(np.float64)
    return {
        HITS: hits,
        SINCE: steps_since(matches),
        SHARE: np.divide(hits, lengths, out=np.full(hits.size, np.nan), where=lengths > 0),
    }


def steps_since(matches: Matches) -> npt.NDArray[np.float64]:
    """How many tokens follow the last occurrence, `(num_rows,)`, NaN where there is none."""
    return np.where(matches.since < 0, np.nan, matches.since)
