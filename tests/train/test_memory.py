"""A model that cannot be trained in this machine's memory is refused before any of it is allocated."""

import time

import pytest

from qin.columns.schema import Field, FieldKind, Schema
from qin.config import NetworkParams
from qin.model.build import build_model, resolve_inputs, resolve_sizes, unfitted
from qin.network.qin import network_width
from qin.runtime.errors import ConfigError
from qin.train.memory import check_memory

PARAMS = NetworkParams(
    embedding_dim=4, embedding_std=0.05, attention_dim=8, num_layers=2, num_rows=2, dropout=0.1, num_frequencies=3
)


def wide(*, num_categorical: int, num_numeric: int = 0, num_buckets: int = 100) -> Schema:
    fields = [Field(f"c{n}", FieldKind.CATEGORICAL, f"c{n}", num_buckets) for n in range(num_categorical)]
    fields += [Field(f"n{n}", FieldKind.NUMERIC) for n in range(num_numeric)]
    fields.append(Field("history", FieldKind.SEQUENCE, "c0", num_buckets, 5))
    return Schema(tuple(fields), target=("c0", "c1"), label="y", id="id", hash_seed=0)


@pytest.mark.parametrize("separate", [False, True])
def test_what_is_counted_is_what_the_network_has(separate: bool) -> None:
    schema = wide(num_categorical=30, num_numeric=20)
    params = PARAMS.model_copy(update={"separate_attention_embedding": separate})
    network = build_model(schema, params, unfitted(schema, params), seed=0)
    width = network_width(resolve_inputs(schema), resolve_sizes(schema, params), num_numeric=20)
    in_layers = sum(p.numel() for name, p in network.named_parameters() if name.startswith("network.layers"))
    in_tables = sum(p.numel() for name, p in network.named_parameters() if name.endswith("embedding_table"))
    assert in_tables == 3_000 * 4 * (1 + separate)
    assert in_layers >= 4 * width * (width + 1)
    needed = 20 * (4 * width * (width + 1) + in_tables)
    check_memory(schema, params, available_bytes=needed)
    with pytest.raises(ConfigError, match=f"50 columns|51 columns.*{width} wide"):
        check_memory(schema, params, available_bytes=needed - 1)


def test_twenty_thousand_columns_are_refused_in_one_line_at_once() -> None:
    schema, started = wide(num_categorical=20_000), time.process_time()
    with pytest.raises(ConfigError) as error:
        check_memory(schema, PARAMS, available_bytes=24 << 30)
    assert time.process_time() - started < 2.0
    message = str(error.value)
    assert "\n" not in message
    for word in ("params.yaml: model: 20001 columns", "80008 wide", "GiB to train, of 24 GiB here", "data.ignore"):
        assert word in message
