"""Section model: the network, its other forms, and the members beside it."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from qin.config.section import Section
from qin.runtime.errors import did_you_mean

Dropout = Annotated[float, Field(ge=0, lt=1)]
# A layer is a matrix of its width squared: of 2^16 it takes 16 GiB.
Width = Annotated[int, Field(ge=1, le=2**16)]
Depth = Annotated[int, Field(ge=1, le=1024)]

# Each of them makes two passes of one batch differ, without which `train.self_ensemble` has nothing to compare.
DROPOUTS = ("dropout", "row_dropout", "embedding_dropout", "field_dropout")


class NetworkParams(Section):
    """Sizes, variants and regularisation of the network; variants left out are the published ones."""

    preset: Literal["custom", "published"] = "custom"
    embedding_dim: Width
    embedding_std: Annotated[float, Field(gt=0)]
    attention_dim: Width
    num_heads: Width = 1
    attention_score: Literal["product", "mlp"] = "product"
    attention_norm: Literal["none", "length", "sqrt_length"] = "none"
    attention_bias: Literal["none", "constant", "recency"] = "none"
    attention_scale: Annotated[float, Field(gt=0)] = 1.0
    target_values: bool = False
    separate_attention_embedding: bool = False
    pooled_history: bool = False
    num_layers: Depth
    num_rows: Depth
    activation: Literal["after", "inside"] = "after"
    norm: Literal["none", "batch", "rms"] = "none"
    dropout: Dropout
    row_dropout: Dropout = 0.0
    embedding_dropout: Dropout = 0.0
    field_dropout: Dropout = 0.0
    num_frequencies: Annotated[int, Field(ge=0, le=2**12)] = 0
    numeric_bins: Annotated[int, Field(ge=0, le=2**10)] = 0
    min_count: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> "NetworkParams":
        if self.attention_dim % self.num_heads:
            raise ValueError(f"num_heads must divide attention_dim {self.attention_dim}, got {self.num_heads}")
        if self.attention_score == "mlp" and self.num_heads != 1:
            raise ValueError(f"num_heads must be 1 with attention_score: mlp, got {self.num_heads}")
        return self


class ModelParams(NetworkParams):
    """The network, its other forms, how many of it there are, and what is combined with it."""

    alternatives: list[dict[str, bool | int | float | str]] = []
    seeds: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = 1
    members: Annotated[list[Literal["network", "trees"]], Field(min_length=1)] = ["network"]

    @property
    def network(self) -> NetworkParams:
        """The network's settings alone: what it was trained with does not depend on the other members."""
        return NetworkParams(**{name: getattr(self, name) for name in NetworkParams.model_fields})

    @property
    def forms(self) -> list[NetworkParams]:
        """The network as it is set, and as each alternative would have it; a preset has one form."""
        first = self.network
        if self.preset != "custom":
            return [first]
        return [first, *(NetworkParams(**{**first.model_dump(), **changes}) for changes in self.alternatives)]

    @model_validator(mode="after")
    def _alternatives_are_networks(self) -> "ModelParams":
        # A preset sets all the other keys by itself, so it cannot be one change among others.
        known = sorted(set(NetworkParams.model_fields) - {"preset"})
        for number, changes in enumerate(self.alternatives):
            place = f"alternatives.{number}"
            if not changes:
                raise ValueError(f"{place}: changes nothing")
            # Before pydantic looks at them, which would name the key as one of the section instead of one of the
            # alternative.
            for key in changes:
                if key not in known:
                    raise ValueError(f"{place}.{key}: unknown key{did_you_mean(key, known, prefix=f'{place}.')}")
            try:
                NetworkParams(**{**self.network.model_dump(), **changes})
            except ValidationError as error:
                # Inside a validator there is one message to give: the first problem's.
                found = error.errors(include_url=False)[0]
                place = ".".join([place, *map(str, found["loc"][:1])])
                raise ValueError(f"{place}: {found['msg'].removeprefix('Value error, ')}") from error
        return self

    @model_validator(mode="after")
    def _members_differ(self) -> "ModelParams":
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"members must not repeat, got {self.members}")
        return self
