"""Networks, batches and steps for `benchmarks.gpu`, in the reference shape or tiny; no settings file is read.

The machine that has the GPU may have neither pydantic nor what reads params.yaml. Only types of settings are needed
here, so a stand-in takes the place of `qin.config` where it cannot be imported.
"""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any


def _stand_in(name: str) -> type:
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (), {})


def stand_in_for_settings() -> None:
    """Let modules that name a setting's type be imported without pydantic; nothing can be read or checked then."""
    try:
        importlib.import_module("qin.config")
    except ModuleNotFoundError:
        pass
    else:
        return
    module = ModuleType("qin.config")
    vars(module)["__getattr__"] = _stand_in
    sys.modules["qin.config"] = module


stand_in_for_settings()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402

from qin.network.numeric import NumericNormalizer  # noqa: E402
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes  # noqa: E402
from qin.scored.prior import TrainingPrior  # noqa: E402
from qin.shards.loader import Batch  # noqa: E402
from qin.train.build import build_optimizer  # noqa: E402
from qin.train.forms import EAGER, Form  # noqa: E402
from qin.train.imbalance import TrainingRows  # noqa: E402
from qin.train.step import TrainingStep  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no dropout": {"dropout": 0.0},
    "published": {"norm": "batch", "row_dropout": 0.1, "embedding_std": 1e-4},
    "inside": {"activation": "inside"},
    "rms norm": {"norm": "rms"},
    "row dropout": {"row_dropout": 0.1},
    "heads, recency": {"num_heads": 2, "attention_bias": "recency", "attention_norm": "sqrt_length"},
    "constant bias, gate": {"attention_bias": "constant", "target_values": True, "attention_norm": "length"},
    "activation unit": {"attention_score": "mlp", "attention_bias": "constant", "attention_norm": "sqrt_length"},
    "separate table": {"separate_attention_embedding": True, "attention_bias": "recency"},
    "pooled, periodic, bins": {"pooled_history": True, "num_frequencies": 8, "numeric_bins": 8},
    "fields dropped": {"field_dropout": 0.1, "embedding_dropout": 0.1},
    "sparse table": {"sparse_embedding_grad": True},
}

_DEFAULTS: dict[str, Any] = {
    "embedding_dim": 16,
    "embedding_std": 0.05,
    "attention_dim": 32,
    "num_heads": 1,
    "attention_score": "product",
    "attention_norm": "none",
    "attention_bias": "none",
    "attention_scale": 1.0,
    "target_values": False,
    "separate_attention_embedding": False,
    "pooled_history": False,
    "num_layers": 3,
    "num_rows": 2,
    "activation": "after",
    "norm": "none",
    "dropout": 0.1,
    "row_dropout": 0.0,
    "embedding_dropout": 0.0,
    "field_dropout": 0.0,
    "num_frequencies": 0,
    "numeric_bins": 0,
}


@dataclass(frozen=True)
class Shape:
    """What the rows of a log look like.

    Attributes:
        num_fields: Categorical fields; the first is the target and shares its vocabulary with the history.
        num_buckets: Of each field.
        num_numeric: Numeric fields.
        max_len: Positions of the history.
    """

    num_fields: int
    num_buckets: int
    num_numeric: int
    max_len: int


REFERENCE = Shape(num_fields=42, num_buckets=4762, num_numeric=70, max_len=100)  # 828 wide, 200,000 rows of a table
TINY = Shape(num_fields=3, num_buckets=40, num_numeric=2, max_len=6)


def make_network(shape: Shape, *, seed: int = 0, **changes: Any) -> QIN:
    """A network with seeded weights."""
    sizes = QINSizes(**{**_DEFAULTS, **changes})
    inputs = QINInputs(
        num_buckets=(shape.num_buckets,) * shape.num_fields,
        num_fields=shape.num_fields,
        sequence_vocabulary=(0,),
        target_fields=(0,),
    )
    edges = torch.linspace(-2.0, 2.0, sizes.numeric_bins + 1).expand(shape.num_numeric, -1)
    fitted = FittedInputs(
        normalizer=NumericNormalizer(torch.zeros(shape.num_numeric), torch.ones(shape.num_numeric)),
        edges=edges if sizes.numeric_bins else None,
    )
    return QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=torch.Generator().manual_seed(seed))


def make_batch(shape: Shape, *, num_rows: int, seed: int = 0) -> Batch:
    """Random rows whose clicks depend on the target, on what stands in the history and on a number."""
    generator = np.random.default_rng(seed)
    buckets = 2 + ((shape.num_buckets - 2) * generator.random((num_rows, shape.num_fields)) ** 3).astype(np.int64)
    length = generator.integers(0, shape.max_len + 1, num_rows)
    tokens = 2 + ((shape.num_buckets - 2) * generator.random((num_rows, shape.max_len)) ** 3).astype(np.int64)
    tokens *= np.arange(shape.max_len) < length[:, None]
    numeric = generator.normal(size=(num_rows, shape.num_numeric)).astype(np.float32)
    effect = np.random.default_rng(7).normal(size=shape.num_buckets)  # the same in every batch
    signal = effect[buckets[:, 0]] + 0.5 * effect[tokens[:, -1]] + 0.5 * effect[buckets[:, 1]] + numeric[:, 0]
    label = generator.random(num_rows) < 1.0 / (1.0 + np.exp(1.0 - signal))
    numeric[generator.random(numeric.shape) < 0.01] = np.nan
    return Batch(
        rows=np.arange(num_rows),
        categorical=torch.from_numpy(buckets.astype(np.uint16)),
        numeric=torch.from_numpy(numeric),
        sequences=(torch.from_numpy(tokens.astype(np.uint16)),),
        label=torch.from_numpy(label.astype(np.float32)),
    )


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return batch.with_tensors([tensor.to(device) for tensor in batch.tensors])


class InMemory:
    """A `BatchSource` of rows in memory, in one order."""

    def __init__(self, rows: Batch, *, batch_size: int) -> None:
        self.batch_size, self._rows = batch_size, rows

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Whole batches."""
        return is_selected.size // self.batch_size

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """The same batches in every epoch."""
        del epoch
        pieces = list(self._rows.pieces(self.batch_size))
        yield from pieces[first_step : self.num_batches(is_selected)]


def train_params(**changes: Any) -> Any:
    """The settings of section train that a step and a loop read."""
    plain = {"seed": 5, "epochs": 1, "checks_per_epoch": 1, "patience": 1000, "schedule": "constant", "warmup_steps": 0}
    rest = {"gradient_clip": 1.0, "ema_decay": None, "self_ensemble": 0.0, "weight_decay": 0.01}
    saving = {"checkpoint_seconds": 1e9, "checkpoint_steps": None}
    return SimpleNamespace(**{**plain, **rest, **saving, **changes})


def training_rows(source: InMemory, rows: Batch) -> TrainingRows:
    """All rows, each with weight 1."""
    assert rows.label is not None
    label = rows.label.cpu().numpy().astype(np.uint8)
    prior = TrainingPrior(base_rate=float(label.mean()))
    return TrainingRows(source, np.ones(label.size, np.bool_), label, prior, seed=0)


def make_step(network: QIN, rows: Batch, *, batch_size: int, form: Form = EAGER, lr: float = 1e-3) -> TrainingStep:
    """A training step of the project's own."""
    params = train_params()
    return TrainingStep(
        network,
        optimizer=build_optimizer(network, params, lr=lr),
        rows=training_rows(InMemory(rows, batch_size=batch_size), rows),
        params=params,
        hard_negatives=None,
        form=form,
    )


def widened(shape: Shape, *, table_rows: int) -> Shape:
    """The same fields with a table of so many rows."""
    return replace(shape, num_buckets=min(table_rows // shape.num_fields, 1 << 16))
