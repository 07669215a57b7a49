"""Fitted trees as files: LightGBM's own text, which holds no code, and a description of the columns they read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qin.columns.schema import Schema
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import check_file, file_crc32, read_exact_json, write_exact_json
from qin.trees.columns import TreeColumns
from qin.trees.fitted import FittedTrees
from qin.trees.forest import Forest

TREES, DESCRIPTION = "trees.txt", "trees.json"

FORMAT = 1


@dataclass(frozen=True)
class TreesArtifact:
    """Trees with what is needed to use their logits.

    Attributes:
        trees: Fitted.
        schema: The columns of the rows they were fitted on.
        provenance: Where they come from: settings, fingerprints, versions, metrics.
    """

    trees: FittedTrees
    schema: Schema
    provenance: dict[str, Any]


def save_trees(folder: Path, artifact: TreesArtifact, *, origin: Origin | None = None) -> None:
    """Write trees and description; equal trees give equal bytes.

    Args:
        folder: Existing folder.
        artifact: What to write.
        origin: What they were made from, without which no stage reads them.
    """
    (folder / TREES).write_text(artifact.trees.forest.text, encoding="utf-8")
    write_exact_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "schema": artifact.schema.to_json(),
            "columns": asdict(artifact.trees.columns),
            "num_leaves": artifact.trees.num_leaves,
            "num_rounds": artifact.trees.num_rounds,
            "provenance": artifact.provenance,
            "trees_crc32": file_crc32(folder / TREES),
            **origin_entry(origin),
        },
    )


def load_trees(folder: Path, *, num_threads: int) -> TreesArtifact:
    """Inverse of `save_trees`.

    Args:
        folder: Where they are.
        num_threads: To score with.

    Raises:
        ArtifactError: If a file is missing, damaged, or of another format.
    """
    tree = read_exact_json(folder / DESCRIPTION)
    if tree.get("format") != FORMAT:
        raise ArtifactError(f"{folder / DESCRIPTION}: format {tree.get('format')!r}, expected {FORMAT}")
    path = folder / TREES
    check_file(path, crc32=tree["trees_crc32"], stage="trees", otherwise="of other trees")
    try:
        stored = tree["columns"]
        columns = TreeColumns(
            numeric=tuple(stored["numeric"]),
            **{
                kind: {name: tuple(known) for name, known in stored[kind].items()}
                for kind in ("categorical", "last_items")
            },
        )
        forest = Forest(path.read_text(encoding="utf-8"))
        trees = FittedTrees(forest, columns, tree["num_leaves"], num_threads)
        return TreesArtifact(trees, Schema.from_json(tree["schema"]), tree["provenance"])
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{folder}: trees of another version; run the trees stage again") from error
