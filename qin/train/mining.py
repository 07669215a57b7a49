"""The loss of one step with hard-negative mining: which rows carry the batch's loss, and the passes that it takes.

In one pass every row goes forward, the selection follows, and the rows that it leaves out run backward with weight
zero. In two passes a forward pass without gradient, in evaluation mode, scores the batch, and only the selected rows go
forward and backward. Either way the denominator is one that no selection and no batch changes, so both estimate the
same loss without bias.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from qin.distributed.ranks import ONE, Ranks
from qin.runtime.seeds import Stream
from qin.shards.loader import Batch
from qin.train.losses import forward, forward_ensemble, logistic_loss, weighted_logistic_loss
from qin.train.selection import MiningMode, mine_hard_negatives, num_kept

# Two passes cost a forward pass over the batch and a step over the kept rows. The backward pass of matrix products
# costs twice their forward pass, so a step of n rows costs 3n forward rows, and two passes are cheaper where
# 1 + 3 kept < 3. Measured on the default model, forward alone is 0.14 of a step (evaluation folds the rows that dropout
# keeps apart) and 0.27 without dropout on the rows: at this share two passes take 0.75 and 0.9 of the time of one.
_MAX_KEPT_SHARE = 2.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """Mining inside each batch.

    Attributes:
        mode: See `mine_hard_negatives`, as for the next three.
        top_neg_frac: Share of negatives that counts as hardest.
        rest_frac: Share of negatives to draw besides.
        min_neg: Negatives to keep at least.
        warmup_steps: Optimizer steps of the run that use every row before mining begins.
        two_passes: Whether the rows are selected before they go forward with a gradient.
    """

    mode: MiningMode
    top_neg_frac: float
    rest_frac: float
    min_neg: int
    warmup_steps: int
    two_passes: bool

    def select(self, logit: torch.Tensor, label: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Selection weight of each row, `(batch,)`, 0 where it is left out; see `mine_hard_negatives`."""
        return mine_hard_negatives(
            logistic_loss(logit.detach(), label),
            label,
            mode=self.mode,
            top_neg_frac=self.top_neg_frac,
            rest_frac=self.rest_frac,
            min_neg=self.min_neg,
            generator=generator,
        )


def mined_loss(
    network: nn.Module,
    batch: Batch,
    *,
    sample_weight: torch.Tensor,
    denominator: float | torch.Tensor,
    hard_negatives: HardNegatives,
    generator: torch.Generator,
    self_ensemble: float = 0.0,
    ranks: Ranks = ONE,
) -> torch.Tensor:
    """Compute an unbiased estimate (`ohem`: a biased one) of the batch's loss from the rows that mining selects.

    1. Score the rows of this process: without a gradient where there are two passes, else with it.
    2. Bring all processes' logits and labels together, and select from them with the generator that all share.
    3. Weigh this process's rows by the selection; of two passes, score those that are kept once more, with a gradient.

    Several processes select from all their rows together, so that they keep what one keeps; the sum of their losses is
    the loss of the whole batch. A process whose rows are all left out has a loss of 0 without a gradient.

    With row-wise optimizers two passes differ from one in what they touch: embeddings that only rows left out have
    read get no gradient, where in one pass they get zeros, and their momentum moves them.

    Args:
        network: In training mode, where it stays; the first of two passes leaves running statistics as they are.
        batch: With labels.
        sample_weight: Weight of each row without the selection, `(batch,)`, positive.
        denominator: Expected weight of a whole batch, of all processes; see `TrainingRows.batch_weight`.
        hard_negatives: What to select, and how.
        generator: Seeded CPU generator of the selection, the same in all processes.
        self_ensemble: See `forward_ensemble`; its divergence has the weights of its rows.
        ranks: The processes that share the batch.

    Returns:
        The loss, a scalar with a gradient. Where a row's loss is not finite there is nothing to select by, and the loss
        of the whole batch is returned, which is not finite either.
    """
    assert batch.label is not None
    if hard_negatives.two_passes:
        logit, extra = _scored(network, batch), None
    else:
        logit, extra = forward_ensemble(network, batch, strength=self_ensemble)
    everything = ranks.gather(torch.stack((logit.detach(), batch.label), dim=1))  # of the whole batch
    if not everything.isfinite().all():
        return weighted_logistic_loss(logit, batch.label, sample_weight=sample_weight, denominator=denominator)
    selected = hard_negatives.select(everything[:, 0], everything[:, 1], generator=generator)
    weight = sample_weight * selected[batch.first_row : batch.first_row + len(logit)]
    if not hard_negatives.two_passes:
        return weighted_logistic_loss(
            logit, batch.label, sample_weight=weight, denominator=denominator, extra_loss=extra
        )
    kept = weight.nonzero().squeeze(1)
    # Its number among all rows that are kept, as masks of dropout depend on it: one process would draw the same.
    first_row = int(torch.count_nonzero(selected[: batch.first_row]))
    part = replace(batch.take(kept), first_row=first_row)
    assert part.label is not None
    logit, extra = forward_ensemble(network, part, strength=self_ensemble)
    return weighted_logistic_loss(
        logit, part.label, sample_weight=weight[kept], denominator=denominator, extra_loss=extra
    )


def selection_generator(seed: int, *, step: int) -> torch.Generator:
    """A generator that depends on nothing but the run's seed and the optimizer step.

    Args:
        seed: Of the run.
        step: Optimizer steps before this one, over all epochs.
    """
    # The 0 was a process's number when each selected by itself; without it, every run with mining would be another one.
    # 63 bits, as of a step's seed.
    state = np.random.SeedSequence((seed, step, Stream.SELECTION, 0)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def two_passes_save_time(
    mode: MiningMode, *, num_rows: int, positive_share: float, top_neg_frac: float, rest_frac: float, min_neg: int
) -> bool:
    """Whether the first of two passes costs less than what it saves, by the share of rows that are kept.

    Args:
        mode: See `mine_hard_negatives`, as for the last three.
        num_rows: Rows of a batch.
        positive_share: Expected share of positives in it; all of them are kept.
        top_neg_frac: Share of negatives that counts as hardest.
        rest_frac: Share of negatives to draw besides.
        min_neg: Negatives to keep at least.
    """
    num_positives = round(positive_share * num_rows)
    num_top, num_drawn = num_kept(
        num_rows - num_positives, mode=mode, top_neg_frac=top_neg_frac, rest_frac=rest_frac, min_neg=min_neg
    )
    return num_positives + num_top + num_drawn <= _MAX_KEPT_SHARE * num_rows


def is_batch_coupled(network: nn.Module) -> bool:
    """Whether a row's logit depends on the batch that it is in: batch norm in training mode."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@torch.no_grad()
def _scored(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits `(batch,)` without dropout, hence with folded rows."""
    network.eval()
    logit = forward(network, batch)
    network.train()
    return logit
