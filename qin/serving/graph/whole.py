"""The whole model as one module: raw values in, calibrated probabilities out, all as plain tensor operations."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from qin.columns.schema import Field
from qin.columns.types import is_binary, is_list, is_string, type_of
from qin.features.lookups import CosineLookup, HistoryLookup, Lookup
from qin.network.plain import PlainNetwork
from qin.network.qin import QIN
from qin.raw.hashing import hash_column
from qin.raw.segments import NULL, value_text
from qin.serving.deployed import Deployed
from qin.serving.graph.features import (
    Categories,
    CosineStatistic,
    History,
    HistoryStatistic,
    ValueStatistic,
    impression_distances,
    impression_numbers,
)
from qin.serving.graph.trees import PlainTrees

SIGNED_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())


class WholeModel(nn.Module):
    """From the tensors of `input_names` to probability, calibrated logit and buckets.

    Args:
        model: The deployed model.
        networks: Of its artifacts, one for each seed, in evaluation mode.
    """

    def __init__(self, model: Deployed, networks: Sequence[QIN]) -> None:
        super().__init__()
        schema, [alone] = model.schema, model.folds
        members = alone.members
        self.blend = {name: member for name, member in members.blend.members.items() if member.weight}
        self.is_single = len(members.blend.members) == 1
        self.categories = Categories(schema, integer_columns(model))
        self.histories = [History(schema, field, is_integer=has_integer_tokens(field)) for field in schema.sequences]
        self.impressions = model.impressions
        self.distances = [] if model.impressions is None else model.impressions.distances
        self.matched = (
            []
            if model.impressions is None
            else [[f.name for f in schema.sequences].index(f.name) for f in model.impressions.histories]
        )
        self.statistics = nn.ModuleList(_statistic(lookup, model) for lookup in alone.statistics.lookups())
        self.networks = nn.ModuleList(PlainNetwork(network.eval().requires_grad_(False)) for network in networks)
        self.trees = None if members.trees is None else PlainTrees(members.trees, members.schema)
        self.calibrator = alone.calibration.deployed
        shifts = self.calibrator.segments
        if shifts is not None:
            names = sorted(name for name in shifts.shift if name != NULL)
            texts = [value_text(name) for name in names]
            hashes = hash_column(pa.array(texts, pa.string())).unseeded.view(np.int64)
            self.register_buffer("segment_hash", torch.from_numpy(hashes.copy()))
            values = [shifts.shift[name] for name in names]
            self.register_buffer("segment_shift", torch.tensor(values, dtype=torch.float64))
            self.null_shift = shifts.shift.get(NULL, 0.0)

    segment_hash: torch.Tensor
    segment_shift: torch.Tensor

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Probabilities and calibrated logits `(n,)`, float64, and buckets `(n, fields)`; see `input_names`."""
        rest = list(inputs)
        values, is_null, numbers = rest.pop(0), rest.pop(0), rest.pop(0)
        buckets, unseeded = self.categories(values, is_null)
        raw = [(rest.pop(0), rest.pop(0), rest.pop(0)) for _ in self.histories]
        items = [history(*part) for history, part in zip(self.histories, raw, strict=True)]
        numeric = [numbers]
        for history, part in zip(self.histories, raw, strict=True):
            numeric += [column.unsqueeze(1) for column in history.numbers(*part, (unseeded, is_null))]
        if self.impressions is not None:
            group, compared = rest.pop(0), list(rest.pop(0).unbind(dim=1))
            for at in self.matched:
                compared += self.histories[at].matches(*raw[at], (unseeded, is_null))
            shown = [*impression_numbers(group, compared), *impression_distances(group, compared, self.distances)]
            numeric += [column.unsqueeze(1) for column in shown]
        for statistic in self.statistics:
            reads_items = isinstance(statistic, HistoryStatistic | CosineStatistic)
            numeric.append(statistic(buckets, items) if reads_items else statistic(buckets))
        logit = self._blended(buckets, torch.cat(numeric, dim=1), items)
        calibrated = self._calibrated(logit, rest)
        return 1.0 / (1.0 + torch.exp(-calibrated)), calibrated, buckets

    def _blended(self, buckets: torch.Tensor, numeric: torch.Tensor, items: list[torch.Tensor]) -> torch.Tensor:
        logits: dict[str, torch.Tensor] = {}
        if len(self.networks):
            each = torch.stack([network(buckets, numeric, items) for network in self.networks])
            # Rounded where the pipeline rounds, so that the export agrees to the last digits.
            logits["network"] = each.double().mean(dim=0).float()
        if self.trees is not None:
            logits["trees"] = self.trees(buckets, numeric, items).float()
        # A single member's logit stays as it is, offset and curve left to the calibrator.
        if self.is_single:
            return next(iter(logits.values())).double()
        total = torch.zeros_like(buckets[:, 0]).double()
        for name, member in self.blend.items():
            total = total + member.weight * (member.slope * (logits[name].double() + member.offset) + member.intercept)
        return total.float().double()

    def _calibrated(self, logit: torch.Tensor, rest: list[torch.Tensor]) -> torch.Tensor:
        number, z = self.calibrator.parameters, logit + self.calibrator.offset
        method = self.calibrator.method
        if method == "temperature":
            z = z / number["temperature"]
        elif method == "platt":
            z = number["a"] * z + number["b"]
        elif method == "beta":
            z = number["a"] * -_softplus(-z) + number["b"] * _softplus(z) + number["c"]
        if self.calibrator.segments is None:
            return z
        value, is_null = rest
        is_segment = value.unsqueeze(1) == self.segment_hash
        shift = torch.where(is_segment, self.segment_shift, 0.0).sum(dim=1)
        return z + torch.where(is_null, self.null_shift, shift)


def _softplus(z: torch.Tensor) -> torch.Tensor:
    # PyTorch's own turns linear at 20, and `logaddexp` is no operation of ONNX.
    return torch.where(z > 0, z, 0.0) + torch.log1p(torch.exp(-z.abs()))


def _statistic(lookup: Lookup, model: Deployed) -> nn.Module:
    if isinstance(lookup, HistoryLookup | CosineLookup):
        pair = lookup.pair
        sequence = [f"sequence.{field.name}" for field in model.schema.sequences].index(pair.group)
        if isinstance(lookup, CosineLookup):
            return CosineStatistic(sequence, pair.column, lookup.table, lookup.columns)
        return HistoryStatistic(sequence, pair.column, int(pair.num_values), lookup.rates)
    return ValueStatistic(list(lookup.columns), list(lookup.num_buckets), lookup.keys, list(lookup.values))


def has_integer_tokens(field: Field) -> bool:
    """Whether a history's tokens enter as integers; all others enter as the hash of their text."""
    kind = type_of(field.type) if field.type else pa.null()
    if not is_list(kind):
        return field.tokens == "number"
    token = kind.value_type
    return token in SIGNED_INTEGERS or (field.tokens == "number" and (is_string(token) or is_binary(token)))


def integer_columns(model: Deployed) -> list[bool]:
    """Whether each categorical column enters as its integers; all others enter as the hash of their text."""
    return [bool(field.type) and type_of(field.type) in SIGNED_INTEGERS for field in model.schema.categorical]


def input_names(model: Deployed) -> list[str]:
    """Names of the inputs, in order."""
    names = ["categorical", "categorical_is_null", "numeric"]
    for field in model.schema.sequences:
        names += [f"sequence.{field.name}", f"sequence.{field.name}.is_null", f"sequence.{field.name}.length"]
    names += [] if model.impressions is None else ["impression", "compared"]
    return names + ([] if model.segment is None else ["segment", "segment_is_null"])
