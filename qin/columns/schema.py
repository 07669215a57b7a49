"""Which column of the log is what: the fields of a model and their order."""

import dataclasses
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

TokenRule = Literal["", "number", "text"]


class FieldKind(StrEnum):
    """How a column is encoded."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class Field:
    """One input column.

    Attributes:
        name: Column name.
        kind: How it is encoded.
        vocabulary: Name that salts its hash; columns with equal vocabularies give equal values equal buckets.
        num_buckets: Buckets of the vocabulary, padding (0) and null (1) included; 0 for numeric fields.
        max_len: Tokens kept, for sequences; 0 otherwise.
        separator: What divides the tokens of a sequence that is text.
        padding: Token of a sequence that means nothing.
        tokens: What a sequence's tokens in text are read as; empty for other fields, and where only the file tells.
        source: What it is derived from: `history`, `impression` or `statistic`; empty for a column of the file.
        type: Of the train file's column (see `types.type_name`); not compared, because one of the same family,
            such as wider integers, encodes equal values alike.
    """

    name: str
    kind: FieldKind
    vocabulary: str = ""
    num_buckets: int = 0
    max_len: int = 0
    separator: str = ","
    padding: str | None = None
    tokens: TokenRule = ""
    source: str = ""
    type: str = dataclasses.field(default="", compare=False)


@dataclass(frozen=True)
class Schema:
    """The resolved input columns.

    Attributes:
        fields: All input columns, each kind in the order of params.yaml and a glob's matches in natural order of their
            names; so the order of a file's columns changes neither the model nor the folds.
        target: Categorical columns that together are the target item.
        label: Column of the label.
        id: Column that names a test row.
        hash_seed: Seed of the categorical hash.
        other_labels: Columns of further labels, each predicted by a model of its own.
    """

    fields: tuple[Field, ...]
    target: tuple[str, ...]
    label: str
    id: str
    hash_seed: int
    other_labels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All columns of labels; most often there is one."""
        return (self.label, *self.other_labels)

    def of_kind(self, kind: FieldKind) -> tuple[Field, ...]:
        """Fields of one kind, in order."""
        return tuple(field for field in self.fields if field.kind == kind)

    @property
    def categorical(self) -> tuple[Field, ...]:
        """Categorical fields."""
        return self.of_kind(FieldKind.CATEGORICAL)

    @property
    def numeric(self) -> tuple[Field, ...]:
        """Numeric fields."""
        return self.of_kind(FieldKind.NUMERIC)

    @property
    def columns(self) -> tuple[Field, ...]:
        """Fields that are columns of the file, and not derived from others."""
        return tuple(field for field in self.fields if not field.source)

    @property
    def sequences(self) -> tuple[Field, ...]:
        """Sequence fields."""
        return self.of_kind(FieldKind.SEQUENCE)

    @property
    def vocabularies(self) -> dict[str, int]:
        """Buckets of each vocabulary: one per categorical field in order, then those that sequences own."""
        # A sequence that shares a column's vocabulary finds its key there, and adds none.
        return {f.vocabulary: f.num_buckets for f in (*self.categorical, *self.sequences)}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        tree = asdict(self)
        if not self.other_labels:  # what one label leaves has the bytes it always had
            del tree["other_labels"]
        return tree

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Schema":
        """Inverse of `to_json`."""
        fields = tuple(Field(**{**field, "kind": FieldKind(field["kind"])}) for field in tree["fields"])
        return cls(
            fields=fields,
            target=tuple(tree["target"]),
            label=tree["label"],
            id=tree["id"],
            hash_seed=tree["hash_seed"],
            other_labels=tuple(tree.get("other_labels", ())),
        )


def differences(ours: Schema, theirs: Schema) -> str:
    """Names of the fields that differ, for a message."""
    names = sorted({field.name for field in set(ours.fields) ^ set(theirs.fields)})
    return ", ".join(names or ["order, target or hash seed"])
