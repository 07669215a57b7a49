"""One logit from the members of a model: the mean of their calibrated logits, a convex combination, or one of them.

Each member's natural logit `z_k` gets a curve of its own, `c_k = a_k z_k + b_k` (Platt), because members differ in how
far they spread their logits; the blend is `sum_k w_k c_k` with weights `w_k >= 0` that sum to 1. Logits are combined,
not probabilities: a mean of logits keeps sharp what the members agree on (a product of experts).

Source: Platt (1999), Probabilistic outputs for support vector machines; Genest and Zidek (1986), Combining probability
distributions (logarithmic opinion pools); Breiman (1996), Stacked regressions (weights that are not negative).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qin.metrics.logistic import fit_logistic, has_overlap
from qin.metrics.logits import BoolArray, Float64Array, FloatArray, IntArray, LabelArray, positive_rows, row_chunks
from qin.runtime.files import check_keys
from qin.runtime.progress import followed

MEAN, CONVEX = "mean", "convex"

# How much better than a blend of all a member alone must be, in paired standard errors of the cross-fitted log loss. To
# drop a member is a large step, which a few clicks can suggest by chance; to wait for a whole error costs more than the
# chance does where one member is the better by far.
_NUM_SE = 0.5
# Standard deviation of a weight around equal weights before the rows are seen: fitted to few clicks alone, weights are
# mostly noise. Thousands of clicks overrule it.
_WEIGHT_DEVIATION = 0.5
_NO_WEIGHT = 1e-3  # hardly moves a probability, but the member would have to be scored


@dataclass(frozen=True)
class Member:
    """How one member enters the blend.

    Attributes:
        offset: Brings its logit to the natural scale; see `prior_offset`.
        slope: `a` of its curve, positive.
        intercept: `b` of its curve.
        weight: Its share of the blend, in [0, 1].
    """

    offset: float
    slope: float
    intercept: float
    weight: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            # A file may hold anything; `true` would pass for 1.
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number: {name}={value!r}")
        if self.slope <= 0.0:
            raise ValueError(f"slope must be positive: slope={self.slope}")
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"weight must lie in [0, 1]: weight={self.weight}")


@dataclass(frozen=True)
class Blend:
    """The members of a model and how their logits make one.

    Attributes:
        members: By name, in the settings' order; the weights sum to 1.
    """

    members: Mapping[str, Member]

    def __post_init__(self) -> None:
        total = sum(member.weight for member in self.members.values())
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"the members' weights must sum to 1: {total}")

    def apply(self, logits: Mapping[str, FloatArray]) -> Float64Array:
        """The blended logit on the natural scale, `(n,)`; rows do not influence each other.

        Args:
            logits: Each member's logits on its training scale, `(n,)`; members of no weight may be left out.

        Raises:
            ValueError: If a member with a weight is missing.
        """
        used = {name: member for name, member in self.members.items() if member.weight}
        missing = sorted(set(used) - set(logits))
        if missing:
            raise ValueError(f"the blend needs the logits of {', '.join(missing)}")
        out = np.zeros(next(iter(logits.values())).shape)
        for name, member in used.items():
            for rows, chunk in row_chunks(logits[name]):
                out[rows] += member.weight * (member.slope * (chunk + member.offset) + member.intercept)
        return out

    def to_dict(self) -> dict[str, Any]:
        """One key per member, ready for JSON."""
        return {name: asdict(member) for name, member in self.members.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Blend":
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a key is missing or unknown, or a value breaks a rule.
        """
        for member in values.values():
            check_keys(member, ("offset", "slope", "intercept", "weight"))
        return cls({name: Member(**member) for name, member in values.items()})


@dataclass(frozen=True)
class BlendChoice:
    """A chosen blend and why.

    Attributes:
        kind: `mean`, `convex`, or the name of the one member that is used.
        blend: Fitted on all rows given.
        losses: Cross-fitted mean log loss of each candidate.
        gains: Loss of the mean minus that of each candidate, with its paired standard error.
    """

    kind: str
    blend: Blend
    losses: dict[str, float]
    gains: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """What `artifacts/blend.json` holds."""
        return {
            "kind": self.kind,
            "members": self.blend.to_dict(),
            "losses": self.losses,
            "gains": {name: list(gain) for name, gain in self.gains.items()},
        }

    def headline(self) -> dict[str, Any]:
        """What is worth a column in `dvc exp show`."""
        weights = {name: member.weight for name, member in self.blend.members.items()}
        return {"kind": self.kind, "weights": weights, "selection_log_loss": self.losses}


def choose_blend(
    logits: Mapping[str, FloatArray], label: LabelArray, *, offsets: Mapping[str, float], part: IntArray
) -> BlendChoice:
    """Choose how to combine members by log loss on rows that the curves and weights were not fitted on.

    1. For each part, fit every candidate (the mean, a convex combination, each member alone) on the other parts and
       take the part's losses.
    2. Take the mean, or the convex combination where its loss is smaller.
    3. Take the best member alone instead, where it beats that by more than half a paired standard error.
    4. Fit the chosen one on all rows.

    Args:
        logits: Each member's logits on its training scale, `(n,)`.
        label: `(n,)`, 0 or 1.
        offsets: What brings each member's logit to the natural scale.
        part: Part of the cross-fitting of each row, from 0 on, `(n,)`.

    Raises:
        ValueError: If a class is missing, or a logit is not finite.
    """
    natural = {name: logit.astype(np.float64) + offsets[name] for name, logit in logits.items()}
    is_positive = positive_rows(next(iter(natural.values())), label)
    kinds = [MEAN, CONVEX, *natural] if len(natural) > 1 else [*natural]
    loss = {kind: np.empty(label.size) for kind in kinds}
    parts = list(_parts(part, is_positive))
    for fit, held in followed(parts, label="blend", unit="parts"):
        for kind in kinds:
            blend = _fit({name: z[fit] for name, z in natural.items()}, is_positive[fit], kind)
            z = blend.apply({name: z[held] for name, z in natural.items()})
            loss[kind][held] = np.logaddexp(0.0, np.where(is_positive[held], -z, z))
    gains = {kind: _gain(loss[kinds[0]], loss[kind]) for kind in kinds[1:]}
    kind = _choose(loss, list(natural))
    fitted = _fit(natural, is_positive, kind)
    return BlendChoice(
        kind, _with_offsets(fitted, offsets), {name: float(values.mean()) for name, values in loss.items()}, gains
    )


def _choose(loss: Mapping[str, Float64Array], members: list[str]) -> str:
    """The candidate to take, by each one's cross-fitted losses row by row."""
    mean = {kind: float(values.mean()) for kind, values in loss.items()}
    alone = min(members, key=mean.__getitem__)
    if len(members) == 1:
        return alone
    together = CONVEX if mean[CONVEX] < mean[MEAN] else MEAN
    gain, error = _gain(loss[together], loss[alone])
    return alone if gain > _NUM_SE * error else together


def _with_offsets(blend: Blend, offsets: Mapping[str, float]) -> Blend:
    """The same blend of logits that are not on the natural scale yet."""
    return Blend({name: Member(**{**asdict(m), "offset": offsets[name]}) for name, m in blend.members.items()})


def _parts(part: IntArray, is_positive: BoolArray) -> Iterator[tuple[BoolArray, BoolArray]]:
    """Rows to fit and rows held out; a part without which a class is missing is held out of nothing."""
    for number in range(int(part.max()) + 1):
        held = part == number
        if 0 < np.count_nonzero(is_positive[~held]) < np.count_nonzero(~held):
            yield ~held, held
        else:
            yield np.ones_like(held), held


def _gain(reference: Float64Array, other: Float64Array) -> tuple[float, float]:
    difference = reference - other
    return float(difference.mean()), float(difference.std() / math.sqrt(difference.size))


def _fit(natural: Mapping[str, Float64Array], is_positive: BoolArray, kind: str) -> Blend:
    curves = {name: _curve(z, is_positive) for name, z in natural.items()}
    if kind == MEAN:
        weights = dict.fromkeys(natural, 1.0 / len(natural))
    elif kind == CONVEX:
        curved = [slope * natural[name] + intercept for name, (slope, intercept) in curves.items()]
        weights = dict(zip(natural, _convex_weights(np.stack(curved, axis=1), is_positive), strict=True))
    else:
        weights = {name: float(name == kind) for name in natural}
    # Without an offset, as these logits have theirs already; `_with_offsets` names it for those that have not.
    return Blend({name: Member(0.0, *curves[name], weight) for name, weight in weights.items()})


def _curve(z: Float64Array, is_positive: BoolArray) -> tuple[float, float]:
    """Platt's slope and intercept; the logit as it is where no finite increasing curve exists."""
    if z.min() == z.max() or not has_overlap(z, is_positive):
        return 1.0, 0.0
    try:
        slope, intercept = fit_logistic(z, is_positive).coefficient.tolist()
    except ValueError:  # all but separated, or too close together, to rounding
        return 1.0, 0.0
    return (slope, intercept) if slope > 0.0 else (1.0, 0.0)


def _convex_weights(curved: Float64Array, is_positive: BoolArray) -> list[float]:
    """Weights that minimise the log loss and its prior, `(num_members,)`; convex, so any minimum is the minimum.

    The prior is normal around equal weights.
    """
    sign, num_members = np.where(is_positive, -1.0, 1.0), curved.shape[1]
    # Of the mean loss, as that is what is minimised.
    strength = 0.5 / _WEIGHT_DEVIATION**2 / sign.size

    def loss(weight: Float64Array) -> tuple[float, Float64Array]:
        # Sums of few terms in an order of ours: a library's product of such a narrow matrix may round by where it lies.
        margin = sign * (curved * weight).sum(axis=1)
        chance = np.exp(-np.logaddexp(0.0, -margin))  # sigmoid(margin), the loss's slope in the margin
        slope = (curved * (sign * chance)[:, None]).sum(axis=0)
        unequal = weight - 1.0 / num_members
        penalty = strength * float((unequal * unequal).sum())
        return float(np.logaddexp(0.0, margin).mean()) + penalty, slope / sign.size + 2.0 * strength * unequal

    from scipy.optimize import minimize  # noqa: PLC0415 -- 0.3 s, and only who fits a blend needs it

    found = minimize(
        loss,
        np.full(num_members, 1.0 / num_members),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * num_members,
        constraints={"type": "eq", "fun": lambda weight: weight.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    # The search ends where the loss changes by 1e-12: digits beyond these are the library's rounding, not the data's.
    weight = np.where(found.x < _NO_WEIGHT, 0.0, found.x.round(6))
    return [float(value) for value in weight / weight.sum()]
