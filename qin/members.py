"""The members of a model together: prepared rows in, one logit per row out, as calibrate combined them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qin.calibrate.blend import Blend
from qin.calibrate.members import read_blend
from qin.columns.schema import Schema
from qin.config import Params
from qin.model.artifact import check_same_schema, load_model
from qin.model.build import place
from qin.model.scoring import for_scoring, score_all, score_batch
from qin.network.frozen import FrozenQIN
from qin.network.qin import QIN
from qin.runtime import paths
from qin.shards.files import RowReader
from qin.shards.loader import Batch, iterate_in_order
from qin.trees.artifact import load_trees
from qin.trees.fit import FittedTrees

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Members:
    """Members that have a weight, ready to score.

    Attributes:
        blend: How their logits make one.
        network: None where it has no weight.
        trees: None where they have no weight.
        schema: Of the rows to score.
    """

    blend: Blend
    network: QIN | FrozenQIN | None
    trees: FittedTrees | None
    schema: Schema

    @classmethod
    def load(cls, params: Params, reader: RowReader, *, heldout: bool) -> "Members":
        """Read what the stages left.

        Args:
            params: Section train: device, precision, threads.
            reader: The rows to score.
            heldout: Whether to take what was fitted without the validation fold; otherwise what is deployed.

        Raises:
            ArtifactError: If a file is missing or damaged, or the rows are not encoded as the members were fitted.
        """
        blend = read_blend(paths.BLEND)
        places = {name: paths.heldout(place) if heldout else place for name, place in paths.MEMBERS.items()}
        used = {name for name, member in blend.members.items() if member.weight}
        network, trees = None, None
        if "network" in used:
            model = load_model(places["network"])
            check_same_schema(model.schema, reader)
            network = for_scoring(place(model.network, params.train))
        if "trees" in used:
            artifact = load_trees(places["trees"], num_threads=params.train.num_threads)
            check_same_schema(artifact.schema, reader)
            trees = artifact.trees
        return cls(blend, network, trees, reader.schema)

    def logit(self, reader: RowReader, *, batch_size: int) -> Logits:
        """Blended logits of every row of a file, `(num_rows,)`."""
        batches = iterate_in_order(reader, is_selected=None, batch_size=batch_size)
        return self._blended(
            lambda network: score_all(network, batches, num_rows=reader.num_rows), lambda trees: trees.logit(reader)
        )

    def logit_of(self, batch: Batch, *, batch_size: int) -> Logits:
        """Blended logits of rows in memory, `(n,)`."""
        arrays = {
            "categorical": batch.categorical.numpy(),
            "numeric": batch.numeric.numpy(),
            **{
                f"sequence.{field.name}": items.numpy()
                for field, items in zip(self.schema.sequences, batch.sequences, strict=True)
            },
        }
        return self._blended(
            lambda network: score_batch(network, batch, batch_size=batch_size),
            lambda trees: trees.logit_of(self.schema, arrays),
        )

    def _blended(
        self,
        of_network: Callable[[QIN | FrozenQIN], Logits],
        of_trees: Callable[[FittedTrees], npt.NDArray[np.float64]],
    ) -> Logits:
        logits: dict[str, Logits] = {}
        if self.network is not None:
            logits["network"] = of_network(self.network)
        if self.trees is not None:
            logits["trees"] = of_trees(self.trees).astype(np.float32)
        if len(self.blend.members) == 1:  # it stays on its training scale, which the calibrator knows
            return next(iter(logits.values()))
        return self.blend.apply(logits).astype(np.float32)
