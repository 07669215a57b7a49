"""The trained model as files: weights, schema, sizes and where they come from."""

import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qin.columns.schema import Schema, differences
from qin.config import NetworkParams
from qin.model.build import build_model, unfitted
from qin.network.qin import QIN
from qin.runtime.chain import ORIGIN, Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import check_file, file_crc32, fingerprint, read_exact_json, write_exact_json
from qin.scored.prior import TrainingPrior
from qin.shards.files import RowReader
from qin.shards.folds import FoldRule

WEIGHTS, MODEL = "weights.safetensors", "model.json"


FORMAT = 2


@dataclass(frozen=True)
class TrainedModel:
    """Networks with what is needed to use the mean of their logits.

    Attributes:
        networks: One for each seed, in evaluation mode.
        schema: The columns it was trained on.
        params: Its sizes.
        provenance: Where it comes from: settings, fingerprints of data and code, versions, metrics, train fold.
        optimizers: The state of each network's optimizer as named tensors, where training is to go on from it.
    """

    networks: tuple[QIN, ...]
    schema: Schema
    params: NetworkParams
    provenance: dict[str, Any]
    optimizers: tuple[dict[str, torch.Tensor], ...] = ()


def save_model(folder: Path, model: TrainedModel, *, origin: Origin | None = None) -> None:
    """Write the weights of each network and one description; equal models give equal bytes.

    Args:
        folder: Existing folder.
        model: The model.
        origin: What it was made from, without which no stage reads it.

    The description is a single metadata key, because the order of several is random in safetensors.
    """
    description = {
        "format": FORMAT,
        "schema": model.schema.to_json(),
        "params": model.params.model_dump(),
        "provenance": model.provenance,
        **origin_entry(origin),
    }
    files = [folder / weights_file(number) for number in range(len(model.networks))]
    for network, file in zip(model.networks, files, strict=True):
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        _save_weights(weights, file, description=json.dumps(description, sort_keys=True))
    of_optimizers = [folder / optimizer_file(number) for number in range(len(model.optimizers))]
    for state, file in zip(model.optimizers, of_optimizers, strict=True):
        _save_weights(state, file, description=json.dumps({"format": FORMAT}))
    checksums = {"weights_crc32": {file.name: file_crc32(file) for file in files}}
    if of_optimizers:
        checksums["optimizer_crc32"] = {file.name: file_crc32(file) for file in of_optimizers}
    write_exact_json(folder / MODEL, {**description, **checksums})


def weights_file(number: int) -> str:
    """Name of the weights of a network, the first being 0."""
    return f"weights.{number}.safetensors" if number else WEIGHTS


def optimizer_file(number: int) -> str:
    """Name of the state of a network's optimizer, the first being 0."""
    return f"optimizer.{number}.safetensors" if number else "optimizer.safetensors"


def _save_weights(weights: dict[str, torch.Tensor], path: Path, *, description: str) -> None:
    """Write a safetensors file; a disk that is full is an OSError, which safetensors has only in its text."""
    try:
        save_file(weights, path, metadata={"qin": description})
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def load_model(folder: Path) -> TrainedModel:
    """Inverse of `save_model`.

    Raises:
        ArtifactError: If a file is missing, damaged, or of another format.
    """
    tree = _read_tree(folder)
    # Every file before any is read, so that damage is called damage and not another version.
    for name, checksum in tree["weights_crc32"].items():
        check_file(folder / name, crc32=checksum, stage="train", otherwise="of another model")
    try:
        schema, params = Schema.from_json(tree["schema"]), NetworkParams.model_validate(tree["params"])
        files = [folder / weights_file(number) for number in range(len(tree["weights_crc32"]))]
        networks = tuple(_load_network(file, schema, params) for file in files)
    except (KeyError, ValueError, RuntimeError) as error:  # whole, but from code with other settings or layers
        raise ArtifactError(f"{folder}: a model of another version; run the train stage again") from error
    return TrainedModel(networks, schema, params, tree["provenance"])


@dataclass(frozen=True)
class Description:
    """What a model's folder says of it, without its weights.

    Attributes:
        schema: The columns it was trained on.
        params: Its sizes.
        prior: What it was trained on.
        folds: How the rows it was trained on were chosen; None in a model of an earlier version.
        settings: That it was made with, by dotted key.
        weights_crc32: Checksum of the weights of each network by file.
        optimizer_crc32: The same of its optimizer; empty where that was not kept.
        checksum: Of all of it.
    """

    schema: Schema
    params: NetworkParams
    prior: TrainingPrior
    folds: FoldRule | None
    settings: dict[str, Any]
    weights_crc32: dict[str, int]
    optimizer_crc32: dict[str, int]
    checksum: str


def read_description(folder: Path) -> Description:
    """What a model is, from its description alone.

    Raises:
        ArtifactError: If the file is missing, damaged, or of another format.
    """
    tree = _read_tree(folder)
    try:
        provenance, folds = tree["provenance"], tree["provenance"].get("folds")
        return Description(
            schema=Schema.from_json(tree["schema"]),
            params=NetworkParams.model_validate(tree["params"]),
            prior=TrainingPrior(**{field.name: provenance[field.name] for field in fields(TrainingPrior)}),
            folds=None if folds is None else FoldRule(**folds),
            settings=tree.get(ORIGIN, {}).get("settings", {}),
            weights_crc32=tree["weights_crc32"],
            optimizer_crc32=tree.get("optimizer_crc32", {}),
            checksum=fingerprint(tree),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: a model of another version") from error


def _read_tree(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = read_exact_json(folder / MODEL)
    if "folds" in tree:
        raise ArtifactError(
            f"{folder}: {len(tree['folds'])} models, made with split.num_folds; name one of its folders"
        )
    if tree.get("format") != FORMAT:
        raise ArtifactError(f"{folder / MODEL}: format {tree.get('format')!r}, expected {FORMAT}")
    return tree


def _load_network(weights: Path, schema: Schema, params: NetworkParams) -> QIN:
    # What is drawn and what stands for fitted values is overwritten, all of it, or loading fails.
    network = build_model(schema, params, unfitted(schema, params), seed=0)
    network.load_state_dict(load_file(weights))
    return network.eval()


def check_same_schema(schema: Schema, reader: RowReader) -> None:
    """Check that prepared rows are encoded as the rows that a member was trained on, whose schema is given.

    Raises:
        ArtifactError: Naming the columns that differ.
    """
    if reader.schema == schema:
        return
    found = differences(schema, reader.schema)
    raise ArtifactError(f"{reader.folder}: not encoded as the model was trained; different: {found}")
