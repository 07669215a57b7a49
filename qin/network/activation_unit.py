"""DIN's activation unit: a small network of the target and a history item that scores the item."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.kernels.products import product, spread, stacked_product

NUM_UNITS = 32  # whole vectors of every processor; the paper has 36


class ActivationUnit(nn.Module):
    """Scores history items by one hidden layer.

    With a query `q = W_q t` and keys `k_i = W_k x_i` the published unit is `w . act(W [q, k_i, q * k_i] + b)`, the part
    of their difference merged into those of `q` and `k_i`. Here `score_i = w . relu(U t + V x_i + P (q * k_i) + b)`.
    What depends on the row alone leaves the loop over its history: with the matrix `M(t) = V + P diag(q) W_k` and the
    vector `o(t) = U t + b` the hidden layer is `relu(M(t) x_i + o(t))`, so no item is ever projected.

    Source: DIN (arXiv 1706.06978), figure 2 and equation 3.
    NOTE[DIFF]: a relu instead of Dice, whose statistics of a batch would be of its items; `U t` and `V x_i` are of the
    embeddings, `q` and `k_i` are there for the product alone; no constant in the score: it is the attention's `bias`.

    Args:
        target_dim: Width of the target item, `dt`.
        sequence_dim: Width of one history item, `ds`.
        attention_dim: Width of queries and keys, `A`.
    """

    def __init__(self, target_dim: int, *, sequence_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.of_target = nn.Linear(target_dim, NUM_UNITS)  # U (units, dt) and b
        self.of_item = nn.Linear(sequence_dim, NUM_UNITS, bias=False)  # V (units, ds)
        self.of_product = nn.Linear(attention_dim, NUM_UNITS, bias=False)  # P (units, A)
        self.output = nn.Linear(NUM_UNITS, 1, bias=False)  # w (1, units)

    def of_rows(
        self, target: torch.Tensor, *, query: torch.Tensor, key_weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden layer of each row's items.

        Args:
            target: `(batch, dt)`.
            query: `W_q t`, `(batch, A)`.
            key_weight: `W_k`, `(A, ds)`.

        Returns:
            `M(t)`, `(batch, ds, units)`, and `o(t)`, `(batch, units)`.
        """
        num_rows, (attention_dim, sequence_dim) = len(target), key_weight.shape
        # P diag(q) W_k is linear in q: one outer product for each of its numbers, (A, ds, units).
        outer = stacked_product(key_weight.unsqueeze(2), self.of_product.weight.t().unsqueeze(1))
        of_query = product(query, outer.view(attention_dim, -1).t())
        matrix = of_query + spread(self.of_item.weight.t().reshape(-1), num_rows)
        offset = product(target, self.of_target.weight) + spread(self.of_target.bias, num_rows)
        return matrix.view(num_rows, sequence_dim, NUM_UNITS), offset

    def scores(self, keys: torch.Tensor, matrix: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Scores `(batch, seq, 1)` of items `(batch, seq, ds)` by the hidden layers of their rows."""
        return F.relu(torch.bmm(keys, matrix) + offset.unsqueeze(1)) @ self.output.weight.t()
