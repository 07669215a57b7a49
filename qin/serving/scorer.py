"""Raw rows in, calibrated probabilities out: the deployed model of a folder of artifacts, without the pipeline."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from qin.columns.types import is_list, type_of
from qin.runtime.errors import SchemaError
from qin.runtime.host import num_cores
from qin.scored.prior import OutputPrior, check_prior
from qin.serving.candidates import with_user
from qin.serving.columns import Column
from qin.serving.deployed import Deployed, read_deployed
from qin.serving.tables import Rows, to_table
from qin.shards.loader import Batch

OnMissing = Literal["error", "null"]
Precision = Literal["auto", "fp32", "bf16"]
Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

_ROWS = "rows"


@dataclass(frozen=True)
class PreparedRows:
    """Rows of a request, encoded.

    Attributes:
        batches: As the members read them.
        segment: The column that the calibrator shifts by, where there is one.
        num_rows: Of all batches.
    """

    batches: tuple[Batch, ...]
    segment: pa.Array | None
    num_rows: int


class Scorer:
    """Scores raw rows as the predict stage does, to the byte on the same processor; safe to call from several threads.

    Rows are those of the log: the same columns, without the label. All that a model knows is applied: hashes,
    numbers of histories and impressions, statistics of the train fold, network and trees, their blend, calibration.
    A row's probability does not depend on the other rows of a call, except where the model compares rows of one
    impression, which must then come in one call.

    Args:
        deployed: From `read_deployed`; `Scorer.load` is the way to make one.
        num_threads: To score with.

    Examples:
        In a repository, after `dvc repro` on the sample log:

        >>> import pyarrow.parquet as pq
        >>> import qin
        >>> scorer = qin.Scorer.load("artifacts")
        >>> rows = pq.read_table("data/test.parquet").slice(0, 3)  # a data frame will do as well
        >>> probability = scorer.score(rows)
        >>> probability.shape, bool(((0 < probability) & (probability < 1)).all())
        ((3,), True)
        >>> bool((scorer.score(rows.slice(1, 1)) == probability[1]).all())  # alone or among others
        True
        >>> balanced = scorer.score(rows, prior="balanced")  # as if half of all rows were clicked
        >>> bool((balanced > probability).all())
        True
        >>> [row] = rows.slice(0, 1).to_pylist()  # what a request in JSON holds
        >>> bool(scorer.score([row]) == probability[0])
        True
        >>> del row["hour"]
        >>> scorer.score([row])
        Traceback (most recent call last):
        qin.runtime.errors.SchemaError: rows: column hour: missing
        >>> scorer.score([row], on_missing="null").shape  # as a value that nobody knows
        (1,)
    """

    def __init__(self, deployed: Deployed, *, num_threads: int) -> None:
        self._deployed, self._num_threads = deployed, num_threads
        self._encoder = deployed.encoder(_ROWS)
        self._last_checked: tuple[pa.Schema, OnMissing] | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path = "artifacts",
        *,
        num_threads: int | None = None,
        precision: Precision | None = None,
        label: str | None = None,
    ) -> "Scorer":
        """Read a folder of artifacts.

        Args:
            folder: `artifacts` of a repository after `dvc repro`, or a copy of it.
            num_threads: To score with; None for one per core. Bytes do not depend on it.
            precision: Of the network's matrix products; None for that of the predict stage.
            label: Which label's probabilities, where `data.label` names several; None for the first.

        Raises:
            ArtifactError: If a file is missing or damaged, or they are of different runs, or there is no such label.
        """
        num_threads = num_threads or num_cores()
        deployed = read_deployed(Path(folder), num_threads=num_threads, precision=precision, label=label)
        return cls(deployed, num_threads=num_threads)

    @property
    def label(self) -> str:
        """The column that the probabilities are of."""
        return self._deployed.label

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns that rows must have, by name, with what they are and their Arrow type in training."""
        return dict(self._deployed.columns)

    @property
    def version(self) -> str:
        """A name for the content of the artifacts: equal names, equal scores."""
        return self._deployed.version

    @property
    def base_rate(self) -> float:
        """Click rate that probabilities of the natural prior refer to."""
        return self._deployed.base_rate

    def with_threads(self, num_threads: int) -> "Scorer":
        """The same model, scored with another number of threads; nothing is copied.

        One thread is the calling one itself, the quickest for requests of a few rows.
        """
        scorer = copy(self)
        scorer._num_threads = num_threads
        return scorer

    def warm_up(self, *num_rows: int) -> None:
        """Score made-up rows, so that the first request does not wait for kernels to be compiled or tables to be read.

        Args:
            num_rows: Of each try; none for 1, 32 and 512.
        """
        # One row, a few and a batch: the network's tiles are of another size for each.
        for number in num_rows or (1, 32, 512):
            table = pa.table({column.name: _made_up(column, number) for column in self._deployed.columns.values()})
            self.logits(table)
            self.logits(_sent(table))  # what was sent or read cannot be written to, which kernels are compiled for

    def score(self, rows: Rows, *, prior: OutputPrior = "natural", on_missing: OnMissing = "error") -> Probabilities:
        """Calibrated probabilities of a click.

        Args:
            rows: pyarrow `Table` or `RecordBatch`, a data frame of pandas or polars, or a list of dictionaries. Columns
                that the model does not read are left out.
            prior: Base rate of the probabilities: `natural`, `balanced`, or a number.
            on_missing: What a column that the model reads and the rows lack is: an `error`, or `null` in every row.

        Returns:
            Float64 `(num_rows,)`, in the order of the rows.

        Raises:
            SchemaError: Naming each column that is missing, repeated or of a wrong type.
            DataError: Naming the first value that breaks a rule.
            ValueError: If the prior is none.
        """
        check_prior(prior)
        prepared = self.prepare(rows, on_missing=on_missing)
        return self.probabilities_of(prepared, self.logits_of([prepared])[0], prior)

    def logits(self, rows: Rows, *, on_missing: OnMissing = "error") -> Logits:
        """The members' logits as they are blended, before calibration, float32 `(num_rows,)`; see `score`.

        Of the models of several folds, `(num_rows, folds)`.
        """
        return self.logits_of([self.prepare(rows, on_missing=on_missing)])[0]

    def score_candidates(
        self,
        user: Mapping[str, Any] | Rows,
        items: Rows,
        *,
        prior: OutputPrior = "natural",
        on_missing: OnMissing = "error",
    ) -> Probabilities:
        """Calibrated probabilities of one user's click on each of some items.

        What is the user's, histories above all, is converted and encoded once; the probabilities are those that `score`
        gives to the same rows written out.

        Args:
            user: One row: the columns that all candidates share, such as the user's fields, histories and the context.
            items: A row for each candidate, with the other columns.
            prior: See `score`.
            on_missing: See `score`.

        Returns:
            Float64 `(num_items,)`.

        Raises:
            SchemaError: As of `score`, and if a column is in both.
            ValueError: If the user is not one row, or the prior is none.

        Examples:
            >>> import pyarrow.parquet as pq
            >>> import qin
            >>> scorer = qin.Scorer.load("artifacts")
            >>> rows = pq.read_table("data/test.parquet").slice(0, 200)
            >>> of_item = ["inventory_id", "l_feat_14", "l_feat_26"]
            >>> user, items = rows.slice(0, 1).drop_columns(of_item), rows.select(of_item)
            >>> candidates = scorer.score_candidates(user, items)
            >>> written_out = [{**user.to_pylist()[0], **item} for item in items.to_pylist()]
            >>> bool((candidates == scorer.score(written_out)).all())
            True
        """
        check_prior(prior)
        prepared = self.prepare_candidates(user, items, on_missing=on_missing)
        return self.probabilities_of(prepared, self.logits_of([prepared])[0], prior)

    def prepare(self, rows: Rows, *, on_missing: OnMissing = "error") -> PreparedRows:
        """Encode rows, to be scored together with those of other requests; arguments and errors as of `score`."""
        return self._prepared(self._table(rows, on_missing), on_missing)

    def prepare_candidates(
        self, user: Mapping[str, Any] | Rows, items: Rows, *, on_missing: OnMissing = "error"
    ) -> PreparedRows:
        """Encode one user's candidates; arguments and errors as of `score_candidates`."""
        user_rows = [user] if isinstance(user, Mapping) else user
        parts = [self._table(part, on_missing) for part in (user_rows, items)]
        return self._prepared(with_user(*parts), on_missing)

    def logits_of(self, requests: Sequence[PreparedRows]) -> list[Logits]:
        """The members' logits of encoded requests, which are scored together."""
        batches = [batch for request in requests for batch in request.batches]
        logit = self._deployed.logit(_joined(batches), num_threads=self._num_threads)
        stops = np.cumsum([request.num_rows for request in requests])
        return np.split(logit, stops[:-1])

    def probabilities_of(self, request: PreparedRows, logit: Logits, prior: OutputPrior) -> Probabilities:
        """Calibrated probabilities of a request from its logits."""
        return self._deployed.probability(logit, request.segment, prior)

    def _prepared(self, table: pa.Table, on_missing: OnMissing) -> PreparedRows:
        table = self._checked(table, on_missing)
        segment = self._deployed.segment
        return PreparedRows(
            batches=tuple(self._encoder(table)),
            segment=None if segment is None else table.column(segment).combine_chunks(),
            num_rows=table.num_rows,
        )

    def _table(self, rows: Rows, on_missing: OnMissing) -> pa.Table:
        if on_missing not in ("error", "null"):
            raise ValueError(f"on_missing must be error or null: {on_missing=}")
        return to_table(rows, self._deployed.columns, may_miss=on_missing == "null", name=_ROWS)

    def _checked(self, table: pa.Table, on_missing: OnMissing) -> pa.Table:
        """The columns that are read, in order; those that may be missing are null."""
        asked = table.schema, on_missing
        if asked != self._last_checked:  # requests are mostly of one schema; what is wrong depends on these two alone
            problems = self._deployed.problems(table.schema, may_miss=on_missing == "null", name=_ROWS)
            if problems:
                raise SchemaError(*problems)
            self._last_checked = asked
        table = self._deployed.completed(table)
        # Chunks would be batches of their own, and what is scored together should be one.
        return table if table.column(0).num_chunks == 1 else table.combine_chunks()


def _made_up(column: Column, num_rows: int) -> pa.Array:
    """Ones as the column's type has them, or nulls where it has none."""
    kind = type_of(column.type) if column.type else pa.string()
    values = pa.array([[1] if is_list(kind) else 1] * num_rows)
    try:
        return values.cast(kind)
    except pa.ArrowException:
        return pa.nulls(num_rows, kind)


def _sent(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def _joined(batches: Sequence[Batch]) -> Batch:
    """Batches as one; most often there is one."""
    if len(batches) == 1:
        return batches[0]
    parts = zip(*(batch.tensors for batch in batches), strict=True)
    tensors = [torch.from_numpy(np.concatenate([tensor.numpy() for tensor in part])) for part in parts]
    joined = batches[0].with_tensors(tensors)
    return replace(joined, rows=np.arange(len(tensors[0])))
