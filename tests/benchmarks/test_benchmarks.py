"""The baseline computes what ours does, counted costs equal hand counts, and the training benchmark runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from benchmarks import imbalance, kuairand_speed, train_speed
from benchmarks.published import (
    LogRows,
    PublishedQIN,
    PublishedQuadraticLayer,
    embedding_penalty,
    forward_flops,
    training_bytes,
)
from benchmarks.reference_log import write_log
from benchmarks.tables import _imbalance_table
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes
from qin.shards.files import ShardReader
from tests.network.sizes import make_sizes
from tests.project import ROOT, SMALL, set_params

INPUTS = QINInputs(num_buckets=(5, 9, 4, 12), num_fields=3, sequence_vocabulary=(1, 3), target_fields=(1, 2))
SIZES = make_sizes(embedding_dim=3, embedding_std=0.5, attention_dim=7, num_layers=2, num_rows=3, dropout=0.0)
PARTS = {
    "loader",
    "embedding",
    "attention",
    "numeric and concatenation",
    "quadratic",
    "loss, backward and clipping",
    "optimizer",
    "other",
}


def make_model(sizes: QINSizes = SIZES, inputs: QINInputs = INPUTS) -> QIN:
    generator = torch.Generator().manual_seed(0)
    normalizer = NumericNormalizer(torch.tensor([0.3, -0.2]), torch.tensor([1.7, 0.0]))
    model = QIN(inputs=inputs, sizes=sizes, fitted=FittedInputs(normalizer=normalizer), generator=generator).double()
    with torch.no_grad():
        model.numeric_weight.normal_(generator=generator)
    return model


def make_batch(batch: int = 11) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(0, size, (batch,), generator=generator) for size in INPUTS.num_buckets[:3]]
    numeric = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
    numeric[0, 1] = torch.nan
    length = torch.arange(batch) % 6  # the first history is empty
    sequences = [
        torch.randint(1, INPUTS.num_buckets[vocabulary], (batch, seq), generator=generator)
        * (torch.arange(seq) < length[:, None])
        for vocabulary, seq in zip(INPUTS.sequence_vocabulary, (5, 4), strict=True)
    ]
    return torch.stack(columns, dim=1), numeric, sequences


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_published_network_equals_ours_with_gradients(batch_norm: bool, training: bool) -> None:
    ours = make_model(make_sizes(**{**vars(SIZES), "norm": "batch" if batch_norm else "none"}))
    published = PublishedQIN(ours, sizes=make_sizes(**{**vars(SIZES), "norm": "batch" if batch_norm else "none"}))
    ours.train(training)
    published.train(training)
    categorical, numeric, sequences = make_batch()
    cotangent = torch.randn(len(numeric), generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    logits = [model(categorical, numeric, sequences) for model in (ours, published)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-10)
    for logit in logits:
        logit.backward(cotangent)

    tables = torch.cat([table.grad for table in published.table_weights if table.grad is not None])
    torch.testing.assert_close(tables, ours.embedding.embedding_table.grad, rtol=0, atol=1e-10)
    theirs = dict(published.named_parameters())
    others = {name: value for name, value in ours.named_parameters() if not name.startswith("embedding.")}
    assert others.keys() == {name for name in theirs if not name.startswith("tables.")}
    for name, parameter in others.items():
        torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=0, atol=1e-10)
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-6, f"{name} would be compared on zeros"


def test_published_rows_have_dropout_of_their_own() -> None:
    """With x = 1, zero weights and biases 1, each of three rows adds 0 or 2; dropped together they would add 0 or 6."""
    sizes = make_sizes(**{**vars(SIZES), "dropout": 0.5, "row_dropout": 0.5})
    layer = PublishedQIN(make_model(sizes), sizes=sizes).network.layers[0].float()
    assert isinstance(layer, PublishedQuadraticLayer)
    dim = layer.linear.in_features
    with torch.no_grad():
        layer.linear.weight.zero_()
        layer.linear.bias.fill_(1.0)
    out = layer(torch.ones(4096, dim))
    assert set(out.unique().tolist()) == {0.0, 2.0, 4.0, 6.0}


def test_published_network_has_no_embedding_dropout() -> None:
    sizes = make_sizes(**{**vars(SIZES), "embedding_dropout": 0.1})
    with pytest.raises(ValueError, match=r"embedding dropout, got 0\.1"):
        PublishedQIN(make_model(sizes), sizes=sizes)


def test_penalty_is_half_the_sum_of_squares_of_all_tables() -> None:
    model = make_model()
    penalty = embedding_penalty(PublishedQIN(model, sizes=SIZES), strength=0.3)
    torch.testing.assert_close(penalty, 0.15 * model.embedding.embedding_table.square().sum())


def tiny_model(**changes: Any) -> QIN:
    """Two fields of width 2, attention width 5, one sequence, no numeric fields: 3 x 2 = 6 inputs of the network."""
    inputs = QINInputs(num_buckets=(4, 7), num_fields=2, sequence_vocabulary=(1,), target_fields=(1,))
    sizes = make_sizes(embedding_dim=2, attention_dim=5, num_layers=1, num_rows=3, **changes)
    normalizer = NumericNormalizer(torch.zeros(0), torch.zeros(0))
    return QIN(
        inputs=inputs,
        sizes=sizes,
        fitted=FittedInputs(normalizer=normalizer),
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize(("is_folded", "products"), [(True, 1), (False, 3)])
def test_counted_operations_equal_a_count_by_hand(is_folded: bool, products: int) -> None:
    query, direction, value, output = 2 * 5, 5 * 2, 2 * 5, 5 * 2
    scores, weighted_sum = 4 * 2, 4 * 2
    per_row = products * 6 * 6 + 6 + query + direction + value + output + scores + weighted_sum
    assert forward_flops(tiny_model(), batch=10, seq=4, is_folded=is_folded) == 2 * 10 * per_row


def test_counted_operations_of_an_activation_unit_equal_a_count_by_hand() -> None:
    query, matrix, offset, value, output = 2 * 5, 32 * 5 * 2, 32 * 2, 2 * 5, 5 * 2
    scores, weighted_sum = 4 * (32 * 2 + 32), 4 * 2
    per_row = 6 * 6 + 6 + query + matrix + offset + value + output + scores + weighted_sum
    model = tiny_model(attention_score="mlp")
    assert forward_flops(model, batch=10, seq=4, is_folded=True) == 2 * 10 * per_row


@pytest.mark.parametrize(("is_folded", "products"), [(True, 1), (False, 3)])
def test_counted_bytes_equal_a_count_by_hand(is_folded: bool, products: int) -> None:
    table = 11 * 2
    weights = 4 * 10 + (3 * 6 * 6 + 3 * 6) + 1 + (6 + 1)  # attention, quadratic layer, PReLU, output
    embeddings, history, layer = 10 * (2 + 4) * 2, 10 * 4 * 2, 10 * 6
    expected = 5 * embeddings + 3 * history + (5 + 4 * products) * layer + 10 * weights + 8 * table
    assert training_bytes(tiny_model(), batch=10, seq=4, is_folded=is_folded) == 4 * expected


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed") / "log"
    write_log(folder, num_rows=10_000, seed=0)
    return folder


def test_log_has_the_reference_shape(log: Path) -> None:
    reader = ShardReader(log)
    assert [group.width for group in reader.groups] == [40, 70, 100, 1]
    tokens = reader.read("sequence.seq", 0, 10_000)
    length = (tokens != 0).sum(axis=1)
    assert abs((length == 100).mean() - 0.86) < 0.02
    assert 1 <= length.min() < 10
    assert abs(reader.read("label", 0, 10_000).mean() - 0.02) < 0.01
    limits = [field.num_buckets for field in reader.schema.categorical]
    buckets = reader.read("categorical", 0, 10_000)
    assert (buckets.min(axis=0) >= 2).all()
    assert (buckets.max(axis=0) < limits).all()


def test_rows_of_the_baseline_hold_the_columns_of_the_log(log: Path) -> None:
    reader = ShardReader(log)
    rows = LogRows(reader)
    categorical, numeric, tokens, label, rest = torch.from_numpy(rows[123]).tensor_split(rows.stops)
    assert (len(rows), rest.numel()) == (10_000, 0)
    for part, group in zip((categorical, numeric, tokens, label), reader.groups, strict=True):
        expected = torch.from_numpy(reader.read(group.name, 123, 124)[0].astype("f8"))
        torch.testing.assert_close(part, expected, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def _settings_of_torch() -> Iterator[None]:
    """The benchmark sets threads and deterministic kernels for its process; here others follow."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.usefixtures("_settings_of_torch")
def test_training_benchmark_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_speed, "_LIMIT_SIZE", 64)
    monkeypatch.setattr(train_speed, "_LIMIT_COPY", 1024)
    out = tmp_path / "speed.json"
    train_speed.main(width=[2], layers=[1], rows=[2], batch=32, blocks=1, seconds=0.01, out=out)

    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert all(value > 0 for value in result["limits"].values())
    (case,) = result["cases"]
    training, scoring = case["training_rows_per_second"], case["scoring_rows_per_second"]
    assert case["training_ratio"]["ours"] == training["ours"] / training["published"]
    assert case["scoring_ratio"]["profile"] == scoring["profile"] / scoring["published"]
    for parts in case["seconds_per_step"].values():
        assert parts.keys() == PARTS
        assert min(parts.values()) > 0
    assert all(peak["peak_memory_bytes"] > 1 << 26 for peak in case["memory"].values())


def test_depths_need_their_rows() -> None:
    with pytest.raises(typer.BadParameter, match="each --layers needs its --rows"):
        train_speed.main(layers=[3, 4], rows=[2])


def test_moments_equal_those_of_the_vectors_at_once() -> None:
    """Around a center that is not the mean, with the bias that a sample covariance gives."""
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3.0
    center = torch.ones(5, dtype=torch.float64)
    moments = imbalance.Moments(center)
    for vector in vectors:
        moments.add(vector)
    trace = torch.cov(vectors.T).trace().item()
    assert moments.variance == pytest.approx(trace, rel=1e-12)
    distance = (vectors.mean(0) - center).square().sum().item()
    assert moments.squared_bias == pytest.approx(distance - trace / 7, rel=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("_settings_of_torch")
def test_imbalance_benchmark_runs(tmp_path: Path, small_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "imbalance.json"
    params.write_text((ROOT / "params.yaml").read_text())
    set_params(params, {**SMALL, "train.epochs": 1})
    imbalance.main(data=small_log, params=params, draws=3, rounds=1, steps=1, out=out)

    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["variants"].keys() == imbalance.VARIANTS.keys()
    compared = {name: one for name, one in result["variants"].items() if name != imbalance.UNWEIGHTED}
    reference = compared[imbalance.ALL_ROWS]
    assert (reference["relative_variance"], reference["relative_variance_at_equal_time"]) == (1.0, 1.0)
    for mode in ("goss", "pps"):
        one, two = (compared[f"{mode}, {passes}"] for passes in ("one pass", "two passes"))
        assert one["variance"] == pytest.approx(two["variance"], rel=1e-3)
    assert compared["ohem, two passes"]["bias"] > compared["ohem, two passes"]["bias_resolution"]
    assert result["trained"].keys() == {name for name in imbalance.VARIANTS if "one pass" not in name}
    assert "| way |" in _imbalance_table(result)


def test_the_kuairand_benchmark_is_skipped_without_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kuairand_speed.main(tmp_path)
    assert "skipped" in capsys.readouterr().err
