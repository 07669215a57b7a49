"""The names of what statistics count by, as params.yaml gives them."""

from collections.abc import Collection, Sequence

from qin.columns.patterns import matching
from qin.errors import did_you_mean


def counted_problems(
    patterns: Sequence[str] | None,
    pairs: Sequence[Sequence[str]] | None,
    *,
    categorical: Collection[str],
    sequences: Collection[str],
) -> list[str]:
    """What is wrong with `features.statistics.fields` and `features.statistics.pairs`, a line each.

    Args:
        patterns: Names or globs of categorical columns; None for all.
        pairs: Of a categorical column or a sequence with another categorical column; None where they are chosen.
        categorical: The categorical columns.
        sequences: The sequences.
    """
    problems = [
        f"features.statistics.fields: {pattern}: no categorical column{did_you_mean(pattern, categorical)}"
        for pattern in patterns or ()
        if not matching(pattern, categorical)
    ]
    for first, second in pairs or ():
        if first == second or first not in (*categorical, *sequences) or second not in categorical:
            problems.append(
                f"features.statistics.pairs: [{first}, {second}] must be a categorical column or a sequence, and "
                "another categorical column"
            )
    return problems
