"""What each artifact was made from, so that artifacts of different runs are never used together.

An artifact is described by a JSON file that ends with a checksum of its content, and that content holds the checksums
of the artifact's other files: so this checksum names the artifact. Its `origin` holds the settings and the checksums of
all that it was made from, back to the raw files. It holds no paths, times or machines, so equal runs give equal bytes.

| artifact             | described by  | made by   | from                            | read by             |
| -------------------- | ------------- | --------- | ------------------------------- | ------------------- |
| data/prepared/train  | manifest.json | prepare   | train file                      | train, evaluate     |
| data/prepared/test   | manifest.json | prepare   | test file                       | predict             |
| data/split           | manifest.json | split     | train file                      | train, evaluate     |
| artifacts/statistics | manifest.json | train     | data/prepared/train, data/split | trees, evaluate, predict |
| artifacts/model      | model.json    | train     | artifacts/statistics            | evaluate, predict   |
| artifacts/validation | facts.json    | train     | artifacts/model                 | calibrate, evaluate |
| artifacts/trees      | trees.json    | trees     | artifacts/statistics            | evaluate, predict   |
| artifacts/trees_validation | facts.json | trees  | artifacts/trees                 | calibrate, evaluate |
| artifacts/scored     | facts.json    | calibrate | the members' validation logits  | evaluate, predict   |
| blend.json           | itself        | calibrate | the members' validation logits  | evaluate, predict   |
| temperature.json     | itself        | calibrate | artifacts/scored, blend.json    | evaluate, predict   |
| slices.json          | itself        | evaluate  | all that evaluate reads         |                     |

A stage checks all that it reads: against the settings in params.yaml, against the raw files that are there, and against
each other wherever two name the same thing, though it be further back and not there itself.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qin.runtime import paths
from qin.runtime.checksums import file_checksum
from qin.runtime.errors import ArtifactError, shortened
from qin.runtime.files import fingerprint, read_exact_json
from qin.runtime.sources import Source, exists, list_files, source_name

ORIGIN = "origin"

_DESCRIPTIONS = {
    paths.PREPARED_TRAIN: "manifest.json",
    paths.PREPARED_TEST: "manifest.json",
    paths.FOLDS: "manifest.json",
    paths.STATISTICS: "manifest.json",
    paths.MODEL: "model.json",
    paths.VALIDATION: "facts.json",
    paths.TREES: "trees.json",
    paths.TREES_VALIDATION: "facts.json",
    paths.SCORED: "facts.json",
}

Settings = Mapping[str, Mapping[str, Any]]

_FEATURES = (
    *("categorical", "hash_seed", "impression", "matches", "num_buckets", "num_buckets_of"),
    *("numeric", "sequences", "target"),
)
_PREPARE = (
    *("data.drop", "data.id", "data.ignore", "data.label", "prepare.shard_rows"),
    *(f"features.{name}" for name in _FEATURES),
)
_SPLIT = ("data.label", "features.impression", "split.method", "split.time_col")
_HASHED = ("split.seed", "split.val_ratio", "split.thresholds")

# What the folds of each method depend on: `split.group_key` may be set for the standard errors alone.
_SPLIT_OF = {
    "stratified": (*_HASHED, "split.row_key"),
    "group_user": (*_HASHED, "split.group_key"),
    "group_session": (*_HASHED, "split.group_key", "split.session_key"),
    "time": (
        *("split.time_col", "split.time_val_ratio", "split.time_val_start", "split.time_embargo"),
        *("split.cross_boundary_sessions", "split.session_key"),
    ),
}
_SESSION = ("split.group_key", "split.seed")  # a session is one of a user; the seed is that of its hash
# What identifies a row where no `split.row_key` does.
_ROW = ("data.drop", "data.id", "data.ignore", "features.categorical", "features.numeric")

# Recorded where there are several, so that what one model left has the bytes it always had.
_FOLDS = "split.num_folds"
_DIVIDED = ("split", "train", "trees")

_HEADS = "data.label_heads"  # recorded where labels share them, likewise

# A key that is recorded only where it says something else than this, by a key that is always recorded beside it.
_SILENT = {"split.method": (_FOLDS, 1), "train.epochs": (_HEADS, "separate")}

_COMBINED = "model.members"  # in the network's section, but read after training

# Where a model is computed, and how often its state is saved, are the machine's matter.
_NOT_RECORDED = (
    *("train.checkpoint_seconds", "train.checkpoint_steps", "train.device", "train.num_threads"),
    *("train.num_processes", "train.launcher", "train.max_restarts", "train.elastic"),
)


@dataclass(frozen=True)
class Origin:
    """What an artifact was made from.

    Attributes:
        settings: Values by dotted key, of the stage that made it and of those before.
        made_from: Checksums of artifacts by place, of raw files by their key in params.yaml.
    """

    settings: dict[str, Any]
    made_from: dict[str, str]


def origin_entry(origin: Origin | None) -> dict[str, Any]:
    """What an artifact's file holds besides its content; nothing outside the pipeline, and then no stage reads it."""
    return {} if origin is None else {ORIGIN: asdict(origin)}


@dataclass(frozen=True)
class Artifact:
    """An artifact as its describing file names it.

    Attributes:
        place: Its path in the repository.
        checksum: Of its content.
        origin: What it was made from.
    """

    place: str
    checksum: str
    origin: Origin


def description_of(place: Path, *, at: Path | None = None) -> Path:
    """The file that describes an artifact; see `read_artifact`."""
    return (at or place) / _DESCRIPTIONS.get(place, "")


def read_artifact(place: Path, *, at: Path | None = None) -> Artifact:
    """Read what an artifact was made from.

    Args:
        place: Its path in the repository, which names it.
        at: Where it is found, if that is elsewhere.

    Raises:
        ArtifactError: If its file is missing or damaged, or of a version that had no origin.
    """
    file = description_of(place, at=at)
    tree = read_exact_json(file)
    try:
        return Artifact(place.as_posix(), fingerprint(tree), Origin(**tree[ORIGIN]))
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{file}: does not say what it was made from; run the stage that writes it again"
        ) from error


def recorded_keys(stage: str, settings: Settings) -> list[str]:
    """Dotted keys of the settings that decide what a stage writes."""
    if stage == "split":
        split = settings["split"]
        by_row = split["method"] == "stratified" and split["row_key"] is None
        by_session = split["method"] == "time" and split["session_key"] is not None
        keys = (*_SPLIT, *_SPLIT_OF[split["method"]], *(_ROW if by_row else ()), *(_SESSION if by_session else ()))
    else:
        keys = {
            "prepare": _PREPARE,
            "statistics": ("features.statistics", *_pairs_of(settings)),
            "train": ("features.statistics", *_pairs_of(settings), "model", "imbalance", "hnm", "train", "split.seed"),
            "trees": ("trees", "split.seed", "train.refit"),
            "blend": (_COMBINED,),
            "calibrate": ("calibration", _COMBINED),
            "evaluate": ("evaluate", "split.group_key", _COMBINED),
        }[stage]
    if stage == "train" and setting_at(settings, _HEADS) == "shared":
        keys = (*keys, _HEADS)
    if stage in _DIVIDED and settings["split"].get("num_folds", 1) > 1:
        keys = (*keys, _FOLDS)
    dotted = [key for name in keys for key in ([name] if "." in name else [f"{name}.{key}" for key in settings[name]])]
    left_out = {*_NOT_RECORDED, *(() if _COMBINED in keys else (_COMBINED,))}
    return sorted(set(dotted) - left_out)


def _pairs_of(settings: Settings) -> list[str]:
    """What decides the pairs of the statistics besides their own settings."""
    return ["split.group_key"] if settings["features"]["statistics"]["pairs"] == "auto" else []


def origin_of(
    stage: str,
    settings: Settings,
    *,
    artifacts: Sequence[Artifact] = (),
    files: Mapping[str, Source | None] | None = None,
) -> Origin:
    """What a stage's output is made from.

    Args:
        stage: Its name, or `statistics`, a part of train that fewer settings decide.
        settings: All of params.yaml, as plain values.
        artifacts: Those that it reads.
        files: Raw files that it reads, by their key in params.yaml.
    """
    values = {key: setting_at(settings, key) for key in recorded_keys(stage, settings)}
    made_from = {key: raw_checksum(file) for key, file in (files or {}).items() if file is not None}
    for artifact in artifacts:
        values = {**artifact.origin.settings, **values}
        made_from = {**artifact.origin.made_from, artifact.place: artifact.checksum, **made_from}
    plain: dict[str, Any] = json.loads(json.dumps(values))  # as it will be read back
    return Origin(dict(sorted(plain.items())), dict(sorted(made_from.items())))


def check_chain(
    artifacts: Sequence[Artifact], settings: Settings, *, files: Mapping[str, Source | None] | None = None
) -> None:
    """Check that artifacts are of these settings, of these raw files and of each other.

    Args:
        artifacts: Those that a stage reads, in the pipeline's order: the first that is a stranger is named.
        settings: All of params.yaml, as plain values.
        files: Raw files that the stage may read, by their key in params.yaml; one that is missing is not checked.

    Raises:
        ArtifactError: Naming what does not belong to the others.
    """
    for artifact in artifacts:
        _check_settings(artifact, settings)
    for key, file in (files or {}).items():
        if file is None or not any(key in artifact.origin.made_from for artifact in artifacts):
            continue
        if exists(file):
            _check_raw_file(key, file, artifacts)
    check_links(artifacts, names=_names(settings))


def check_links(artifacts: Sequence[Artifact], *, names: Mapping[str, str] | None = None) -> None:
    """Check that artifacts were made from the same things wherever two name one.

    Args:
        artifacts: In the pipeline's order.
        names: What to call raw files in messages, by key.

    Raises:
        ArtifactError: Naming the first that was made from something else.
    """
    known = {artifact.place: (artifact.checksum, artifact) for artifact in artifacts}
    for artifact in artifacts:
        for name, checksum in artifact.origin.made_from.items():
            expected, other = known.setdefault(name, (checksum, artifact))
            if checksum == expected:
                continue
            shown = (names or {}).get(name, name)
            than = "the one that is there" if other.place == name else f"{other.place} was"
            raise ArtifactError(f"{artifact.place}: made from another {shown} than {than}; run `dvc repro`")


def _names(settings: Settings) -> dict[str, str]:
    """What messages call raw files, by their key in params.yaml."""
    keys = ("train", "test", "sample_submission")
    return {f"data.{key}": source_name(settings["data"][key]) for key in keys if settings["data"].get(key)}


def raw_checksum(source: Source) -> str:
    """A name for the content of a raw file, or of all files of a log.

    Files up to 64 MiB and CSV files are read whole. Of a larger Parquet file the size, evenly spaced blocks and the end
    count, which holds the place, size and range of every column: another log differs there.
    """
    files = list_files(source)
    if len(files) == 1 and not files[0].inside:
        return file_checksum(files[0])
    lines = (f"{file.inside} {file_checksum(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _check_settings(artifact: Artifact, settings: Settings) -> None:
    recorded = artifact.origin.settings
    silent = dict(pair for beside, pair in _SILENT.items() if beside in recorded)
    for key, value in {**silent, **recorded}.items():
        now = json.loads(json.dumps(setting_at(settings, key)))
        if now is None:  # settings of before there was such a key
            now = silent.get(key)
        if now != value:
            raise ArtifactError(
                f"{artifact.place}: made with {key}: {_short(value)}, params.yaml has {_short(now)}; run `dvc repro`"
            )


def _check_raw_file(key: str, file: Source, artifacts: Sequence[Artifact]) -> None:
    checksum = raw_checksum(file)
    for artifact in artifacts:
        if artifact.origin.made_from.get(key, checksum) != checksum:
            raise ArtifactError(
                f"{artifact.place}: made from another {source_name(file)} than the one that is there; run `dvc repro`"
            )


def setting_at(settings: Settings, key: str) -> Any:
    """The value of a dotted key; None where it is not there."""
    section, _, name = key.partition(".")
    return settings.get(section, {}).get(name)


def _short(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))
