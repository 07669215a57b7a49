"""The trained model as files, and batched logits from it."""

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qin.config import ModelParams
from qin.errors import ArtifactError
from qin.network.frozen import FrozenQIN
from qin.network.qin import QIN
from qin.network.threads import one_thread_workers
from qin.runtime.files import file_crc32, read_exact_json, write_exact_json
from qin.schema import Schema
from qin.shards.device import prefetched
from qin.shards.files import ShardReader
from qin.shards.loader import Batch
from qin.train.build import build_model

WEIGHTS, MODEL = "weights.safetensors", "model.json"
FORMAT = 1

_BATCHES_AHEAD = 2  # read and handed out before the oldest is waited for


@dataclass(frozen=True)
class TrainedModel:
    """A network with what is needed to use its logits.

    Attributes:
        network: In evaluation mode.
        schema: The columns it was trained on.
        params: Its sizes.
        provenance: Where it comes from: settings, fingerprints of data and code, versions, metrics, train fold.
    """

    network: QIN
    schema: Schema
    params: ModelParams
    provenance: dict[str, Any]


def for_scoring(network: QIN) -> QIN | FrozenQIN:
    """The network in evaluation mode, on the CPU as a frozen copy; for `score`, which would make it at every call."""
    network.eval()
    return FrozenQIN(network) if next(network.parameters()).device.type == "cpu" else network


def score(network: QIN | FrozenQIN, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yield each batch with its logits `(batch,)`, computed on the network's device.

    On the CPU the bytes of a logit depend neither on the other rows of its batch nor on the number of threads.
    """
    if isinstance(network, QIN):
        network = for_scoring(network)
    if isinstance(network, FrozenQIN):
        yield from _score_on_cpu(network, batches)
        return
    for batch in prefetched(batches, next(network.parameters()).device):
        with torch.inference_mode():
            logit = network(batch.categorical, batch.numeric, batch.sequences)
        yield batch, logit.float().cpu().numpy()


def _score_on_cpu(network: FrozenQIN, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Tiles of rows in parallel, each on one thread from end to end; the next batch is read meanwhile."""
    workers = one_thread_workers(torch.get_num_threads())
    pending: deque[tuple[Batch, list[Future[torch.Tensor]]]] = deque()
    for batch in batches:
        tiles = network.tiles(batch.categorical, batch.numeric, batch.sequences)
        pending.append((batch, [workers.submit(tile) for tile in tiles]))
        if len(pending) > _BATCHES_AHEAD:
            yield _collected(*pending.popleft())
    while pending:
        yield _collected(*pending.popleft())


def _collected(batch: Batch, tiles: list[Future[torch.Tensor]]) -> tuple[Batch, npt.NDArray[np.float32]]:
    return batch, torch.cat([tile.result() for tile in tiles]).numpy()


def score_all(network: QIN | FrozenQIN, batches: Iterator[Batch], *, num_rows: int) -> npt.NDArray[np.float32]:
    """Logits of all batches in order, `(num_rows,)`."""
    out, position = np.empty(num_rows, np.float32), 0
    for batch, logit in score(network, batches):
        out[position : position + batch.rows.size] = logit
        position += batch.rows.size
    assert position == num_rows, "batches hold as many rows as were selected"
    return out


def score_batch(network: QIN | FrozenQIN, batch: Batch, *, batch_size: int) -> npt.NDArray[np.float32]:
    """Logits of rows that are in memory, `(n,)`."""
    return score_all(network, batch.pieces(batch_size), num_rows=batch.rows.size)


def save_model(folder: Path, model: TrainedModel) -> None:
    """Write weights and description; equal models give equal bytes.

    The description is a single metadata key, because the order of several is random in safetensors.
    """
    description = {
        "format": FORMAT,
        "schema": model.schema.to_json(),
        "params": model.params.model_dump(),
        "provenance": model.provenance,
    }
    weights = {name: value.cpu().contiguous() for name, value in model.network.state_dict().items()}
    _save_weights(weights, folder / WEIGHTS, description=json.dumps(description, sort_keys=True))
    write_exact_json(folder / MODEL, {**description, "weights_crc32": file_crc32(folder / WEIGHTS)})


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
    tree = read_exact_json(folder / MODEL)
    if tree.get("format") != FORMAT:
        raise ArtifactError(f"{folder / MODEL}: format {tree.get('format')!r}, expected {FORMAT}")
    weights = folder / WEIGHTS
    if not weights.exists():
        raise ArtifactError(f"{weights}: file not found; run the train stage")
    if file_crc32(weights) != tree["weights_crc32"]:
        raise ArtifactError(f"{weights}: damaged or of another model; run the train stage again")
    try:
        schema, params = Schema.from_json(tree["schema"]), ModelParams.model_validate(tree["params"])
        zeros = [0.0] * len(schema.numeric)
        network = build_model(schema, params, mean=zeros, std=zeros, seed=0)
        network.load_state_dict(load_file(weights))
    except (KeyError, ValueError, RuntimeError) as error:  # whole, but from code with other settings or layers
        raise ArtifactError(f"{folder}: a model of another version; run the train stage again") from error
    network.eval()
    return TrainedModel(network, schema, params, tree["provenance"])


def check_same_schema(model: TrainedModel, reader: ShardReader) -> None:
    """Check that prepared rows are encoded as the model's training rows were.

    Raises:
        ArtifactError: Naming the columns that differ.
    """
    if reader.schema == model.schema:
        return
    ours, theirs = set(model.schema.fields), set(reader.schema.fields)
    names = sorted({field.name for field in ours ^ theirs}) or ["order, target or hash seed"]
    raise ArtifactError(f"{reader.folder}: not encoded as the model was trained; different: {', '.join(names)}")


def use_threads(num_threads: int) -> None:
    """Fix the number of threads and demand deterministic kernels, so that equal inputs give equal bytes."""
    torch.set_num_threads(num_threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, matrix products on a GPU may vary
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler first
    # Filling memory before it is written costs a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
