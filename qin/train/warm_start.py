"""Training goes on from an earlier model: yesterday's weights, and its optimizer where that was kept.

1. Before anything is fitted, the earlier model's description is compared with the settings and the prepared columns:
   it must be the same network of the same columns.
2. Statistics are fitted anew on today's rows, but for the measures that the earlier network reads, in its order.
3. Each network starts from the earlier one of its number: the held-out run from the earlier held-out network, which
   has not seen the earlier validation fold, the refit from the one that was deployed.
4. What the weights were fitted to is taken over with them (moments and bins of numeric fields); which values are rare
   is counted anew. A bucket that the earlier run never read is still as it was drawn, which is how one of a new run
   starts. The output's bias is moved by what the two runs' weights and samples do to the prior.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from qin.columns.schema import Field, Schema
from qin.config import NetworkParams, Params
from qin.features.artifact import Statistic
from qin.features.joined import with_statistics
from qin.model.artifact import MODEL, Description, optimizer_file, read_description, weights_file
from qin.model.build import resolve_preset
from qin.network.qin import QIN
from qin.runtime import paths
from qin.runtime.chain import recorded_keys, setting_at
from qin.runtime.errors import ArtifactError, ConfigError
from qin.runtime.files import check_file
from qin.runtime.progress import log
from qin.scored.prior import TrainingPrior
from qin.shards.folds import FoldRule
from qin.train.optimizer_state import restore_optimizer
from qin.train.optimizers import Optimizers

_SHOWN = 6  # differences in one line

# What of a network's settings another may have: how it is drawn and regularised, and which values count as rare.
_FREE = {"preset", "embedding_std", "min_count", "dropout", "row_dropout", "embedding_dropout", "field_dropout"}

_RARE = "is_rare"


@dataclass(frozen=True)
class Start:
    """An earlier network that a run starts from.

    Attributes:
        folder: Of the earlier model.
        number: Of the network in it.
        description: The model's.
        with_optimizer: Whether the optimizer goes on as well.
    """

    folder: Path
    number: int
    description: Description
    with_optimizer: bool

    @property
    def facts(self) -> dict[str, Any]:
        """What names it, for the run's fingerprint; no path, so that a copy elsewhere is the same start."""
        name = weights_file(self.number)
        facts = {"weights_crc32": self.description.weights_crc32[name], "number": self.number}
        if self.with_optimizer:
            facts["optimizer_crc32"] = self.description.optimizer_crc32[optimizer_file(self.number)]
        return facts

    def load_weights(self, network: QIN, *, prior: TrainingPrior) -> None:
        """Give a new network the earlier one's weights.

        Args:
            network: Drawn, with what is fitted on today's rows.
            prior: Of today's run.

        Raises:
            ArtifactError: If the file is missing or damaged.
        """
        name = weights_file(self.number)
        earlier = self._read(name, self.description.weights_crc32[name])
        own = {key: value for key, value in network.state_dict().items() if key.endswith(_RARE)}
        network.load_state_dict({**{k: v for k, v in earlier.items() if not k.endswith(_RARE)}, **own})
        with torch.no_grad():  # a logit is natural after its run's offset: the sum stays
            network.network.fc.bias.add_(self.description.prior.offset - prior.offset)

    def load_optimizer(self, network: QIN, optimizer: torch.optim.Optimizer | Optimizers) -> None:
        """Let the optimizer go on from the earlier one's state, where that is wanted; rates are today's.

        Raises:
            ArtifactError: If the file is missing or damaged.
        """
        if not self.with_optimizer:
            return
        name = optimizer_file(self.number)
        saved = self._read(name, self.description.optimizer_crc32[name])
        restore_optimizer(network, optimizer, saved)

    def _read(self, name: str, crc32: int) -> dict[str, torch.Tensor]:
        check_file(self.folder / name, crc32=crc32, stage="train", otherwise="of another model")
        return load_file(self.folder / name)


@dataclass(frozen=True)
class Earlier:
    """An earlier model that fits the settings.

    Attributes:
        named: Its folder as the settings name it.
        deployed: The folder of the network that was deployed.
        heldout: The folder of the held-out network, the same where there was no refit.
        descriptions: Of both.
        with_optimizer: Whether the optimizer goes on as well.
        form: The first of the settings' forms that it may go on as.
    """

    named: str
    deployed: Path
    heldout: Path
    descriptions: Mapping[Path, Description]
    with_optimizer: bool
    form: NetworkParams

    @property
    def schema(self) -> Schema:
        """The columns that it reads."""
        return self.descriptions[self.deployed].schema

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that it reads, in order."""
        return tuple(field.name for field in self.schema.numeric if field.source == "statistic")

    @property
    def made_from(self) -> dict[str, str]:
        """The entry of an origin that names its content."""
        return {"train.init_from": self.descriptions[self.deployed].checksum}

    @property
    def num_networks(self) -> int:
        """How many networks it has."""
        return len(self.descriptions[self.deployed].weights_crc32)

    def start(self, number: int, *, is_heldout: bool) -> Start:
        """What a run of a network starts from, the first network being 0."""
        folder = self.heldout if is_heldout else self.deployed
        return Start(folder, number, self.descriptions[folder], self.with_optimizer)

    def check_statistics(self, chosen: Sequence[Statistic]) -> None:
        """Check that the statistics that there can be hold those that the earlier network reads.

        Raises:
            ConfigError: Naming those that there are not.
        """
        known = {name for statistic in chosen for name in statistic.names}
        missing = [name for name in self.statistics if name not in known]
        if missing:
            shown = ", ".join(missing[:_SHOWN])
            raise ConfigError(
                f"params.yaml: train.init_from: {self.named}: reads {len(missing)} statistics that features.statistics "
                f"does not make: {shown}{', ...' if len(missing) > _SHOWN else ''}"
            )


def read_earlier(params: Params) -> Earlier | None:
    """The model that training is to start from, checked against the settings alone; None where it starts from a draw.

    Args:
        params: Sections model and train.

    Raises:
        ConfigError: If there is no such model, or it is another network, or has no optimizer.
        ArtifactError: If it is damaged.
    """
    named = params.train.init_from
    if named is None:
        return None
    deployed = model_folder(named)
    heldout = paths.heldout(deployed)
    descriptions = {folder: _read(named, folder) for folder in dict.fromkeys((deployed, heldout))}
    differences = [(list(_settings_differ(descriptions[deployed].params, form)), form) for form in params.model.forms]
    # The first form that it is; where it is none, what keeps it from the settings' own is told.
    problems, form = next((pair for pair in differences if not pair[0]), differences[0])
    num_networks = len(descriptions[deployed].weights_crc32)
    if params.model.seeds != "auto" and num_networks < params.model.seeds:
        problems.append(f"model.seeds {num_networks} there, {params.model.seeds} here")
    _refuse(named, problems)
    if params.train.init_optimizer and not all(one.optimizer_crc32 for one in descriptions.values()):
        raise ConfigError(
            f"params.yaml: train.init_optimizer: {named} has no optimizer; it was trained without train.keep_optimizer"
        )
    return Earlier(named, deployed, heldout, descriptions, params.train.init_optimizer, form)


def open_earlier(params: Params, schema: Schema, rule: FoldRule) -> Earlier | None:
    """The same, checked against the columns; warns where its train fold may hold rows of today's validation fold.

    Args:
        params: Sections model, split and train.
        schema: Of the prepared file.
        rule: How today's folds were decided.

    Raises:
        ConfigError: As of `read_earlier`, or if it reads other columns.
        ArtifactError: If it is damaged.
    """
    earlier = read_earlier(params)
    if earlier is None:
        return None
    _refuse(earlier.named, list(_columns_differ(earlier.schema, with_statistics(schema, earlier.statistics))))
    if not _keeps_folds(earlier.descriptions[earlier.heldout], params, rule):
        log.warning(
            "warning: train.init_from: %s may have been trained on rows of today's validation fold, whose figures "
            "would then be too good; freeze split.thresholds, or split by time",
            earlier.named,
        )
    return earlier


def _refuse(named: str, problems: Sequence[str]) -> None:
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + f"; and {len(problems) - _SHOWN} more" * (len(problems) > _SHOWN)
        raise ConfigError(f"params.yaml: train.init_from: {named}: not the same model: {shown}")


def model_folder(named: str) -> Path:
    """The folder of a model from that of its artifacts, or from its own.

    Raises:
        ConfigError: If there is none, or DVC would remove it before the stage runs.
    """
    folders = (Path(named), Path(named) / paths.MODEL.name)
    folder = next((one for one in folders if (one / MODEL).is_file()), None)
    if folder is None:
        raise ConfigError(f"params.yaml: train.init_from: {named}: no model.json there, nor in its folder model")
    if folder.resolve().is_relative_to(paths.ARTIFACTS.resolve()):
        raise ConfigError(
            f"params.yaml: train.init_from: {named}: an output of this pipeline, which is removed before train runs; "
            "copy it to another folder"
        )
    return folder


def _read(named: str, folder: Path) -> Description:
    try:
        return read_description(folder)
    except ArtifactError as error:
        raise ArtifactError(f"params.yaml: train.init_from: {named}: {error}") from error


def _settings_differ(there: NetworkParams, here: NetworkParams) -> Iterator[str]:
    """Settings of the network by which it would be another one, or other weights would fit it."""
    first, second = (resolve_preset(params).model_dump(exclude=_FREE) for params in (there, here))
    for name, value in first.items():
        if value != second[name]:
            yield f"model.{name} {value} there, {second[name]} here"


def _columns_differ(there: Schema, here: Schema) -> Iterator[str]:
    ours, theirs = ({field.name: field for field in schema.fields} for schema in (here, there))
    # In the schemas' order: that of a set would be another one in each process, and only the first few are shown.
    for name in (name for name in theirs if name not in ours):
        yield f"column {name} there alone"
    for name in (name for name in ours if name not in theirs):
        yield f"column {name} here alone"
    for name in (name for name in theirs if name in ours):
        yield from _field_differs(theirs[name], ours[name])
    for key in ("target", "label", "id", "hash_seed"):
        if getattr(there, key) != getattr(here, key):
            yield f"{key} {getattr(there, key)} there, {getattr(here, key)} here"
    if list(ours) != list(theirs) and ours.keys() == theirs.keys():
        yield "another order of columns"


def _field_differs(there: Field, here: Field) -> Iterator[str]:
    if there == here:
        return
    for key in ("kind", "vocabulary", "num_buckets", "max_len", "separator", "padding", "tokens", "source"):
        if getattr(there, key) != getattr(here, key):
            yield f"column {there.name}: {key} {getattr(there, key)} there, {getattr(here, key)} here"


def _keeps_folds(earlier: Description, params: Params, rule: FoldRule) -> bool:
    """Whether no row of the earlier train fold can be in today's validation fold, as far as the rules tell."""
    if earlier.folds is None or earlier.folds.method != rule.method:
        return False
    if rule.method == "time":
        return _is_not_later(earlier.folds.boundary, rule.boundary)
    now = params.model_dump(mode="json")
    # The rule holds the thresholds themselves, whatever has set them.
    keys, settings = set(recorded_keys("split", now)) - {"split.thresholds", "split.val_ratio"}, earlier.settings
    return earlier.folds == rule and all(settings.get(key) == setting_at(now, key) for key in keys)


def _is_not_later(before: str | float | None, now: str | float | None) -> bool:
    """Whether a boundary is known to be no later than another: clocks with and without a zone do not tell."""
    if isinstance(before, str) and isinstance(now, str):
        try:
            first, second = datetime.fromisoformat(before), datetime.fromisoformat(now)
        except ValueError:  # a moment of a year that Python has not
            return False
        return (first.tzinfo is None) == (second.tzinfo is None) and first <= second
    if isinstance(before, str) or isinstance(now, str) or before is None or now is None:
        return False
    return before <= now
