"""What statistics count by, as params.yaml gives it, and what they are called."""

from collections.abc import Collection, Sequence

from qin.columns.patterns import expanded, matching
from qin.runtime.errors import did_you_mean

RATE, SHARE = "rate", "share"
MEASURES = (RATE, SHARE)
COSINES = ("cosine_sum", "cosine_mean", "cosine_max", "cosine_top", "cosine_newest")


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


def counted_fields(
    patterns: Sequence[str] | None,
    pairs: Sequence[Sequence[str]] | None,
    *,
    categorical: Sequence[str],
    sequences: Sequence[str],
    target: Sequence[str],
    user: str | None,
) -> list[tuple[str, ...]]:
    """The fields of each statistic: single ones, then pairs, those of histories last.

    Args:
        patterns: See `counted_problems`.
        pairs: See `counted_problems`; None for the user and each sequence with each field of the target.
        categorical: The categorical columns, in order.
        sequences: The sequences, in order.
        target: Columns of the target item.
        user: Column that names a user, which counts where it is a categorical one.
    """
    wanted = {name for _, name in expanded(["*"] if patterns is None else patterns, categorical)}
    if pairs is None:
        pairs = [(user, name) for name in target if user in categorical and name != user and user is not None]
        pairs += [(sequence, name) for sequence in sequences for name in target]
    singles = [(name,) for name in categorical if name in wanted]
    return [*singles, *(tuple(pair) for of in (categorical, sequences) for pair in pairs if pair[0] in of)]


def statistic_names(fields: Sequence[str], measures: Sequence[str]) -> tuple[str, ...]:
    """Names of the numeric fields of a statistic; a colon in a field's own name is escaped, as no pair is called so."""
    escaped = ":".join(name.replace("\\", "\\\\").replace(":", "\\:") for name in fields)
    return tuple(f"stat.{escaped}.{name}" for name in measures)
