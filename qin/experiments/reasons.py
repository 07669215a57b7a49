"""Why a run failed, from what it printed."""

from collections.abc import Sequence


def reason_of(lines: Sequence[str]) -> str:
    """The stage's error line, or DVC's, or the last of a traceback.

    Args:
        lines: What a stage, or DVC around stages, printed.
    """
    for prefix in ("error: ", "ERROR: "):
        found = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        if found:
            return found[0]
    return lines[-1] if lines else "nothing was printed"
