"""The workspace's headline figures beside a revision's, each difference with what it means."""

from pathlib import Path
from typing import Any

from qin.experiments.aligned import aligned
from qin.experiments.changes import leaves
from qin.experiments.compare import compared
from qin.experiments.git import git
from qin.runtime.errors import ArtifactError, QinError
from qin.runtime.files import parse_json, read_json
from qin.runtime.paths import HEADLINE

# Figures of the headline whose differences `qin compare` judges, by their names there.
_JUDGED = {"ap": "ap", "auc": "auc", "gauc": "gauc", "log_loss": "log_loss", "score": "score_balanced"}


def summary_lines(revision: str, *, params: Path) -> list[str]:
    """What to print: a heading, and a line per figure.

    Args:
        revision: A commit, branch, tag or experiment that has `metrics/run.json`.
        params: The workspace's settings.

    Raises:
        ArtifactError: If either has no headline figures.
    """
    here, there = dict(leaves(read_json(HEADLINE))), _headline_of(revision)
    if there is None:
        raise ArtifactError(f"{revision}: has no {HEADLINE}; commit a run's metrics first")
    verdicts, note = _verdicts(revision, params)
    rows = [(name, _shown(there.get(name)), _shown(value), _change(there.get(name), value), verdicts.get(name, ""))
            for name, value in here.items() if not name.endswith("_se")]  # fmt: skip
    return [*aligned([("", revision, "workspace", "change", ""), *rows]), *note]


def _headline_of(revision: str) -> dict[str, Any] | None:
    """A revision's headline figures, of several labels as `label.name`; None where it has none."""
    found = git("show", f"{revision}:./{HEADLINE.as_posix()}")
    return None if found is None else dict(leaves(parse_json(found, source=f"{revision}: {HEADLINE}")))


def _verdicts(revision: str, params: Path) -> tuple[dict[str, str], list[str]]:
    """What each difference means, paired row by row, and a line about it; empty where outputs are not at hand."""
    try:
        # The figures are of metrics/, which git holds; verdicts need the outputs, which may not be in the cache.
        report = compared(revision, "workspace", params=params)
    except QinError as error:
        return {}, [f"no verdicts: {error.lines[0]}"]
    reports = {f"{label}.": of for label, of in report["labels"].items()} if "labels" in report else {"": report}
    words = {
        f"{label}{name}": of["metrics"].get(key, {}).get("verdict", "")
        for label, of in reports.items()
        for name, key in _JUDGED.items()
    }
    num_rows = max(of["rows"]["shared"] for of in reports.values())
    sides = {"A": f"{revision} ", "B": ""}
    return {
        name: f"{sides[word[0]]}{word[2:]}" if word[:2] in ("A ", "B ") else word for name, word in words.items()
    }, [f"{num_rows:,} rows that both report; noise: |z| below 1.96, better: from 3.29"]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _change(before: float | None, now: float) -> str:
    return "" if before is None else f"{now - before:+.2g}"
