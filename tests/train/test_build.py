"""Settings become the modules that they describe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.config import HardNegativeParams, NetworkParams, TrainParams, load_params
from qin.model.build import PUBLISHED, build_model, choose_bf16, choose_device, place, resolve_preset, unfitted
from qin.network.qin import QIN
from qin.runtime.errors import ConfigError
from qin.train.build import build_hard_negatives, build_loader, build_optimizer, check_passes
from qin.train.optimizers import Optimizers
from tests.logs import log_schema, make_log
from tests.planted import write_planted
from tests.project import ROOT

PARAMS = load_params(ROOT / "params.yaml")
SCHEMA = log_schema(make_log(4))


def model(**changes: Any) -> NetworkParams:
    return PARAMS.model.network.model_copy(update={"embedding_dim": 4, "attention_dim": 8, **changes})


def train(**changes: Any) -> TrainParams:
    return PARAMS.train.model_copy(update=changes)


def hnm(**changes: Any) -> HardNegativeParams:
    return PARAMS.hnm.model_copy(update={"enable": True, **changes})


def network(params: NetworkParams) -> QIN:
    return build_model(SCHEMA, params, unfitted(SCHEMA, params), seed=0)


def make_batch(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    categorical = torch.stack(
        [torch.randint(0, f.num_buckets, (rows,), generator=generator) for f in SCHEMA.categorical]
    )
    numeric = torch.randn(rows, len(SCHEMA.numeric), generator=generator)
    sequences = [torch.randint(0, f.num_buckets, (rows, f.max_len), generator=generator) for f in SCHEMA.sequences]
    return categorical.T, numeric, sequences


def test_the_published_preset_replaces_every_variant_and_keeps_the_sizes() -> None:
    ours = model(
        num_layers=2, num_heads=2, attention_bias="recency", activation="inside", norm="rms", preset="published"
    )
    published = resolve_preset(ours)
    assert (published.embedding_dim, published.attention_dim, published.num_layers) == (4, 8, 2)
    assert (published.norm, published.activation, published.dropout, published.row_dropout) == (
        "batch",
        "after",
        0.1,
        0.1,
    )
    for name in set(NetworkParams.model_fields) - {
        "preset",
        "embedding_dim",
        "attention_dim",
        "num_layers",
        "num_rows",
    }:
        expected = PUBLISHED[name] if name in PUBLISHED else NetworkParams.model_fields[name].default
        assert getattr(published, name) == expected, name
    names = {name for name, _ in network(ours).named_parameters()}
    assert names == {name for name, _ in network(published.model_copy(update={"preset": "custom"})).named_parameters()}
    assert not [name for name in names if "score_bias" in name or "gate" in name]


def test_the_published_preset_is_the_same_network_whatever_the_inputs_are_set_to() -> None:
    plain = network(model(preset="published"))
    other = network(model(preset="published", pooled_history=True, numeric_bins=8, min_count=5, num_frequencies=2))
    assert other.sizes == plain.sizes
    assert list(other.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in other.state_dict().items())


def test_the_published_preset_scores_by_the_product_whatever_is_set() -> None:
    names = {name for name, _ in network(model(preset="published", attention_score="mlp")).named_parameters()}
    assert names == {name for name, _ in network(model(preset="published")).named_parameters()}


def test_custom_settings_are_taken_as_they_are() -> None:
    params = model(num_heads=2, attention_bias="recency", target_values=True, num_frequencies=3)
    assert resolve_preset(params) is params
    names = {name for name, _ in network(params).named_parameters()}
    by_unit = {name for name, _ in network(model(attention_score="mlp")).named_parameters()}
    assert {"attentions.0.unit.of_product.weight", "attentions.0.unit.of_target.bias"} <= by_unit
    assert {"attentions.0.score_bias", "attentions.0.gate.weight", "periodic.frequency"} <= names


def test_large_tables_are_updated_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = network(model())
    assert isinstance(build_optimizer(dense, train(), lr=0.001), torch.optim.AdamW)
    monkeypatch.setattr("qin.model.build.SPARSE_TABLE_ROWS", len(dense.embedding.embedding_table))
    sparse = network(model())
    optimizer = build_optimizer(sparse, train(ema_decay=None), lr=0.001)
    assert isinstance(optimizer, Optimizers)
    owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in owned} == {id(parameter) for parameter in sparse.parameters()}
    assert len(owned) == len(list(sparse.parameters()))
    with pytest.raises(ConfigError, match=r"params\.yaml: train\.ema_decay: must be null with an embedding table"):
        build_optimizer(sparse, train(ema_decay=0.9), lr=0.001)


def two_passes(params: HardNegativeParams, **changes: Any) -> bool:
    mining = build_hard_negatives(params, network(model(**changes)), batch_size=1024, positive_share=0.02)
    assert mining is not None
    return mining.two_passes


def test_two_passes_are_made_where_they_save_time_and_may_be_made() -> None:
    assert two_passes(hnm())
    assert not two_passes(hnm(rest_frac=0.7))
    assert not two_passes(hnm(forward="one_pass"))
    assert two_passes(hnm(forward="two_pass", rest_frac=0.7))
    assert not two_passes(hnm(), norm="batch")
    assert two_passes(hnm(), norm="rms")
    assert not two_passes(hnm(), preset="published")
    assert build_hard_negatives(PARAMS.hnm, network(model()), batch_size=1024, positive_share=0.02) is None


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"preset": "published"}])
def test_two_passes_are_refused_with_batch_norm(changes: dict[str, str]) -> None:
    norm = resolve_preset(model(**changes)).norm
    with pytest.raises(
        ConfigError, match=r"params\.yaml: hnm\.forward: two_pass is impossible with batch norm .*because"
    ):
        check_passes(hnm(forward="two_pass"), norm=norm)
    check_passes(hnm(forward="auto"), norm=norm)
    check_passes(hnm(forward="two_pass", enable=False), norm=norm)
    check_passes(hnm(forward="two_pass"), norm="rms")


@pytest.mark.parametrize("min_table_rows", [None, 1], ids=["dense", "row by row"])
def test_the_optimizer_has_the_rate_that_it_is_given(
    min_table_rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the setting itself, which the batch size may scale; see test_pace.py."""
    if min_table_rows is not None:
        monkeypatch.setattr("qin.model.build.SPARSE_TABLE_ROWS", min_table_rows)
    optimizer = build_optimizer(network(model()), train(lr=0.5, ema_decay=None), lr=0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_the_loader_has_the_batch_size_that_it_is_given(tmp_path: Path) -> None:
    reader = write_planted(tmp_path / "log", num_rows=100)
    loader = build_loader(reader, train(batch_size="auto"), torch.device("cpu"), batch_size=32)
    everything = np.ones(100, np.bool_)
    assert [batch.rows.size for batch in loader.epoch(0, everything)] == [32, 32, 32]
    assert (loader.batch_size, loader.num_batches(everything)) == (32, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_devices() -> None:
    assert choose_device(train(device="auto")).type == "cpu"
    with pytest.raises(ConfigError, match=r"params\.yaml: train\.device: cuda, but PyTorch finds no GPU here"):
        choose_device(train(device="cuda"))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
        ({}, False),
    ],
)
def test_precision_follows_the_processor_unless_it_is_set(
    capabilities: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    assert choose_bf16(train(precision="auto"), cpu) is expected
    assert choose_bf16(train(precision="bf16"), cpu) is True
    assert choose_bf16(train(precision="fp32"), cpu) is False


def test_bf16_stays_near_float32_and_gives_float32_logits() -> None:
    batch, exact, rounded = make_batch(), network(model()), network(model())
    place(exact, train(precision="fp32", device="cpu"))
    place(rounded, train(precision="bf16", device="cpu"))
    exact.eval()
    rounded.eval()
    found, expected = rounded(*batch), exact(*batch)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()
    rounded(*batch).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in rounded.parameters())
