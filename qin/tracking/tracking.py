"""Telling trackers about a run: whatever goes wrong with one is a warning, and the run goes on without it."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psutil

from qin.runtime.files import atomic_file, fingerprint
from qin.runtime.logs import log
from qin.runtime.progress import PASSING

RUNS = Path("runs")
_CURRENT = "current.json"


class Tracker(Protocol):
    """One tracker's run."""

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """Add figures of a step of the training."""

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Set figures of the run as a whole."""

    def add_file(self, path: Path) -> None:
        """Keep a file with the run."""

    def finish(self) -> None:
        """Write what is held back; the run may be continued by another process."""


class Tracking:
    """The trackers of a run, told alike.

    Args:
        trackers: By name; one that raises is warned of and left out from then on.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)
        self._last: tuple[float, float] | None = None

    def step(self, prefix: str) -> Callable[[int, dict[str, float]], None]:
        """A listener to steps, which adds rows per second and resident memory to what they tell.

        Args:
            prefix: Before the figures' names, such as `train/`.
        """

        def told(step: int, figures: dict[str, float]) -> None:
            now, rows = time.monotonic(), figures.pop("rows")
            # Fewer rows than before are another training: the next fold, or the refit.
            if self._last is not None and rows > self._last[1]:
                figures["rows_per_second"] = (rows - self._last[1]) / max(now - self._last[0], 1e-9)
            self._last = now, rows
            figures["memory_gib"] = psutil.Process().memory_info().rss / 2**30
            self._tell(lambda tracker: tracker.log(_named(prefix, figures), step=step))

        return told

    def check(self, history: Sequence[Mapping[str, float]]) -> None:
        """Tell the newest check."""
        if history:
            figures = {name: value for name, value in history[-1].items() if name not in ("step", "lr")}
            self._tell(lambda tracker: tracker.log(_named("check/", figures), step=int(history[-1]["step"])))

    def summarise(self, tree: Mapping[str, Any]) -> None:
        """Tell the numbers of a metrics file."""
        figures = dict(_numbers(tree))
        self._tell(lambda tracker: tracker.summarise(figures))

    def add_files(self, *paths: Path) -> None:
        """Hand files over, those that are there."""
        for path in paths:
            if path.is_file():
                self._tell(lambda tracker, path=path: tracker.add_file(path))  # type: ignore[misc]

    def _tell(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(tracker)
            except Exception as error:  # whatever a tracker of another project raises: the run matters more
                del self._trackers[name]
                _warn(name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda tracker: tracker.finish())


def open_tracking(names: Sequence[str], *, project: str, settings: Mapping[str, Any], proceed: bool) -> Tracking:
    """Start the run of each tracker, or go on with it.

    Args:
        names: Of trackers.
        project: What runs are filed under.
        settings: All of params.yaml, as plain values.
        proceed: Go on with the newest run of the same settings, as evaluate does with that of train.

    Raises:
        ConfigError: If a tracker is not installed.
    """
    names = [name for name in names if name != "none"]
    if not names:
        return Tracking({})
    from qin.tracking.adapters import check_installed, start  # noqa: PLC0415 - other projects' libraries

    check_installed(names)
    run = _run_name(settings, proceed=proceed)
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = start(name, folder=RUNS, project=project, run=run, settings=settings)
        except Exception as error:
            _warn(name, error)
    return Tracking(trackers)


def _run_name(settings: Mapping[str, Any], *, proceed: bool) -> str:
    """A new name, or the newest run's if that was of the same settings."""
    current, of = RUNS / _CURRENT, fingerprint(settings)
    if proceed:
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(current.read_text(encoding="utf-8"))
            if known["settings"] == of:
                return str(known["run"])
    run = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{of[:6]}"
    with suppress(OSError), atomic_file(current) as staging:
        staging.write_text(json.dumps({"run": run, "settings": of}), encoding="utf-8")
    return run


def _warn(name: str, error: Exception) -> None:
    text = "warning: track.to: %s failed (%s: %s); the run goes on without it"
    log.warning(text, name, type(error).__name__, error, extra={PASSING: True})


def _named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": float(value) for name, value in figures.items()}


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of a tree by dotted path."""
    found: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
