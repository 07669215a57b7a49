"""The interval of a share, and the quantiles that intervals and verdicts use."""

import math

# Quantiles of the standard normal: two-sided 5% and 0.1%.
NORMAL_975, NORMAL_9995 = 1.959963984540054, 3.2905267314919255


def wilson_interval(num_positives: float, *, num_rows: float) -> tuple[float, float]:
    """The 95% score interval of a rate; effective rows need not be whole.

    Raises:
        ValueError: Not `0 <= num_positives <= num_rows` with rows.
    """
    if not 0 <= num_positives <= num_rows or num_rows <= 0:
        raise ValueError(f"0 <= num_positives <= num_rows must hold, with a row: {num_positives=}, {num_rows=}")
    z_square = NORMAL_975**2
    centre = num_positives + z_square / 2.0
    spread = NORMAL_975 * math.sqrt(num_positives * (num_rows - num_positives) / num_rows + z_square / 4.0)
    # the ends are exact at 0 and at num_rows, where rounding could leave the unit interval
    lower = 0.0 if num_positives == 0 else (centre - spread) / (num_rows + z_square)
    upper = 1.0 if num_positives == num_rows else (centre + spread) / (num_rows + z_square)
    return lower, upper
