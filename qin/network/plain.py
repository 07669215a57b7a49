"""The network in evaluation mode as plain operations of any device, its layers folded, on buckets and raw numbers."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.columns.buckets import NULL_BUCKET, PADDING_BUCKET
from qin.network.attention import TargetAttention, bias_of_age
from qin.network.embedding import FusedEmbedding
from qin.network.frozen import folded_norm
from qin.network.kernels.products import padded_width
from qin.network.qin import QIN
from qin.network.quadratic import QuadraticLayer


class PlainNetwork(nn.Module):
    """What a `QIN` computes.

    Args:
        network: Its weights, which are shared; in float32.
        dtype: What the layers' products read and give; all else is float32. In bfloat16 they are padded.
    """

    def __init__(self, network: QIN, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.source, self.dtype = network, dtype
        self.targets = list(network.inputs.target_fields)
        stack, self.layers = network.network, []
        for number, (layer, norm, activation) in enumerate(
            zip(stack.layers, stack.norms, stack.activations, strict=True)
        ):
            assert isinstance(layer, QuadraticLayer)
            with torch.no_grad():
                weight, bias = layer.folded()
                eps, scale, shift = folded_norm(norm, bias)
            slope = activation.weight.item() if isinstance(activation, nn.PReLU) else 1.0
            right = padded_width(stack.dim) - stack.dim if dtype == torch.bfloat16 else 0
            wide = F.pad(weight, (0, right, 0, right)).to(dtype)
            for name, value in {"weight": wide, "bias": bias, "scale": scale, "shift": shift}.items():
                self.register_buffer(f"{name}{number}", value.detach().clone())
            self.layers.append((layer.rectified, eps, slope))

    def forward(self, buckets: torch.Tensor, numeric: torch.Tensor, histories: list[torch.Tensor]) -> torch.Tensor:
        """Logits `(n,)` of buckets `(n, fields)`, numbers `(n, fields)` and histories `(n, max_len)` each."""
        source = self.source
        fields = _read(source.embedding, buckets, source.embedding.offsets[: buckets.shape[1]])
        blocks = [fields.flatten(1), *self._histories(fields, buckets, histories), *_numeric(source, numeric)]
        x = torch.cat(blocks, dim=1)
        for number, (rectified, eps, slope) in enumerate(self.layers):
            total = self._linear(x, getattr(self, f"weight{number}"), getattr(self, f"bias{number}"))
            term = x * (F.relu(total) if rectified else total)
            if eps >= 0.0:
                term = term * (term.square().mean(dim=1, keepdim=True) + eps).rsqrt()
            term = term * getattr(self, f"scale{number}") + getattr(self, f"shift{number}")
            x = x + torch.where(term < 0.0, slope * term, term)
        return F.linear(x, source.network.fc.weight, source.network.fc.bias).squeeze(1)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float32:
            return F.linear(x, weight, bias)
        wide = F.linear(F.pad(x.to(self.dtype), (0, len(weight) - x.shape[1])), weight)
        return wide[:, : x.shape[1]].float() + bias

    def _histories(
        self, fields: torch.Tensor, buckets: torch.Tensor, histories: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        source, out, pooled = self.source, [], []
        if not histories:
            return []
        target = query = fields[:, self.targets].flatten(1)
        if source.attention_embedding is not None:
            table = source.attention_embedding
            query = _read(table, buckets, table.offsets[: buckets.shape[1]])[:, self.targets].flatten(1)
        parts = zip(source.attentions, histories, source.inputs.sequence_vocabulary, strict=True)
        for attention, history, vocabulary in parts:
            values = _read(source.embedding, history, source.embedding.offsets[vocabulary])
            separate = source.attention_embedding
            keys = values if separate is None else _read(separate, history, separate.offsets[vocabulary])
            is_valid = history != PADDING_BUCKET
            assert isinstance(attention, TargetAttention)
            out.append(_attend(attention, target, query, values, keys, is_valid))
            length = is_valid.long().sum(dim=1, keepdim=True).clamp_min(1).float()
            pooled.append((values * is_valid.unsqueeze(2)).sum(dim=1) / length)
        return out + (pooled if source.sizes.pooled_history else [])


def _read(table: FusedEmbedding, buckets: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    rows = buckets + offset
    if table.is_rare is not None:
        rows = torch.where(table.is_rare[rows], offset + NULL_BUCKET, rows)
    return F.embedding(torch.where(buckets == PADDING_BUCKET, 0, rows), table.embedding_table)


def _attend(
    attention: TargetAttention,
    target: torch.Tensor,
    query: torch.Tensor,
    values: torch.Tensor,
    keys: torch.Tensor,
    is_valid: torch.Tensor,
) -> torch.Tensor:
    score = _scores(attention, query, keys)
    if attention.score_bias is not None:
        # Whole numbers: ONNX has no running sum of truth values.
        after = is_valid.long().sum(dim=1, keepdim=True) - is_valid.long().cumsum(dim=1)
        table = attention.score_bias[bias_of_age(is_valid.shape[1], attention.bias)]
        score = score + table[after.clamp(0, is_valid.shape[1] - 1)]
    weight = (F.relu(score) if attention.unit is None else score) * is_valid.unsqueeze(2)
    context = torch.bmm(weight.transpose(1, 2), values)
    if attention.norm != "none":
        length = is_valid.long().sum(dim=1).clamp_min(1).float().view(-1, 1, 1)
        context = context / (length if attention.norm == "length" else length.sqrt())
    if attention.gate is not None:
        context = context * (1.0 + F.linear(target, attention.gate.weight)).unsqueeze(1)
    value = attention.value.weight.view(attention.num_heads, -1, values.shape[2])
    mixed = torch.einsum("nhd,hwd->nhw", context, value).flatten(1)
    return F.linear(mixed, attention.output.weight) + target


def _scores(attention: TargetAttention, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Scores `(n, max_len, heads)` before the bias."""
    heads, width = attention.num_heads, attention.attention_dim // attention.num_heads
    projected, unit = F.linear(query, attention.query.weight), attention.unit
    if unit is None:
        key = attention.key.weight.view(heads, width, -1)
        direction = torch.einsum("nhw,hwd->nhd", projected.view(-1, heads, width), key) * (attention.scale / width**0.5)
        return torch.bmm(keys, direction.transpose(1, 2))
    of_query = torch.einsum("ad,ua->adu", attention.key.weight, unit.of_product.weight)
    matrix = torch.einsum("na,adu->ndu", projected, of_query) + unit.of_item.weight.t()
    offset = F.linear(query, unit.of_target.weight, unit.of_target.bias)
    return unit.scores(keys, matrix, offset) * attention.scale


def _numeric(source: QIN, raw: torch.Tensor) -> list[torch.Tensor]:
    num_fields, std = raw.shape[1], source.normalizer.std
    if not num_fields:
        return []
    is_missing, is_constant = raw.isnan(), std == 0
    # Not `copysign`, which ONNX has not.
    wide = raw.double()
    log = torch.sign(wide) * torch.log1p(wide.abs())
    standard = (log - source.normalizer.mean) / torch.where(is_constant, 1.0, std)
    value, flag = torch.where(is_missing | is_constant, 0.0, standard).float(), is_missing.float()
    blocks = [torch.cat((value, flag), dim=1) * source.numeric_weight]
    if source.periodic is not None:
        angle = 2.0 * torch.pi * value.unsqueeze(2) * source.periodic.frequency
        waves = torch.cat((angle.sin(), angle.cos()), dim=2)
        blocks.append(
            F.relu(torch.einsum("nfk,fkd->nfd", waves, source.periodic.weight) + source.periodic.bias).flatten(1)
        )
    if source.bins is not None:
        lower, inverse_width = source.bins.bins()
        parts = ((value.unsqueeze(2) - lower) * inverse_width).clamp(0.0, 1.0) * (1.0 - flag.unsqueeze(2))
        encoded = torch.cat((parts, flag.unsqueeze(2)), dim=2)
        blocks.append(torch.einsum("nfb,fbd->nfd", encoded, source.bins.weight).flatten(1))
    return blocks
