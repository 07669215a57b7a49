"""What the network takes from the train fold before it is trained: moments, ends of bins, and which values are rare."""

import numpy as np
import numpy.typing as npt
import torch

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.config import NetworkParams
from qin.features.scale import signed_log
from qin.model.build import resolve_inputs, resolve_preset
from qin.network.numeric import NumericNormalizer
from qin.network.qin import FittedInputs
from qin.runtime.seeds import Stream
from qin.shards.files import RowReader
from qin.train.moments import numeric_moments

Mask = npt.NDArray[np.bool_]

# Rows that the ends of bins are taken from: a quantile of so many is off by 0.2% of the rows.
_QUANTILE_ROWS = 65536
_CHUNK_ROWS = 65536
_MIN_BIN_WIDTH = 1e-4  # standard deviations; float32 tells such numbers apart


def fit_inputs(reader: RowReader, is_train: Mask, params: NetworkParams, *, seed: int) -> FittedInputs:
    """Fit what the settings ask for.

    Args:
        reader: Prepared train file.
        is_train: Rows to fit on, `(num_rows,)`.
        params: Settings of the network.
        seed: Seed of the draw of rows.
    """
    params = resolve_preset(params)
    moments = numeric_moments(reader, is_train)
    mean, std = (torch.from_numpy(array) for array in (moments.mean, moments.std))
    edges = is_rare = None
    if params.numeric_bins:
        logs = signed_log(read_numbers(reader, drawn_rows(is_train, seed=seed)))
        standard = (logs - moments.mean) / np.where(moments.std == 0.0, 1.0, moments.std)
        edges = torch.from_numpy(bin_edges(standard, params.numeric_bins))
    if params.min_count > 1:
        is_rare = torch.from_numpy(rare_buckets(reader, is_train, min_count=params.min_count))
    return FittedInputs(normalizer=NumericNormalizer(mean, std), edges=edges, is_rare=is_rare)


def drawn_rows(is_train: Mask, *, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of the train fold, ascending, at most `_QUANTILE_ROWS` of them."""
    rows = np.flatnonzero(is_train)
    if rows.size <= _QUANTILE_ROWS:
        return rows
    generator = np.random.default_rng((seed, 0, Stream.QUANTILES))
    return np.sort(generator.choice(rows, _QUANTILE_ROWS, replace=False))


def read_numbers(reader: RowReader, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Raw values of some rows, ascending, `(n, fields)`."""
    out = np.empty((rows.size, len(reader.schema.numeric)))
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, reader.num_rows)
        first, last = np.searchsorted(rows, (start, stop))
        out[first:last] = reader.read("numeric", start, stop)[rows[first:last] - start]
    return out


def bin_edges(values: npt.NDArray[np.float64], num_bins: int) -> npt.NDArray[np.float32]:
    """Ends of each field's bins by quantiles, `(fields, num_bins + 1)`; the last one again where there are fewer bins.

    Args:
        values: Standardised, `(n, fields)`, NaN where missing.
        num_bins: Bins, fewer where quantiles are equal.
    """
    edges = np.zeros((values.shape[1], num_bins + 1), np.float32)
    for field, column in enumerate(values.T):
        present = column[~np.isnan(column)]
        if not present.size:
            continue
        # Values that there are: between two spikes no row would tell where an interpolated end belongs.
        ends = np.quantile(present, np.linspace(0.0, 1.0, num_bins + 1), method="nearest").astype(np.float32)
        kept = [ends[0]]
        for end in ends[1:]:
            if end - kept[-1] > _MIN_BIN_WIDTH:
                kept.append(end)
        edges[field] = kept + kept[-1:] * (num_bins + 1 - len(kept))
    return edges


def rare_buckets(reader: RowReader, is_train: Mask, *, min_count: int) -> Mask:
    """Rows of the embedding table that the train fold, its histories included, holds fewer than so many times."""
    inputs = resolve_inputs(reader.schema)
    counts = [np.zeros(num_buckets, np.int64) for num_buckets in inputs.num_buckets]
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, reader.num_rows)
        chosen = is_train[start:stop]
        for field, column in enumerate(reader.read("categorical", start, stop)[chosen].T):
            counts[field] += np.bincount(column, minlength=counts[field].size)
        for sequence, vocabulary in zip(reader.schema.sequences, inputs.sequence_vocabulary, strict=True):
            items = reader.read(f"sequence.{sequence.name}", start, stop)[chosen].ravel()
            # Added to the field's where they share a vocabulary: what only histories hold is not rare for that.
            counts[vocabulary] += np.bincount(items, minlength=counts[vocabulary].size)
    for count in counts:
        count[:FIRST_VALUE_BUCKET] = min_count  # padding and null are what they are
    return np.concatenate(counts) < min_count
