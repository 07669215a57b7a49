"""The submission: probabilities in the order of the sample submission."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from qin.runtime.files import atomic_file, csv_text

_WRITE_ROWS = 65536  # at a time, whatever the chunks of the ids
_SPECIAL = '[,"\\r\\n]'


def write_submission(
    path: Path, *, header: list[str], ids: pa.ChunkedArray, probability: npt.NDArray[np.float64]
) -> None:
    """Write the CSV, probabilities as the shortest text that gives back their 32-bit value.

    Ids are quoted only if one of them must be; Arrow's style `needed` alone would quote all text.
    """
    must_quote = pc.any(pc.match_substring_regex(ids, _SPECIAL)).as_py()
    with atomic_file(path) as staging, staging.open("wb") as file:
        # By hand, because Arrow would quote every name.
        file.write(csv_text([header]).encode())
        options = pacsv.WriteOptions(include_header=False, quoting_style="needed" if must_quote else "none")
        for start, part in _slices(ids):
            values = pa.array(probability[start : start + len(part)].astype(np.float32))
            pacsv.write_csv(pa.record_batch([part, values], names=header), file, options)


def _slices(ids: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    for start in range(0, len(ids), _WRITE_ROWS):
        yield start, ids.slice(start, _WRITE_ROWS).combine_chunks()
