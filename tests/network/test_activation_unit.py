"""The hidden layer of an activation unit, folded into the target, against the formula item by item."""

import torch

from qin.network.activation_unit import NUM_UNITS, ActivationUnit
from tests.network.sizes import make_sizes
from tests.network.test_qin import make


def test_scores_are_those_of_the_formula() -> None:
    unit, generator = ActivationUnit(4, sequence_dim=3, attention_dim=5).double(), torch.Generator().manual_seed(0)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    shapes = ((6, 4), (6, 7, 3), (5, 4), (5, 3))
    target, items, query_weight, key_weight = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes
    )
    matrix, offset = unit.of_rows(target, query=target @ query_weight.t(), key_weight=key_weight)
    assert (matrix.shape, offset.shape) == ((6, 3, NUM_UNITS), (6, NUM_UNITS))
    found = unit.scores(items, matrix, offset)
    for i in range(6):
        for k in range(7):
            product = (query_weight @ target[i]) * (key_weight @ items[i, k])
            parts = [unit.of_target(target[i]), unit.of_item(items[i, k]), unit.of_product(product)]
            expected = unit.output(torch.stack(parts).sum(dim=0).relu())
            torch.testing.assert_close(found[i, k], expected, rtol=0, atol=1e-11)


def test_it_starts_near_a_score_of_zero_so_that_a_constant_alone_pools_the_history() -> None:
    """Small embeddings, no constant inside: at the start a score is next to what the attention's bias adds."""
    (attention, _) = make(sizes=make_sizes(attention_score="mlp", attention_bias="constant"), std=0.05).attentions
    unit, generator = attention.get_submodule("unit"), torch.Generator().manual_seed(0)
    assert isinstance(unit, ActivationUnit)
    target, items = (0.05 * torch.randn(shape, generator=generator) for shape in ((50, 32), (50, 9, 16)))
    query = target @ attention.get_parameter("query.weight").t()
    rows = unit.of_rows(target, query=query, key_weight=attention.get_parameter("key.weight"))
    assert unit.scores(items, *rows).abs().max() < 0.3
    assert attention.get_parameter("score_bias").item() == 1.0
