"""The whole network against its parts put together by hand, and the promises of its contract."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes
from tests.network.lookup import lookup
from tests.network.sizes import make_sizes

INPUTS = QINInputs(num_buckets=(5, 9, 4, 12), num_fields=3, sequence_vocabulary=(1, 3), target_fields=(1, 2))
SIZES = make_sizes(embedding_dim=3, attention_dim=7, num_layers=2, num_rows=2)
Batch = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]


def make(
    inputs: QINInputs = INPUTS,
    sizes: QINSizes = SIZES,
    *,
    num_numeric: int = 2,
    seed: int = 0,
    std: float = 0.5,
    is_rare: torch.Tensor | None = None,
) -> QIN:
    generator = torch.Generator().manual_seed(seed)
    normalizer = NumericNormalizer(torch.full((num_numeric,), 0.3), torch.full((num_numeric,), 1.7))
    edges = torch.linspace(-1.0, 1.0, sizes.numeric_bins + 1).expand(num_numeric, -1) if sizes.numeric_bins else None
    fitted = FittedInputs(normalizer=normalizer, edges=edges, is_rare=is_rare)
    model = QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=generator)
    model.init_parameters(generator, embedding_std=std)
    return model


def make_batch(batch: int = 6, *, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(1, n, (batch,), generator=generator) for n in INPUTS.num_buckets[:3]]
    numeric = torch.randn(batch, 2, generator=generator)
    numeric[0, 1] = math.nan
    lengths = torch.arange(batch) % 5
    sequences = []
    for vocabulary, seq in zip(INPUTS.sequence_vocabulary, (4, 6), strict=True):
        tokens = torch.randint(1, INPUTS.num_buckets[vocabulary], (batch, seq), generator=generator)
        sequences.append(tokens * (torch.arange(seq) < lengths[:, None]))
    return torch.stack(columns, dim=1), numeric, sequences


def by_hand(model: QIN, batch: Batch) -> torch.Tensor:
    """The same logits from the table's rows, row by row."""
    categorical, numeric, sequences = batch
    offsets = [0, 5, 14, 18]
    table = model.embedding.embedding_table
    rows = []
    for i in range(len(categorical)):
        fields = [table[offsets[f] + bucket] for f, bucket in enumerate(categorical[i].tolist())]
        target = torch.cat((fields[1], fields[2]))
        blocks = list(fields)
        for s, (vocabulary, tokens) in enumerate(zip((1, 3), sequences, strict=True)):
            attention = model.attentions[s]
            total = torch.zeros(7, dtype=table.dtype)
            for token in tokens[i].tolist():
                if token:
                    x = table[offsets[vocabulary] + token]
                    query = attention.get_parameter("query.weight") @ target
                    score = query @ attention.get_parameter("key.weight") @ x / math.sqrt(7)
                    total = total + score.relu() * (attention.get_parameter("value.weight") @ x)
            blocks.append(attention.get_parameter("output.weight") @ total + target)
        if model.sizes.pooled_history:
            for vocabulary, tokens in zip((1, 3), sequences, strict=True):
                items = [table[offsets[vocabulary] + token] for token in tokens[i].tolist() if token]
                blocks.append(torch.stack(items).mean(dim=0) if items else torch.zeros(3, dtype=table.dtype))
        normalized = model.normalizer(numeric[i : i + 1])
        blocks.append(normalized[0] * model.numeric_weight)
        if model.bins is not None:
            blocks.append(model.bins(normalized)[0])
        rows.append(torch.cat(blocks))
    logit: torch.Tensor = model.network(torch.stack(rows))
    return logit


@pytest.mark.parametrize("variant", [{}, {"pooled_history": True}, {"pooled_history": True, "numeric_bins": 3}])
def test_equals_its_parts_put_together_by_hand(variant: dict[str, Any]) -> None:
    sizes = make_sizes(embedding_dim=3, attention_dim=7, num_layers=2, num_rows=2, **variant)
    model, batch = make(sizes=sizes).double(), make_batch()
    parameters = list(model.parameters())
    ours, reference = model(*batch), by_hand(model, batch)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(reference.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_numeric", [0, 2])
@pytest.mark.parametrize("has_sequence", [False, True])
def test_sequences_and_numeric_fields_are_optional(num_numeric: int, has_sequence: bool) -> None:
    """Every input that is there changes the logit, and every parameter gets a gradient."""
    inputs = QINInputs(
        num_buckets=(5, 9), num_fields=2, sequence_vocabulary=(1,) if has_sequence else (), target_fields=(1,)
    )
    model = make(inputs, num_numeric=num_numeric, seed=3)
    generator = torch.Generator().manual_seed(4)
    categorical = torch.randint(1, 5, (64, 2), generator=generator)
    numeric = torch.randn(64, num_numeric, generator=generator)
    sequences = [torch.randint(1, 9, (64, 4), generator=generator)] if has_sequence else []
    logit = model(categorical, numeric, sequences)
    assert logit.shape == (64,)
    assert (model(categorical % 4 + 1, numeric, sequences) != logit).any(dim=0)
    if num_numeric:
        assert (model(categorical, numeric + 1, sequences) != logit).all()
    if has_sequence:
        assert (model(categorical, numeric, [sequences[0] % 8 + 1]) != logit).any()
    logit.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.numel())


def test_padding_changes_nothing() -> None:
    model, (categorical, numeric, sequences) = make(), make_batch()
    logit = model(categorical, numeric, sequences)
    longer = [nn.functional.pad(s, (2, 3)) for s in sequences]
    torch.testing.assert_close(model(categorical, numeric, longer), logit)
    stored = [s.to(torch.uint16) for s in sequences]
    assert torch.equal(model(categorical.to(torch.uint16), numeric, stored), logit)


def test_a_row_does_not_see_its_batch() -> None:
    model, (categorical, numeric, sequences) = make().double().eval(), make_batch()
    whole = model(categorical, numeric, sequences)
    for i in range(len(whole)):
        alone = model(categorical[i : i + 1], numeric[i : i + 1], [s[i : i + 1] for s in sequences])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-12, atol=1e-12)


def test_parameters_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = make(seed=5), make(seed=5), make(seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.network.fc.weight, other.network.fc.weight)


def test_initial_parameters_have_the_published_scales() -> None:
    inputs = QINInputs(num_buckets=(2000, 3000), num_fields=2, sequence_vocabulary=(1,), target_fields=(0, 1))
    sizes = make_sizes(embedding_dim=16, attention_dim=64, num_rows=3, norm="batch")
    normalizer = NumericNormalizer(torch.zeros(8), torch.ones(8))
    model = QIN(
        inputs=inputs,
        sizes=sizes,
        fitted=FittedInputs(normalizer=normalizer),
        generator=torch.Generator().manual_seed(0),
    )
    table = model.embedding.embedding_table
    assert table[[0, 2000]].abs().sum() == 0
    assert table.std().item() == pytest.approx(1e-4, rel=0.02)
    num_linear = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features > 1:
            xavier = math.sqrt(2.0 / (module.in_features + module.out_features))
            assert module.weight.std().item() == pytest.approx(xavier, rel=0.06)
            assert module.bias is None or module.bias.abs().sum() == 0
            num_linear += 1
    assert num_linear == 4 + 3


def test_the_base_rate_sets_the_first_prediction() -> None:
    model = make(std=1e-4, num_numeric=0)
    model.set_base_rate(0.019)
    categorical, _, sequences = make_batch()
    probability = torch.sigmoid(model(categorical, torch.empty(6, 0), sequences))
    torch.testing.assert_close(probability, torch.full((6,), 0.019), rtol=1e-3, atol=0)


def test_dropout_acts_in_training_only_and_follows_the_global_seed() -> None:
    sizes = make_sizes(embedding_dim=3, attention_dim=7, num_layers=2, num_rows=2, dropout=0.3, embedding_dropout=0.3)
    plain = make()
    model = make(sizes=sizes)
    batch = make_batch()

    def seeded(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            logit: torch.Tensor = model(*batch)
            return logit

    assert torch.equal(seeded(0), seeded(0))
    assert not torch.equal(seeded(0), seeded(1))
    model.eval()
    assert torch.equal(seeded(0), seeded(1))
    assert torch.equal(model(*batch), plain(*batch))


def test_weights_survive_saving() -> None:
    model, other, batch = make(seed=7), make(seed=8), make_batch()
    assert not torch.equal(model(*batch), other(*batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*batch), other(*batch))


def test_it_learns_whether_target_and_history_meet() -> None:
    """The label is 1 where target and history are the same item: without both, no loss is below the entropy."""
    inputs = QINInputs(num_buckets=(6,), num_fields=1, sequence_vocabulary=(0,), target_fields=(0,))
    sizes = make_sizes(embedding_dim=8, attention_dim=16, num_layers=1, num_rows=1)
    model = make(inputs, sizes, num_numeric=0, std=0.5)
    pairs = torch.cartesian_prod(torch.arange(2, 6), torch.arange(2, 6))
    label = (pairs[:, 0] == pairs[:, 1]).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        logit = model(pairs[:, :1], torch.empty(16, 0), [pairs[:, 1:]])
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label)
        torch.autograd.backward(loss)
        optimizer.step()
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert loss.item() < 0.8 * entropy


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QINInputs(num_buckets=(3,), num_fields=2), r"num_fields must be in \[1, 1\], got 2"),
        (lambda: QINInputs(num_buckets=(3,), num_fields=0), r"num_fields must be in \[1, 1\], got 0"),
        (
            lambda: QINInputs(num_buckets=(3,), num_fields=1, sequence_vocabulary=(1,), target_fields=(0,)),
            r"vocabulary must be in \[0, 1\), got 1",
        ),
        (lambda: QINInputs(num_buckets=(3, 3), num_fields=1, target_fields=(1,)), r"target field .* got 1"),
        (lambda: QINInputs(num_buckets=(3, 3), num_fields=2, target_fields=(1, 1)), "must not repeat"),
        (lambda: QINInputs(num_buckets=(3,), num_fields=1, sequence_vocabulary=(0,)), "at least one target field"),
        (lambda: make(sizes=make_sizes(embedding_dropout=1.0)), r"embedding_dropout must be in \[0, 1\), got 1.0"),
        (lambda: make(std=0.0), "embedding_std must be positive and finite"),
        (lambda: make().set_base_rate(0.0), r"inside \(0, 1\), got base_rate=0.0"),
    ],
)
def test_bad_settings_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_inputs_are_refused() -> None:
    model, (categorical, numeric, sequences) = make(), make_batch()
    with pytest.raises(ValueError, match=r"categorical must be \(batch, 3\), got \(6, 2\)"):
        model(categorical[:, :2], numeric, sequences)
    with pytest.raises(ValueError, match="reads 2 sequences, got 1"):
        model(categorical, numeric, sequences[:1])
    with pytest.raises(ValueError, match=r"must have 6 rows, got \(5, 4\)"):
        model(categorical, numeric, [sequences[0][:5], sequences[1]])
    with pytest.raises(ValueError, match=r"numeric values must be \(batch, 2\), got \(6, 1\)"):
        model(categorical, numeric[:, :1], sequences)


def test_whole_fields_are_dropped_in_training_only() -> None:
    model = make(sizes=make_sizes(embedding_dim=3, attention_dim=7, num_layers=1, num_rows=1, field_dropout=0.5))
    categorical = make_batch(200)[0]
    embedded = model.embedding(categorical)
    torch.manual_seed(0)
    dropped = model._without_fields(embedded)
    is_kept = dropped.abs().sum(dim=2) > 0
    assert 0.4 < is_kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[is_kept], 2 * embedded[is_kept])
    model.eval()
    assert model._without_fields(embedded) is embedded


def test_the_attention_may_have_embeddings_of_its_own() -> None:
    sizes = make_sizes(embedding_dim=3, attention_dim=7, separate_attention_embedding=True)
    model, (categorical, numeric, sequences) = make(sizes=sizes).double(), make_batch()
    own = model.attention_embedding
    assert own is not None
    embedded = model.embedding(categorical)
    target, query = (table(categorical)[:, [1, 2]].flatten(1) for table in (model.embedding, own))
    blocks = [embedded.flatten(1)]
    for attention, vocabulary, tokens in zip(model.attentions, (1, 3), sequences, strict=True):
        history, keys = (lookup(table, tokens, field=vocabulary) for table in (model.embedding, own))
        blocks.append(attention(target, history, tokens != 0, query=query, keys=keys))
    block = model.normalizer(numeric) * model.numeric_weight
    torch.testing.assert_close(model(categorical, numeric, sequences), model.network(torch.cat((*blocks, block), 1)))
    model(categorical, numeric, sequences).sum().backward()
    assert own.embedding_table.grad is not None
    assert own.embedding_table.grad.abs().sum() > 0


def test_periodic_numbers_stand_beside_the_plain_ones() -> None:
    sizes = make_sizes(embedding_dim=3, attention_dim=7, num_frequencies=2)
    model, batch = make(sizes=sizes), make_batch()
    plain, periodic = model._numeric(batch[1])
    assert model.periodic is not None
    normalized = model.normalizer(batch[1])
    torch.testing.assert_close(plain, normalized * model.numeric_weight)
    torch.testing.assert_close(periodic, model.periodic(normalized[:, :2]))
    assert model(*batch).shape == (6,)


def test_field_dropout_and_frequencies_are_checked() -> None:
    with pytest.raises(ValueError, match=r"field_dropout must be in \[0, 1\), got 1.0"):
        make_sizes(field_dropout=1.0)
    with pytest.raises(ValueError, match="num_frequencies must be at least 0, got -1"):
        make_sizes(num_frequencies=-1)
    with pytest.raises(ValueError, match="numeric_bins must be at least 0, got -1"):
        make_sizes(numeric_bins=-1)


def test_bins_need_the_edges_of_so_many() -> None:
    fitted = FittedInputs(
        normalizer=NumericNormalizer(torch.zeros(2), torch.ones(2)), edges=torch.arange(4.0).expand(2, -1)
    )
    for num_bins in (0, 2):
        with pytest.raises(ValueError, match=f"edges of {num_bins} bins are needed"):
            QIN(inputs=INPUTS, sizes=make_sizes(numeric_bins=num_bins), fitted=fitted, generator=torch.Generator())


def test_rare_values_are_null_to_every_reader() -> None:
    """Fields, target, histories and the attention's own embeddings."""
    sizes = make_sizes(embedding_dim=3, attention_dim=7, separate_attention_embedding=True, pooled_history=True)
    is_rare = torch.arange(30) % 4 == 3
    is_rare[[0, 1, 5, 6, 14, 15, 18, 19]] = False
    model, plain = make(sizes=sizes, is_rare=is_rare), make(sizes=sizes)
    categorical, numeric, sequences = make_batch(64)
    offsets = torch.tensor([0, 5, 14, 18])
    known = categorical.masked_fill(is_rare[categorical + offsets[:3]], 1)
    items = [
        s.masked_fill(is_rare[s + offsets[v]], 1) for v, s in zip(INPUTS.sequence_vocabulary, sequences, strict=True)
    ]
    assert torch.equal(model(categorical, numeric, sequences), plain(known, numeric, items))
    assert not torch.equal(plain(categorical, numeric, sequences), plain(known, numeric, items))
    assert {name for name in model.state_dict() if "is_rare" in name} == {
        "embedding.is_rare",
        "attention_embedding.is_rare",
    }


def test_in_bf16_the_logit_is_not_rounded() -> None:
    """Near 100, neighbours in bfloat16 are 0.5 apart."""
    model, batch = make().eval(), make_batch(64)
    with torch.no_grad():
        model.network.fc.bias.fill_(100.0)
        exact = model(*batch)
        model.use_bf16 = True
        torch.testing.assert_close(model(*batch), exact, rtol=0, atol=0.02)
    assert exact.std() > 0.02


@pytest.mark.parametrize("norm", ["none", "rms"])  # tiled, and whole
def test_a_part_of_a_batch_has_its_own_rows_masks(norm: Any) -> None:
    """So that several processes drop what one drops: values and gradients of a batch are those of its parts."""
    sizes = replace(SIZES, dropout=0.3, row_dropout=0.3, embedding_dropout=0.3, field_dropout=0.3, norm=norm)
    model, batch = make(sizes=sizes), make_batch(600)  # more than two tiles
    parameters = [parameter for parameter in model.parameters() if parameter.numel()]

    def run(first: int, stop: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        torch.manual_seed(3)
        categorical, numeric, sequences = batch
        part = categorical[first:stop], numeric[first:stop], [sequence[first:stop] for sequence in sequences]
        logit = model(*part, first_row=first)
        return logit.detach(), torch.autograd.grad(logit.sum(), parameters)

    whole, grads = run(0, 600)
    parts = [run(*bounds) for bounds in ((0, 250), (250, 251), (251, 600))]
    torch.testing.assert_close(torch.cat([logit for logit, _ in parts]), whole, rtol=1e-5, atol=1e-5)
    for number, grad in enumerate(grads):
        total = torch.stack([part[number] for _, part in parts]).sum(0)
        torch.testing.assert_close(total, grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()))
