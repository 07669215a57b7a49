"""Runs of the stages beside the workspace, light and without DVC: what a search, a backtest and benchmarks are made of.

A stage of a trial runs in a folder of its own, `<root>/<stage>/<key>`, in which the outputs of the stages before are
links. The key names all that decides what the stage writes: the settings that artifacts record, the raw files, the
code, and the keys of the stages before. So trials share what their settings do not change, a trial that was made is
found, and of one that was killed the finished stages are, and training goes on from its checkpoint.
"""

import csv
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qin.config import Params, TrackParams
from qin.config.yaml_text import yaml_text
from qin.experiments.links import link_outputs
from qin.experiments.reasons import reason_of
from qin.runtime import paths
from qin.runtime.chain import description_of, raw_checksum, recorded_keys, setting_at
from qin.runtime.claim import claimed
from qin.runtime.errors import ArtifactError, QinError
from qin.runtime.files import fingerprint, read_json
from qin.runtime.provenance import code_fingerprint
from qin.runtime.sources import Source, is_uri
from qin.runtime.stage import STAGES
from qin.runtime.stage_process import started_stage

Check = Mapping[str, float]
OnCheck = Callable[[Check], bool]

_POLL_SECONDS = 0.1
_RAW = {
    "prepare": ("train", "test"),
    "split": ("train",),
    "predict": ("test", "sample_submission"),
}
_CURVE = paths.PLOTS / "train.csv"


class StoppedError(QinError):
    """Whoever watched a training ended it."""


@dataclass(frozen=True)
class Trial:
    """A trial whose stages have run.

    Attributes:
        folder: Like the repository after these stages: params.yaml, and every output in its place, as a link.
        ran: The stages that had to run; the others' outputs were there.
    """

    folder: Path
    ran: tuple[str, ...]

    def metrics(self, stage: str) -> dict[str, Any]:
        """What a stage wrote into `metrics/`.

        Raises:
            ArtifactError: If there is none, or it is damaged.
        """
        return read_json(self.folder / paths.METRICS / f"{stage}.json")


class Trials:
    """Trials that share a root folder; several processes may use it at once.

    Args:
        root: Where they are kept until someone deletes them.
        project: The folder that relative places of raw files start from.
        without: Outputs that no later stage needs and that are not kept.
    """

    def __init__(self, root: Path, *, project: Path = Path(), without: Sequence[Path] = ()) -> None:
        self._root, self._project = root.absolute(), project.absolute()
        self._without = without
        # Asked in every trial of a search, and costly: a log may have many files, a stage's code has hundreds.
        self._checksums: dict[str, str] = {}
        self._codes: dict[str, str] = {}

    def run(self, params: Params, *, until: str = "calibrate", on_check: OnCheck | None = None) -> Trial:
        """Run the stages that have not run with these settings before.

        1. Each stage up to `until` gets its key. Trees run only where they are a member.
        2. A stage whose folder is there is done. Another one runs in its folder with `.part` behind the name, which
           loses that when the stage has ended well.
        3. All outputs are linked into one folder.

        Args:
            params: Settings; trackers are told of nothing.
            until: The last stage.
            on_check: Called with each row of the training's curve in turn, also where training was found done; where it
                returns False, the training is ended and dropped.

        Raises:
            StoppedError: If `on_check` said so.
            QinError: If a stage fails; the message is the stage's.
        """
        params = self._placed(params)
        keys = self._keys(params, until=until)
        made: dict[str, Path] = {}
        ran = []
        for stage, key in keys.items():
            made[stage], has_run = self._made(stage, key, params, made, on_check if stage == "train" else None)
            ran += [stage] if has_run else []
        # Named by the stages' keys: trials that share all stages are one run, whatever else their settings say.
        folder = self._root / "runs" / fingerprint(keys)
        with claimed(folder.name, folder=self._root / "locks", waits=True):
            link_outputs(made.values(), folder)
            _write_params(folder, params)
        return Trial(folder, tuple(ran))

    def keys(self, params: Params, *, until: str = "calibrate") -> dict[str, str]:
        """What names each stage's outputs, by stage.

        Args:
            params: Settings.
            until: The last stage.
        """
        return self._keys(self._placed(params), until=until)

    def _keys(self, placed: Params, *, until: str) -> dict[str, str]:
        settings = placed.model_dump(mode="json")
        stages = STAGES[: STAGES.index(until) + 1]
        keys: dict[str, str] = {}
        for stage in stages:
            # In the pipeline they are also the baseline; no trial is judged by that.
            if stage == "trees" and stage not in placed.model.members:
                continue
            keys[stage] = fingerprint(stage, self._code(stage), self._decides(stage, settings, keys))
        return keys

    def _decides(self, stage: str, settings: dict[str, Any], before: Mapping[str, str]) -> dict[str, Any]:
        """Settings, raw files and earlier stages that decide what a stage writes."""
        # Artifacts do not record them, as predict makes none; the submission depends on them all the same.
        recorded = ["data.id", *_section("predict", settings)] if stage == "predict" else recorded_keys(stage, settings)
        if stage == "trees":  # of training they read the statistics alone
            recorded = [*recorded, *recorded_keys("statistics", settings)]
        raw = {name: settings["data"][name] for name in _RAW.get(stage, ()) if settings["data"][name] is not None}
        return {
            "settings": {key: setting_at(settings, key) for key in recorded},
            "raw": {name: self._checksum(source) for name, source in raw.items()},
            # it decides which statistics there are, and those are all that trees read of training
            "earlier": _earlier_model(settings["train"]["init_from"]) if stage in ("train", "trees") else None,
            "before": {} if stage in ("prepare", "split") else {name: before[name] for name in _before(stage, before)},
        }

    def _made(
        self, stage: str, key: str, params: Params, before: Mapping[str, Path], on_check: OnCheck | None
    ) -> tuple[Path, bool]:
        """The folder of a stage that is done, and whether it had to run."""
        folder = self._root / stage / key
        with claimed(f"{stage}-{key}", folder=self._root / "locks", waits=True):
            # Its training has ended long ago, but a search may still want to stop at one of its checks.
            if folder.is_dir():
                _Curve(folder, on_check).follow()
                return folder, False
            part = folder.with_name(f"{key}.part")
            # A `.part` of a killed run is gone on in: its links and its checkpoints are those of the same key.
            link_outputs(before.values(), part)
            _write_params(part, params)
            try:
                _run_stage(stage, part, _Curve(part, on_check))
            except StoppedError:
                shutil.rmtree(part)
                raise
            for place in self._without:
                if (part / place).is_dir() and not (part / place).is_symlink():
                    shutil.rmtree(part / place)
            part.rename(folder)
        return folder, True

    def _placed(self, params: Params) -> Params:
        """The settings as they hold in any folder."""
        sources = {name: getattr(params.data, name) for name in ("train", "test", "sample_submission")}
        data = params.data.model_copy(update={name: self._absolute(source) for name, source in sources.items()})
        train = params.train.model_copy(update={"init_from": self._absolute(params.train.init_from)})
        return params.model_copy(update={"data": data, "train": train, "track": TrackParams()})

    def _absolute(self, source: Any) -> Any:
        if isinstance(source, list):
            return [self._absolute(item) for item in source]
        return source if source is None or is_uri(source) else str(self._project / source)

    def _checksum(self, source: Source) -> str:
        name = str(source)
        if name not in self._checksums:
            self._checksums[name] = raw_checksum(source)
        return self._checksums[name]

    def _code(self, stage: str) -> str:
        if stage not in self._codes:
            self._codes[stage] = code_fingerprint(f"stages/{stage}.py")
        return self._codes[stage]


def _before(stage: str, before: Mapping[str, str]) -> list[str]:
    """The stages whose outputs decide those of another one; trees do not depend on the network."""
    return [name for name in before if stage != "trees" or name != "train"]


def _earlier_model(folder: str | None) -> str | None:
    """A name for the content of the model that training starts from; one that is not there is the stage's to report."""
    if folder is None:
        return None
    files = [description_of(paths.MODEL, at=place) for place in (Path(folder), Path(folder, paths.MODEL.name))]
    return next((fingerprint(read_json(file)) for file in files if file.is_file()), None)


def _section(name: str, settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}.{key}" for key in settings[name]]


def _write_params(folder: Path, params: Params) -> None:
    text = yaml_text(params.model_dump(mode="json"))
    (folder / paths.PARAMS).write_text(text, encoding="utf-8")


class _Curve:
    """Hands on the rows of a training's curve, each once.

    Args:
        folder: Of the stage.
        on_check: See `Trials.run`.
    """

    def __init__(self, folder: Path, on_check: OnCheck | None) -> None:
        self._path, self._on_check, self._num_told = folder / _CURVE, on_check, 0

    def follow(self) -> None:
        """Hand on what is new.

        Raises:
            StoppedError: If training is to end.
        """
        if self._on_check is None or not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows[self._num_told :]:
            self._num_told += 1
            if not self._on_check({name: float(value) for name, value in row.items()}):
                raise StoppedError(f"stopped at check {self._num_told}")


def _run_stage(stage: str, folder: Path, curve: _Curve) -> None:
    """Run a stage as a process of its own, as DVC does; what it prints goes to `.qin/stage.log`.

    Raises:
        QinError: If it fails.
    """
    log = folder / paths.SCRATCH / "stage.log"
    log.parent.mkdir(exist_ok=True)
    checkpoints = folder / paths.SCRATCH / "checkpoints"
    with (
        log.open("w", encoding="utf-8") as output,
        started_stage(stage, folder, checkpoints=checkpoints, output=output) as process,
    ):
        while process.poll() is None:
            curve.follow()
            time.sleep(_POLL_SECONDS)
    curve.follow()
    if process.returncode:
        raise ArtifactError(f"stage {stage}: {reason_of(log.read_text(encoding='utf-8').splitlines())} ({log})")
