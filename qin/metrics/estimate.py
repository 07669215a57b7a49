"""A metric's value with what each row contributes to its error: what definitions give and standard errors read."""

from dataclasses import dataclass

from qin.metrics.logits import Float64Array, FloatArray


@dataclass(frozen=True)
class RankedBy:
    """A share of an estimate that is an average precision.

    Attributes:
        weight: Its factor.
        logit: `(n,)`, which ranks.
    """

    weight: float
    logit: FloatArray


@dataclass(frozen=True)
class Estimate:
    """A metric with what each row contributes to its error.

    Attributes:
        value: The metric.
        influence: `(n,)`, the influence function at each row over n; sums to 0.
        ranked: The average precisions in it, whose intervals are resampled where clicks are few.
    """

    value: float
    influence: Float64Array
    ranked: tuple[RankedBy, ...] = ()

    def minus(self, other: "Estimate") -> "Estimate":
        """This estimate less another one of the same rows."""
        ranked = (*self.ranked, *(RankedBy(-one.weight, one.logit) for one in other.ranked))
        return Estimate(self.value - other.value, self.influence - other.influence, ranked)
