"""The members of a model together: prepared rows in, one logit per row out, as calibrate combined them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.calibrate.blend import Blend
from qin.calibrate.members import read_blends
from qin.columns.schema import Schema, differences
from qin.config import Params
from qin.model.artifact import check_same_schema, load_model
from qin.model.build import Computing, place
from qin.model.scoring import Scorable, for_scoring, mean_logit, score_all, score_batch
from qin.runtime import paths
from qin.runtime.errors import ArtifactError
from qin.runtime.folded import place_of_fold
from qin.runtime.progress import Progress
from qin.shards.files import RowReader
from qin.shards.loader import Batch, iterate_in_order
from qin.trees.artifact import load_trees
from qin.trees.fitted import FittedTrees

Logits = npt.NDArray[np.float32]


def arrays_of(batch: Batch, schema: Schema) -> dict[str, npt.NDArray[Any]]:
    """Rows in memory as the groups of a prepared file."""
    named = zip(schema.sequences, batch.sequences, strict=True)
    return {
        "categorical": batch.categorical.numpy(),
        "numeric": batch.numeric.numpy(),
        **{f"sequence.{field.name}": items.numpy() for field, items in named},
    }


@dataclass(frozen=True)
class Members:
    """Members that have a weight, ready to score.

    Attributes:
        blend: How their logits make one.
        networks: One for each seed; none where they have no weight.
        trees: None where they have no weight.
        schema: Of the rows to score.
    """

    blend: Blend
    networks: tuple[Scorable, ...]
    trees: FittedTrees | None
    schema: Schema

    @classmethod
    def load(cls, params: Params, reader: RowReader, *, heldout: bool, fold: int = 1) -> "Members":
        """Read what the stages left, to score prepared rows.

        Args:
            params: Section train: device, precision, threads.
            reader: The rows to score.
            heldout: Whether to take what was fitted without the validation fold; otherwise what is deployed.
            fold: Whose members, from 1 on.

        Raises:
            ArtifactError: If a file is missing or damaged, or the rows are not encoded as the members were fitted.
        """
        members = cls.read(paths.ARTIFACTS, params.train, heldout=heldout, fold=fold)
        check_same_schema(members.schema, reader)
        return members

    @classmethod
    def read(cls, folder: Path, computing: Computing, *, heldout: bool = False, fold: int = 1) -> "Members":
        """Read the members of a folder of artifacts.

        Args:
            folder: `artifacts` of a repository, or a copy of it.
            computing: Device, precision, threads.
            heldout: See `load`.
            fold: See `load`.

        Raises:
            ArtifactError: If a file is missing or damaged, or the members were fitted to rows of different schemas.
        """
        blend = read_blends(folder / paths.BLEND.name)[fold - 1]
        used = [name for name, member in blend.members.items() if member.weight]
        places = {name: place_of_fold(paths.MEMBERS[name], fold, at=folder / paths.MEMBERS[name].name) for name in used}
        if heldout:
            places = {name: paths.heldout(place) for name, place in places.items()}
        networks: tuple[Scorable, ...] = ()
        trees = None
        schemas: list[Schema] = []
        if "network" in used:
            model = load_model(places["network"])
            networks = tuple(for_scoring(place(network, computing)) for network in model.networks)
            schemas.append(model.schema)
        if "trees" in used:
            artifact = load_trees(places["trees"], num_threads=computing.num_threads)
            trees = artifact.trees
            schemas.append(artifact.schema)
        # One or two are loaded, and of both the same rows are to be read.
        if schemas[0] != schemas[-1]:
            found = differences(*schemas)
            raise ArtifactError(f"{folder}: the members read different rows; different: {found}; run `dvc repro`")
        return cls(blend, networks, trees, schemas[0])

    def logit(self, reader: RowReader, *, batch_size: int) -> Logits:
        """Blended logits of every row of a file, `(num_rows,)`."""
        num_scored = reader.num_rows * (len(self.networks) + (self.trees is not None))  # by each member once
        with Progress(num_scored, label="score") as progress:

            def of_network(network: Scorable) -> Logits:
                batches = iterate_in_order(reader, is_selected=None, batch_size=batch_size)
                return score_all(network, _counted(batches, progress), num_rows=reader.num_rows)

            return self._blended(of_network, lambda trees: trees.logit(reader, on_rows=progress.advance))

    def logit_of(self, batch: Batch, *, batch_size: int, num_threads: int | None = None) -> Logits:
        """Blended logits of rows in memory, `(n,)`.

        Args:
            batch: The rows.
            batch_size: Rows at a time.
            num_threads: Of the network; None for as many as PyTorch has.
        """
        arrays = arrays_of(batch, self.schema)
        return self._blended(
            lambda network: score_batch(network, batch, batch_size=batch_size, num_threads=num_threads),
            lambda trees: trees.logit_of(self.schema, arrays),
        )

    def _blended(
        self,
        of_network: Callable[[Scorable], Logits],
        of_trees: Callable[[FittedTrees], npt.NDArray[np.float64]],
    ) -> Logits:
        logits: dict[str, Logits] = {}
        if self.networks:
            logits["network"] = mean_logit([of_network(network) for network in self.networks])
        if self.trees is not None:
            # Rounded as the trees stage stored them, to which the blend was fitted.
            logits["trees"] = of_trees(self.trees).astype(np.float32)
        if len(self.blend.members) == 1:  # it stays on its training scale, which the calibrator knows
            return next(iter(logits.values()))
        return self.blend.apply(logits).astype(np.float32)


def _counted(batches: Iterator[Batch], progress: Progress) -> Iterator[Batch]:
    """The batches; a batch counts when the next one is asked for."""
    for batch in batches:
        yield batch
        progress.advance(batch.rows.size)
