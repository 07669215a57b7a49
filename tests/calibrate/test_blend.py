"""The blend of members: what it chooses, that it is what its equation says, and that it survives odd members."""

import json

import numpy as np
import pytest

from qin.calibrate.blend import Blend, Member, _convex_weights, choose_blend
from qin.metrics.logits import sigmoid

OFFSETS = {"network": 0.0, "trees": 0.0}


def log_of(num_rows: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(-1.5, 1.2, num_rows)
    return truth, (generator.random(num_rows) < sigmoid(truth)).astype(np.uint8), generator


def log_loss(z: np.ndarray, label: np.ndarray) -> float:
    return float(np.logaddexp(0.0, np.where(label == 1, -z, z)).mean())


def parts(num_rows: int) -> np.ndarray:
    return np.arange(num_rows) % 5


def test_two_members_with_independent_errors_are_better_together_than_either() -> None:
    truth, label, generator = log_of(20_000, seed=1)
    logits = {name: truth + generator.normal(0, 0.8, truth.size) for name in OFFSETS}
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(label.size))
    assert choice.kind == "mean"
    assert choice.losses["mean"] < min(choice.losses["network"], choice.losses["trees"])
    assert {member.weight for member in choice.blend.members.values()} == {0.5}


def test_a_member_of_noise_gets_no_weight() -> None:
    truth, label, generator = log_of(20_000, seed=2)
    logits = {"network": truth, "trees": generator.normal(-1.5, 1.0, truth.size)}
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(label.size))
    assert choice.blend.members["trees"].weight < 0.05
    assert choice.blend.members["network"].weight > 0.95
    assert choice.gains["network"][0] > 0


def test_members_of_unequal_quality_get_unequal_weights_where_there_are_rows_enough() -> None:
    truth, label, generator = log_of(60_000, seed=3)
    logits = {
        "network": truth + generator.normal(0, 0.4, truth.size),
        "trees": truth + generator.normal(0, 1.6, truth.size),
    }
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(label.size))
    assert choice.kind == "convex"
    assert choice.blend.members["network"].weight > 0.7
    assert choice.losses["convex"] < choice.losses["mean"]


def test_weights_of_few_clicks_stay_near_equal_ones_and_those_of_many_do_not() -> None:
    # One click: the slope of its loss is that of the prior, (w_1 - 1/2) / 0.5^2 for each of the two weights.
    first = _convex_weights(np.array([[1.0, 0.0]]), np.array([True]))[0]
    assert (first - 0.5) / 0.5**2 * 2 == pytest.approx(sigmoid(np.array([-first]))[0], abs=1e-5)
    truth, label, generator = log_of(10_000, seed=9)
    noisy = truth + generator.normal(0, 1.6, truth.size)
    assert _convex_weights(np.stack([truth, noisy], axis=1), label == 1)[0] > 0.95


def test_a_member_that_is_the_better_by_far_is_taken_alone() -> None:
    truth, label, generator = log_of(3_000, seed=10)
    logits = {"network": truth + generator.normal(0, 3.0, truth.size), "trees": truth}
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(label.size))
    assert choice.kind in ("trees", "convex")
    assert choice.blend.members["network"].weight < 0.1


def test_scale_and_shift_of_a_member_do_not_matter() -> None:
    truth, label, generator = log_of(5_000, seed=4)
    noisy = truth + generator.normal(0, 0.5, truth.size)
    plain = choose_blend({"network": truth, "trees": noisy}, label, offsets=OFFSETS, part=parts(label.size))
    other = choose_blend(
        {"network": truth, "trees": 3.0 * noisy - 7.0},
        label,
        offsets={"network": 0.0, "trees": 1.0},
        part=parts(label.size),
    )
    expected = plain.blend.apply({"network": truth, "trees": noisy})
    found = other.blend.apply({"network": truth, "trees": 3.0 * noisy - 7.0})
    assert other.kind == plain.kind
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_blend_is_its_equation() -> None:
    blend = Blend({"a": Member(0.5, 2.0, -1.0, 0.25), "b": Member(0.0, 1.0, 0.0, 0.75)})
    a, b = np.array([0.1, -3.0]), np.array([1.0, 2.0], np.float32)
    np.testing.assert_allclose(blend.apply({"a": a, "b": b}), 0.25 * (2 * (a + 0.5) - 1) + 0.75 * b)


def test_one_member_alone_is_that_member() -> None:
    truth, label, _ = log_of(2_000, seed=5)
    choice = choose_blend({"network": truth}, label, offsets={"network": 0.0}, part=parts(label.size))
    assert choice.kind == "network"
    assert choice.blend.members["network"].weight == 1.0


@pytest.mark.parametrize("odd", ["constant", "backwards", "perfect"])
def test_a_member_without_a_curve_does_not_end_the_pipeline(odd: str) -> None:
    truth, label, _ = log_of(400, seed=6)
    member = {"constant": np.full(400, -2.0), "backwards": -truth, "perfect": 8.0 * label - 4.0}[odd]
    choice = choose_blend({"network": truth, "trees": member}, label, offsets=OFFSETS, part=parts(400))
    z = choice.blend.apply({"network": truth, "trees": member})
    assert np.isfinite(z).all()
    assert log_loss(z, label) < log_loss(np.full(400, np.log(label.mean() / (1 - label.mean()))), label)


def test_three_clicks_are_enough_for_a_blend() -> None:
    truth, _, generator = log_of(300, seed=7)
    label = np.zeros(300, np.uint8)
    label[[3, 70, 201]] = 1
    logits = {"network": truth, "trees": truth + generator.normal(0, 1, 300)}
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(300))
    assert np.isfinite(choice.blend.apply(logits)).all()


def test_it_travels_through_json() -> None:
    truth, label, generator = log_of(4_000, seed=8)
    logits = {"network": truth, "trees": truth + generator.normal(0, 0.5, truth.size)}
    choice = choose_blend(logits, label, offsets=OFFSETS, part=parts(label.size))
    again = Blend.from_dict(json.loads(json.dumps(choice.blend.to_dict())))
    np.testing.assert_array_equal(again.apply(logits), choice.blend.apply(logits))


def test_what_breaks_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        Blend({"a": Member(0.0, 1.0, 0.0, 0.5)})
    with pytest.raises(ValueError, match="slope must be positive"):
        Member(0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="needs the logits of b"):
        Blend({"b": Member(0.0, 1.0, 0.0, 1.0)}).apply({"a": np.zeros(2)})
