"""How many processes train, and what they must agree on before they do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qin.config import Params, TrainParams
from qin.distributed.ranks import Ranks, is_started_with_others
from qin.model.build import choose_device, resolve_preset
from qin.runtime.errors import ArtifactError, ConfigError
from qin.runtime.files import atomic_directory
from qin.runtime.host import num_cores
from qin.runtime.paths import SCRATCH
from qin.runtime.progress import PASSING, log


def count_processes(params: TrainParams) -> int:
    """Processes that the settings want: on a CPU one, whose threads are faster than processes.

    Raises:
        ConfigError: If there are fewer GPUs, or a GPU is demanded and there is none.
    """
    num_gpus = torch.cuda.device_count() if choose_device(params).type == "cuda" else 0
    if params.num_processes == "auto":
        return max(num_gpus, 1)
    # Other launchers place processes on machines whose GPUs are not seen from here.
    if params.launcher == "local" and 0 < num_gpus < params.num_processes:
        raise ConfigError(
            f"params.yaml: train.num_processes: {params.num_processes}, but there are {num_gpus} GPUs here; lower it, "
            "or set auto, or train.device: cpu"
        )
    return params.num_processes


def check_processes(params: Params, ranks: Ranks) -> None:
    """Refuse what several processes cannot compute as one does.

    Args:
        params: Sections model and train.
        ranks: The processes.

    Raises:
        ConfigError: If the network has batch norm, or another number of processes was started than the settings want.
    """
    wanted = params.train.num_processes
    if is_started_with_others() and wanted not in ("auto", ranks.world) and not params.train.elastic:
        raise ConfigError(
            f"params.yaml: train.num_processes: {wanted}, but {ranks.world} were started (WORLD_SIZE); set it to "
            f"{ranks.world} or auto, or let runs go on with any number by train.elastic: true"
        )
    if ranks.world == 1:
        if params.train.shard_tables:
            raise ConfigError(
                "params.yaml: train.shard_tables: true divides embedding tables among processes, and one trains here; "
                "set train.num_processes to 2 or more (auto: one for each GPU), or shard_tables: false"
            )
        return
    if any(resolve_preset(form).norm == "batch" for form in params.model.forms):
        raise ConfigError(
            "params.yaml: model.norm: batch (model.preset: published has it, too) cannot be trained by "
            f"{ranks.world} processes, each of which sees a part of the batch; use norm: rms, or train.num_processes: 1"
        )
    num_threads = ranks.num_neighbours * params.train.num_threads
    if choose_device(params.train).type == "cpu" and num_threads > num_cores():
        log.warning(
            "warning: %d processes with train.num_threads: %d each share %d cores; on one machine threads are faster",
            ranks.num_neighbours,
            params.train.num_threads,
            num_cores(),
            extra={PASSING: True},
        )


def check_same_run(provenance: dict[str, Any], ranks: Ranks) -> None:
    """Refuse processes that would train on other data, settings, code or hardware than the first.

    Args:
        provenance: Of this process, as `describe_run` gives it.
        ranks: The processes.

    Raises:
        ArtifactError: Naming what differs.
    """
    first, *others = ranks.all_of(provenance)
    for rank, other in enumerate(others, start=1):
        # All but the fingerprint, which differs with anything and says nothing.
        found = [name for name in first if name != "run" and first[name] != other[name]]
        if found:
            raise ArtifactError(
                f"process {rank} would train another run than process 0: different {', '.join(found)}; all machines "
                "need the same params.yaml, code, versions and prepared data"
            )


@contextmanager
def output_of_first(place: Path, ranks: Ranks) -> Iterator[Path]:
    """A folder that takes an output's place when all is well; for other processes than the first one to work in."""
    if ranks.rank == 0:
        with atomic_directory(place) as folder:
            yield folder
        return
    # The others do as the first does and throw it away, so that there is one path of code whoever runs it.
    folder = SCRATCH / "ranks" / f"{ranks.rank}" / place.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
