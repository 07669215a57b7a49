"""The log on standard error: plain lines for people, or with `QIN_LOG=json` an object per line for machines."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from qin.runtime.errors import one_line

log = logging.getLogger("qin")


class _OneLine(logging.Formatter):
    """The message as one line, whatever names and values it shows."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return one_line(record.getMessage())


class _JsonLines(logging.Formatter):
    """One JSON object per line: time, level, message, and what `extra={"fields": ...}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def logs_json() -> bool:
    """Whether machines read the log."""
    return os.environ.get("QIN_LOG") == "json"


def log_to_stderr(level: int = logging.INFO) -> None:
    """Set up the process's log: each record is one line on standard error, of libraries those alone that warn.

    Args:
        level: The least that our own records must have.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if logs_json() else _OneLine())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    log.setLevel(level)
