"""Scores of the validation fold while a network trains: which rows decide when it stops, and what they say."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qin.distributed.ranks import ONE, Ranks
from qin.metrics.definitions import AP, AUC, LOG_LOSS, Rows, values
from qin.model.scoring import score_all
from qin.network.qin import QIN
from qin.network.sharded import divided_tables
from qin.runtime.errors import TrainingError
from qin.shards.files import RowReader
from qin.shards.folds import selection_rows
from qin.shards.loader import iterate_in_order
from qin.train.divided import score_together
from qin.train.figures import HINT_DIVERGED
from qin.train.loop import ValidationScores

# Rows of the selection half that a check scores: enough to tell a difference that matters from noise.
_CHECK_ROWS = 200_000


def score_rows(
    network: QIN, reader: RowReader, is_selected: npt.NDArray[np.bool_], *, batch_size: int, ranks: Ranks = ONE
) -> npt.NDArray[np.float32]:
    """Training-scale logits of the selected rows in the file's order, `(num_selected,)`; each process scores a part."""
    if ranks.world > 1:
        selected = np.flatnonzero(is_selected)
        is_selected = np.zeros_like(is_selected)
        is_selected[selected[slice(*ranks.bounds(selected.size))]] = True
    batches = iterate_in_order(reader, is_selected=is_selected, batch_size=batch_size)
    if divided_tables(network):
        logit = score_together(network, batches, ranks=ranks)
    else:
        logit = score_all(network, batches, num_rows=int(np.count_nonzero(is_selected)))
    return ranks.gather(torch.from_numpy(logit)).numpy()


def deciding_rows(
    label: npt.NDArray[np.uint8], *, is_val: npt.NDArray[np.bool_], is_report: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """The rows whose loss decides when to stop, `(num_rows,)`: the selection half, of a large one a part."""
    selected = selection_rows(label, is_val=is_val, is_report=is_report)
    return _at_most(selected, label, max_rows=_CHECK_ROWS)


def _at_most(mask: npt.NDArray[np.bool_], label: npt.NDArray[np.uint8], *, max_rows: int) -> npt.NDArray[np.bool_]:
    """The mask with at most so many rows, evenly spaced among its clicks and among its others.

    The first click is among them, so that however few there are both classes can be judged.
    """
    rows = np.flatnonzero(mask)
    if rows.size <= max_rows:
        return mask
    # Clicks first; evenly spaced numbers then take the same share of both classes.
    rows = rows[np.argsort(label[rows] == 0, kind="stable")]
    out = np.zeros_like(mask)
    out[rows[np.arange(max_rows) * rows.size // max_rows]] = True
    return out


@dataclass(frozen=True)
class SelectionHalf:
    """Scores a network on the rows that decide when to stop.

    Attributes:
        reader: Prepared train file.
        is_selected: `(num_rows,)`; see `deciding_rows`.
        label: Of every row, `(num_rows,)`.
        batch_size: Rows scored at a time.
        offset: What brings training logits to the natural scale.
        ranks: The processes that score it.
    """

    reader: RowReader
    is_selected: npt.NDArray[np.bool_]
    label: npt.NDArray[np.uint8]
    batch_size: int
    offset: float
    ranks: Ranks

    def scores(self, network: QIN) -> ValidationScores:
        """Figures of the network as it is."""
        label = self.label[self.is_selected]
        logit = score_rows(network, self.reader, self.is_selected, batch_size=self.batch_size, ranks=self.ranks)
        if not np.isfinite(logit).all():  # the step before may have overflowed, and no later loss tells so
            raise TrainingError(f"the model's logits are not finite; {HINT_DIVERGED}")
        # On the natural scale, or weights of clicks would choose the state; a ranking knows no offset.
        loss = LOG_LOSS.statistic(Rows(logit.astype(np.float64) + self.offset, label))
        return ValidationScores(log_loss=loss, **values((AP, AUC), Rows(logit, label)))
