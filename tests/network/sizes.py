"""Sizes of small networks."""

from dataclasses import fields
from typing import Any

from qin.config import NetworkParams
from qin.network.qin import QINSizes

_WIDTHS: dict[str, Any] = {"embedding_dim": 16, "embedding_std": 1e-4, "attention_dim": 32}
_DEPTHS: dict[str, Any] = {"num_layers": 3, "num_rows": 2, "dropout": 0.0}


def make_sizes(**changes: Any) -> QINSizes:
    """The settings' defaults at the published width and depth, without dropout, but for the changes.

    They are not checked as settings are: some tests want what those refuse.
    """
    defaults = dict(NetworkParams(**_WIDTHS, **_DEPTHS))
    names = [field.name for field in fields(QINSizes) if field.name in defaults]
    return QINSizes(**{**{name: defaults[name] for name in names}, **changes})
