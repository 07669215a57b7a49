"""One run of the whole pipeline as a DVC experiment in a temporary folder: the workspace is not touched.

A training that ran before with the same inputs comes from DVC's run cache, and nothing hangs or is lost when a run is
stopped, which DVC's queue cannot promise.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qin.experiments.git import git
from qin.experiments.reasons import reason_of
from qin.runtime.errors import ArtifactError, ConfigError
from qin.runtime.files import fingerprint
from qin.runtime.paths import CHECKPOINTS, TUNE


def run_experiment(settings: Mapping[str, Any]) -> str:
    """Run the pipeline with changed settings as a DVC experiment.

    An experiment of the same settings is replaced; its stages come from the run cache. What DVC prints is in
    `.qin/tune/<name>.log`. A killed one goes on from its checkpoint.

    Args:
        settings: Values by dotted key.

    Returns:
        The experiment's name.

    Raises:
        ConfigError: If there is no commit to start from.
        ArtifactError: If it fails; the message is the stage's, or DVC's.
    """
    name = f"tune-{fingerprint(dict(settings))}"
    reference = _reference(name)
    # DVC refuses a name that an experiment of this commit has.
    if git("rev-parse", "-q", "--verify", reference) is not None:
        git("update-ref", "-d", reference)
    lines = _run_dvc(name, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    if lines is not None:
        raise ArtifactError(reason_of(lines))
    return name


def _reference(name: str) -> str:
    """Where git keeps an experiment of the current commit."""
    commit = git("rev-parse", "-q", "--verify", "HEAD")
    if commit is None:
        raise ConfigError("an experiment starts from a commit; run it in a git repository that has one")
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def _run_dvc(name: str, changes: Sequence[str]) -> list[str] | None:
    """Run the experiment; returns what DVC and the stages printed if it failed."""
    environment = {
        **os.environ,
        # The commands of dvc.yaml must find this Python, also where no environment was activated.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # The temporary folder goes with a killed run; here the next one of these settings finds its checkpoint.
        "QIN_CHECKPOINTS": str(CHECKPOINTS.resolve()),
    }
    options = [word for change in changes for word in ("--set-param", change)]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *options]
    TUNE.mkdir(parents=True, exist_ok=True)
    with (TUNE / f"{name}.log").open("w+", encoding="utf-8", errors="replace") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
        output.seek(0)
        return output.read().splitlines() if done.returncode else None
