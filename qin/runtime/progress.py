"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from qin.errors import one_line

_LINE_SECONDS = 10.0

# `extra={PASSING: True}` marks a warning that says something of this machine or moment alone, nothing of the outputs.
PASSING = "is_passing"

log = logging.getLogger("qin")


def log_to_stderr() -> None:
    """Set up the process's log: each record is one line on standard error, whatever names and values it shows."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(record.getMessage())


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
            log.info(
                "%s: %d of %d %s, %.0f per second%s",
                self._label,
                self._done,
                self._total,
                self._unit,
                rate,
                note and f", {note}",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def _on_terminal() -> bool:
    return sys.stderr.isatty()
