"""What all sections of params.yaml share."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Entry = TypeVar("Entry")


def _listed_once(entries: list[Entry]) -> list[Entry]:
    repeated = next((entry for place, entry in enumerate(entries) if entry in entries[:place]), None)
    if repeated is not None:
        shown = f"[{', '.join(map(str, repeated))}]" if isinstance(repeated, list) else repeated
        raise ValueError(f"{shown} is listed twice")
    return entries


# Columns of which each has a place of its own: named twice, two features would have one name.
Names = Annotated[list[str], AfterValidator(_listed_once)]
SomeNames = Annotated[list[str], Field(min_length=1), AfterValidator(_listed_once)]
Pairs = Annotated[
    list[Annotated[list[str], Field(min_length=2, max_length=2)]],
    AfterValidator(_listed_once),
]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A section: frozen, strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
