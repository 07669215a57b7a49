"""`qin runs`: the workspace, its commit and the experiments that start there, on a terminal of any width.

`dvc exp show` has a column for each setting and each figure, more than two hundred; here the settings that differ
stand in one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qin.config.strict_yaml import parse_yaml, read_yaml
from qin.experiments.aligned import aligned
from qin.experiments.changes import leaves
from qin.experiments.git import git
from qin.runtime.errors import ConfigError, shortened
from qin.runtime.files import parse_json, read_json
from qin.runtime.paths import HEADLINE, PARAMS

_FIGURES = ("log_loss", "auc", "ap")
_EXPERIMENT = re.compile(r"refs/exps/(?P<commit>[0-9a-f]{2}/[0-9a-f]{38})/(?P<name>\S+)")
_LONGEST_VALUE = 30
_WORKSPACE = "workspace"


@dataclass(frozen=True)
class Listed:
    """One run.

    Attributes:
        name: Of the experiment, `workspace` or `HEAD`.
        figures: Its headline figures; empty where it has none.
        settings: All of its settings by dotted key.
    """

    name: str
    figures: dict[str, float]
    settings: dict[str, Any]


def listed_runs(*, everywhere: bool) -> list[Listed]:
    """The workspace, the current commit and its experiments, the newest last.

    Args:
        everywhere: Experiments of all commits.

    Raises:
        ConfigError: If this is no git repository with a commit.
        ArtifactError: If a file in the workspace is damaged.
    """
    commit = git("rev-parse", "-q", "--verify", "HEAD")
    if commit is None:
        raise ConfigError("there are no runs to list: this is no git repository with a commit")
    start = _listed("HEAD", *_of_revision("HEAD"))
    figures = read_json(HEADLINE) if HEADLINE.exists() else {}
    here = _listed(_WORKSPACE, figures, _flat(read_yaml(PARAMS) if PARAMS.exists() else {}))
    # A workspace that differs in nothing is its commit, and one line is enough.
    runs = [start] if (here.figures, here.settings) == (start.figures, start.settings) else [start, here]
    for name, reference in _experiments(None if everywhere else commit):
        runs.append(_listed(name, *_of_revision(reference)))
    return runs


def _listed(name: str, figures: dict[str, Any], settings: dict[str, Any]) -> Listed:
    """A run with its figures; of several labels those of the first, which its name then tells."""
    label, of_label = next(iter(figures.items()), ("", None))
    if isinstance(of_label, Mapping):
        return Listed(f"{name} ({label})", dict(of_label), settings)
    return Listed(name, figures, settings)


def runs_text(runs: list[Listed], *, width: int) -> str:
    """A table of figures, and of the settings that differ from the first run's."""
    table: list[tuple[str, ...]] = [("run", *_FIGURES, "settings that differ from HEAD's")]
    for run in runs:
        changes = [f"{key}={_shown(value)}" for key, value in run.settings.items()
                   if key not in runs[0].settings or runs[0].settings[key] != value]  # fmt: skip
        figures = [f"{run.figures[name]:.4g}" if name in run.figures else "" for name in _FIGURES]
        table.append((run.name, *figures, " ".join(changes)))
    return "\n".join(aligned(table, right=slice(1, -1), width=width))


def runs_json(runs: list[Listed]) -> dict[str, Any]:
    """The same with every headline figure and every setting."""
    return {"runs": [vars(run) for run in runs]}


def _experiments(commit: str | None) -> Iterator[tuple[str, str]]:
    """Name and reference of the experiments of a commit, or of all, the oldest first."""
    found = git("for-each-ref", "--sort=creatordate", "--format=%(refname)", "refs/exps") or ""
    for line in found.splitlines():
        match = _EXPERIMENT.fullmatch(line)
        if match and (commit is None or match["commit"].replace("/", "") == commit):
            yield match["name"], line


def _of_revision(revision: str) -> tuple[dict[str, float], dict[str, Any]]:
    figures, settings = (git("show", f"{revision}:./{file.as_posix()}") for file in (HEADLINE, PARAMS))
    found = parse_json(figures or "{}", source=f"{revision}: {HEADLINE}")
    return found, _flat(parse_yaml(settings or "", source=f"{revision}: {PARAMS}"))


def _flat(tree: Any) -> dict[str, Any]:
    """The values of sections by dotted key; nothing where there are no sections."""
    return dict(leaves(tree)) if isinstance(tree, dict) else {}


def _shown(value: Any) -> str:
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)
