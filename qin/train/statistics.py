"""The statistics of the train fold, as the settings want them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import Params
from qin.distributed.ranks import Ranks
from qin.features.artifact import Statistic, Statistics
from qin.features.joined import JoinedRows
from qin.features.past import Earlier, OtherParts, Past
from qin.features.statistics import FitReport, choose_statistics, fit_statistics
from qin.runtime.chain import Origin
from qin.runtime.progress import log
from qin.shards.files import ShardReader, read_labels
from qin.shards.row_facts import RowFacts


def chosen_statistics(params: Params, schema: Schema, *, has_time: bool) -> tuple[Statistic, ...]:
    """What the settings want to be counted, before a fit drops what is of no use.

    Args:
        params: Sections features and split.
        schema: Of the prepared file.
        has_time: Whether rows have a time, without which histories cannot be told from later ones.

    Raises:
        SchemaError: If a pattern names none of the fields, or a pair anything else.
    """
    knobs = params.features.statistics
    chosen = choose_statistics(
        schema,
        patterns=knobs.fields,
        pairs=knobs.listed_pairs,
        user=params.split.group_key,
        cosines=knobs.cosines and has_time,
    )
    return chosen if knobs.enable else ()


def fit_train_statistics(
    params: Params,
    reader: ShardReader,
    is_fitted: npt.NDArray[np.bool_],
    facts: RowFacts,
    folder: Path,
    *,
    only: Collection[str] | None = None,
    origin: Origin | None = None,
) -> FitReport:
    """Fit the statistics: in blocks of time where there is one, else out of fold.

    Args:
        params: Sections features and split.
        reader: Prepared train file.
        is_fitted: Rows of the train fold, or of both folds for a refit, `(num_rows,)`.
        facts: Time and unit of each row.
        folder: Existing empty folder, which `Statistics` reads afterwards; where they are off it holds none.
        origin: What they are made from.
        only: Names to keep, as an earlier fit decided; None: decide by these rows.
    """
    knobs = params.features.statistics
    report = fit_statistics(
        reader,
        chosen_statistics(params, reader.schema, has_time=facts.time is not None),
        label=read_labels(reader),
        past=past_of(facts, np.flatnonzero(is_fitted), num_blocks=knobs.num_blocks),
        prior_weight=knobs.prior_weight,
        keep=knobs.drift_psi if only is None else only,
        folder=folder,
        origin=origin,
    )
    # The drops of a refit are those of the held-out fit, which were told then.
    for name, reason in () if only is not None else report.dropped.items():
        log.info("%s is not used: %s", name, reason)
    return report


def past_of(facts: RowFacts, fitted: np.ndarray, *, num_blocks: int) -> Past:
    """What each fitted row may know of the others, by the time where there is one."""
    if facts.time is None:
        return OtherParts.of(facts.unit, fitted)
    return Earlier.of(facts.time, facts.shown, fitted, num_blocks=num_blocks)


@dataclass(frozen=True)
class SharedFit:
    """What all fits of the statistics share; see `fit_train_statistics`.

    Attributes:
        params: Sections features and split.
        reader: Prepared train file.
        facts: Time and unit of each row.
        origin: What statistics are made from.
        ranks: The processes that train together.
    """

    params: Params
    reader: ShardReader
    facts: RowFacts
    origin: Origin
    ranks: Ranks

    def statistics(
        self, is_fitted: npt.NDArray[np.bool_], folder: Path, *, only: Collection[str] | None = None
    ) -> tuple[FitReport, JoinedRows]:
        """Fit them, once on each machine, and join them to the rows.

        Args:
            is_fitted: Rows to fit on, `(num_rows,)`.
            folder: Where this process would write them.
            only: Names to keep.
        """
        report = None
        if self.ranks.leads:
            report = fit_train_statistics(
                self.params, self.reader, is_fitted, self.facts, folder, only=only, origin=self.origin
            )
        shared = self.ranks.all_of((str(folder.resolve()), report))
        # Each reads what was written on its own machine; the report is the first one's, the same by construction.
        place, _ = shared[self.ranks.leader]
        _, report = shared[0]
        assert report is not None
        return report, JoinedRows(self.reader, Statistics(Path(place)))
