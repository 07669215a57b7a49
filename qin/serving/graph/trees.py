"""Gradient boosted trees as a few products: every node's question at once, then the one leaf whose answers all fit.

With `c` the answers (1 for left) and `P` how leaf `l` hangs below node `i` (1 left, -1 right, 0 not at all), a row is
in the leaf where `sum_i c_i P_il` is the number of left turns on its way; each such sum is a small whole number.

Source: Nakandala et al. (2020), A tensor compiler for unified machine learning prediction serving (Hummingbird), 4.1.
"""

from dataclasses import dataclass, field
from typing import Any

import lightgbm as lgb
import numpy as np
import torch
from torch import nn

from qin.columns.buckets import PADDING_BUCKET
from qin.columns.schema import Schema
from qin.trees.fitted import FittedTrees


@dataclass
class _Tree:
    """One tree, flat: what each node asks, which leaves hang left and right of it, and the leaves' values."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    left: list[list[int]] = field(default_factory=list)
    right: list[list[int]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, node: dict[str, Any]) -> list[int]:
        """Add a node with all below it; returns its leaves."""
        if "split_index" not in node:
            self.values.append(float(node["leaf_value"]))
            return [len(self.values) - 1]
        number = len(self.nodes)
        self.nodes.append(node)
        self.left.append([])
        self.right.append([])
        self.left[number] = self.add(node["left_child"])
        self.right[number] = self.add(node["right_child"])
        return self.left[number] + self.right[number]


class PlainTrees(nn.Module):
    """What LightGBM computes of a forest, in float64.

    Args:
        trees: Fitted.
        schema: Of the rows that they read.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    nan_goes_left: torch.Tensor
    nan_is_zero: torch.Tensor
    category_row: torch.Tensor
    members: torch.Tensor
    hangs: torch.Tensor
    left_turns: torch.Tensor
    values: torch.Tensor

    def __init__(self, trees: FittedTrees, schema: Schema) -> None:
        super().__init__()
        self.columns, names = trees.columns, [f.name for f in schema.categorical]
        self.positions = [names.index(name) for name in self.columns.categorical]
        self.sequences = [[f.name for f in schema.sequences].index(name) for name in self.columns.last_items]
        known = [*self.columns.categorical.values(), *self.columns.last_items.values()]
        sizes = {f.name: f.num_buckets for f in (*schema.categorical, *schema.sequences)}
        for number, (name, values) in enumerate(
            zip((*self.columns.categorical, *self.columns.last_items), known, strict=True)
        ):
            self.register_buffer(f"codes{number}", _codes(sizes[name], values))
        forest = []
        for info in lgb.Booster(model_str=trees.forest.text).dump_model()["tree_info"]:
            tree = _Tree()
            tree.add(info["tree_structure"])
            forest.append(tree)
        for name, table in _tables(forest).items():
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, buckets: torch.Tensor, numeric: torch.Tensor, histories: list[torch.Tensor]) -> torch.Tensor:
        """Logits `(n,)`, float64; arguments as of `PlainNetwork`."""
        x = self._matrix(buckets, numeric, histories)[:, self.feature.flatten()]  # (n, trees * nodes)
        is_missing = x.isnan()
        value = torch.where(is_missing, 0.0, x)
        is_known = ~is_missing | self.nan_is_zero.flatten()
        is_below = (is_known & (value <= self.threshold.flatten())) | (~is_known & self.nan_goes_left.flatten())
        code = value.long().clamp(0, self.members.shape[1] - 1)
        is_member = self.members[self.category_row.flatten(), code] & ~is_missing
        is_category = self.category_row.flatten() > 0
        answer = ((is_category & is_member) | (~is_category & is_below)).float()
        answer = answer.view(-1, *self.feature.shape).transpose(0, 1)  # (trees, n, nodes)
        fits = torch.bmm(answer, self.hangs) == self.left_turns.unsqueeze(1)  # (trees, n, leaves)
        return torch.where(fits, self.values.unsqueeze(1), 0.0).sum(dim=2).sum(dim=0)

    def _matrix(self, buckets: torch.Tensor, numeric: torch.Tensor, histories: list[torch.Tensor]) -> torch.Tensor:
        categories = [buckets[:, position] for position in self.positions]
        categories += [_last(histories[sequence]) for sequence in self.sequences]
        codes = [getattr(self, f"codes{number}")[category] for number, category in enumerate(categories)]
        return torch.cat((numeric.double(), *(code.unsqueeze(1) for code in codes)), dim=1)


def _codes(num_buckets: int, known: tuple[int, ...]) -> torch.Tensor:
    out = np.full(num_buckets, np.nan)
    out[list(known)] = np.arange(len(known))
    return torch.from_numpy(out)


def _last(items: torch.Tensor) -> torch.Tensor:
    """The last bucket that is no padding of histories that begin at the left, 0 where there is none."""
    length = (items != PADDING_BUCKET).long().sum(dim=1, keepdim=True)
    return items.gather(1, (length - 1).clamp_min(0)).squeeze(1)


def _tables(forest: list[_Tree]) -> dict[str, Any]:
    """The arrays of a forest, padded to its largest tree; no row reaches a padded leaf."""
    num_trees = len(forest)
    num_nodes, num_leaves = max(1, *(len(t.nodes) for t in forest)), max(len(t.values) for t in forest)
    out: dict[str, Any] = {name: np.zeros((num_trees, num_nodes), np.int64) for name in ("feature", "category_row")}
    out |= {name: np.zeros((num_trees, num_nodes), np.bool_) for name in ("nan_goes_left", "nan_is_zero")}
    out["threshold"] = np.zeros((num_trees, num_nodes))
    out["hangs"] = np.zeros((num_trees, num_nodes, num_leaves), np.float32)
    out["left_turns"] = np.full((num_trees, num_leaves), -1.0 - num_nodes, np.float32)
    out["values"] = np.zeros((num_trees, num_leaves))
    members: list[list[int]] = [[]]  # the first row is that of nodes that ask for no category
    for number, tree in enumerate(forest):
        out["values"][number, : len(tree.values)] = tree.values
        for at, node in enumerate(tree.nodes):
            out["feature"][number, at] = node["split_feature"]
            if node["decision_type"] == "==":
                out["category_row"][number, at] = len(members)
                members.append([int(code) for code in node["threshold"].split("||")])
            else:
                out["threshold"][number, at] = node["threshold"]
                out["nan_goes_left"][number, at] = node["default_left"]
                out["nan_is_zero"][number, at] = node["missing_type"] == "None"
            out["hangs"][number, at, tree.left[at]] = 1.0
            out["hangs"][number, at, tree.right[at]] = -1.0
        out["left_turns"][number, : len(tree.values)] = (out["hangs"][number, :, : len(tree.values)] > 0).sum(axis=0)
    # One code more than any node knows, which is never a member: what is out of range ends there.
    table = np.zeros((len(members), 1 + max((max(codes, default=0) for codes in members), default=0) + 1), np.bool_)
    for row, codes in enumerate(members):
        table[row, codes] = True
    out["members"] = table
    return out
