"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from qin.runtime.logs import log, log_to_stderr, logs_json

__all__ = ["PASSING", "Progress", "followed", "log", "log_to_stderr"]

Item = TypeVar("Item")

_LINE_SECONDS = 10.0
_WHOLE_RATE = 10.0

# `extra={PASSING: True}` marks a warning that says something of this machine or moment alone, nothing of the outputs.
PASSING = "is_passing"


class Progress:
    """Counts units of work up to `total`; use as a context manager."""

    def __init__(self, total: int, *, label: str, unit: str = "rows") -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total, desc=label, unit=f" {unit}", unit_scale=True, leave=False, disable=not _on_terminal()
        )

    def advance(self, amount: int, *, note: str = "") -> None:
        """Report `amount` more units done; `note` (such as the loss) is shown beside the count."""
        self._done += amount
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)
        now = time.monotonic()
        if not _on_terminal() and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate if rate else float("inf")
            log.info(
                "%s: %d of %d %s, %s per second, %s left%s",
                *(self._label, self._done, self._total, self._unit, _rate(rate), _duration(left), note and f", {note}"),
                extra={"fields": {"done": self._done, "total": self._total, "unit": self._unit}},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def followed(items: Collection[Item], *, label: str, unit: str) -> Iterator[Item]:
    """The items, with the progress of what is done with each.

    Args:
        items: What is worked on, one after the other.
        label: Name of the work.
        unit: What the items are, in the plural.
    """
    with Progress(len(items), label=label, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance(1)


def _on_terminal() -> bool:
    if sys.stderr is None:  # closed by who started the process, as `2>&-` does
        return False
    return sys.stderr.isatty() and not logs_json() and log.isEnabledFor(logging.INFO)


def _rate(per_second: float) -> str:
    """Units per second; of slow ones two digits."""
    return f"{per_second:.0f}" if per_second >= _WHOLE_RATE else f"{per_second:.2g}"


def _duration(seconds: float) -> str:
    """A time to wait, in the unit that fits."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < float("inf") else "?"
    return f"{seconds:.0f} s"
