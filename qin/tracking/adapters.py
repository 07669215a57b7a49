"""The four trackers, each offline: nothing leaves the machine unless the tracker's own environment says so.

Runs are in `runs/<tracker>`. `WANDB_MODE=online` and `MLFLOW_TRACKING_URI` send them to a server instead.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qin.runtime.errors import ConfigError
from qin.tracking.tracking import Tracker


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything is trained.

    Raises:
        ConfigError: Naming each, and what installs it.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            *(f'params.yaml: track.to: {name} is not installed: pip install "qin-ctr[{name}]"' for name in missing)
        )


def start(name: str, *, folder: Path, project: str, run: str, settings: Mapping[str, Any]) -> Tracker:
    """Start a tracker's run, or go on with the one of this name.

    Args:
        name: Of the tracker.
        folder: Where all runs are.
        project: What runs are filed under.
        run: Name of the run.
        settings: All of params.yaml, as plain values.
    """
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Callable[..., Tracker]] = {
        "dvclive": DVCLive,
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
    }
    flat = {f"{section}.{key}": value for section, keys in settings.items() for key, value in keys.items()}
    return kinds[name](place, project, run, flat)


class DVCLive:
    """Figures in `runs/dvclive/<run>`, as files that DVC's extension draws."""

    def __init__(self, place: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        from dvclive.live import Live

        self._folder = folder = place / run
        # No experiment, no dvc.yaml and no report of its own: the pipeline has all three, and DVCLive would write over
        # them.
        self._live: Any = Live(str(folder), resume=folder.exists(), save_dvc_exp=False, dvcyaml=None, report=None)
        if not (folder / "params.yaml").exists():
            self._live.log_params({"project": project, **settings})

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self._live.step = step
        for name, value in figures.items():
            self._live.log_metric(name, value)
        self._live.sync()

    def summarise(self, figures: Mapping[str, float]) -> None:
        self._live.summary.update(figures)
        self._live.make_summary()

    def add_file(self, path: Path) -> None:
        kept = self._folder / "files" / path  # `log_artifact` would add it to the repository
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)

    def finish(self) -> None:
        self._live.end()


class TensorBoard:
    """Events in `runs/tensorboard/<run>`."""

    def __init__(self, place: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A run that evaluate goes on with has its settings already.
        is_new = not (place / run).exists()
        self._writer = SummaryWriter(str(place / run))
        if is_new:
            text = json.dumps({"project": project, **settings}, indent=2)
            self._writer.add_text("settings", f"```\n{text}\n```", 0)

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def summarise(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"final/{name}", value, 0)

    def add_file(self, path: Path) -> None:
        if path.suffix in (".md", ".json", ".csv"):
            text = path.read_text(encoding="utf-8")
            self._writer.add_text(str(path), text if path.suffix == ".md" else f"```\n{text}\n```", 0)

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run in `runs/wandb`, offline unless `WANDB_MODE` says otherwise; `wandb sync` sends it later."""

    def __init__(self, place: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=run,
            id=run,
            resume="allow",
            dir=str(place),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self._run.log({**figures, "step": step})

    def summarise(self, figures: Mapping[str, float]) -> None:
        self._run.summary.update(dict(figures))

    def add_file(self, path: Path) -> None:
        self._run.save(str(path.resolve()), base_path=str(Path.cwd()), policy="now")

    def finish(self) -> None:
        self._run.finish()


class MLflow:
    """A run in the file store `runs/mlflow`, or on the server of `MLFLOW_TRACKING_URI`."""

    def __init__(self, place: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database beside them
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", place.resolve().as_uri()))
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        known = self._client.search_runs([experiment], filter_string=f"attributes.run_name = '{run}'")
        self._id = known[0].info.run_id if known else self._client.create_run(experiment, run_name=run).info.run_id
        if not known:
            for name, value in settings.items():
                self._client.log_param(self._id, name, str(value)[:500])  # a bound of MLflow's

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step)

    def summarise(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value)

    def add_file(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), artifact_path=path.parent.as_posix())

    def finish(self) -> None:
        self._client.set_terminated(self._id)
