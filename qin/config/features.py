"""Section features: columns, histories, impressions and statistics."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qin.config.section import Names, Pairs, Section, Seed, SomeNames

# Padding, null and at least one value; indices are of 32 bits.
NumBuckets = Annotated[int, Field(ge=3, le=2**31 - 1)]

# They are parts of numbers, or they quote, escape, enclose or end tokens.
_NO_SEPARATORS = "+.\"'\\[](){}\r\n\0"


class SequenceParams(Section):
    """One behaviour sequence; it has its own vocabulary (`num_buckets`) or shares a column's.

    `separator` divides the tokens of text, `padding` is a token that stands for nothing, and `tokens` says what text is
    read as: `auto` takes the type of the column whose vocabulary it shares, or else what the file's first rows hold.
    """

    name: str
    max_len: Annotated[int, Field(ge=1, le=2**20)]
    vocabulary_of: str | None = None
    num_buckets: NumBuckets | None = None
    separator: str = ","
    padding: str | int | None = None
    tokens: Literal["auto", "number", "text"] = "auto"

    @model_validator(mode="after")
    def _separator_divides(self) -> "SequenceParams":
        text = self.separator
        if len(text) != 1 or not text.isascii() or text.isalnum() or text in _NO_SEPARATORS:
            raise ValueError(
                "separator must be one ASCII character that is no letter, digit, quote, bracket, backslash, point or "
                f"plus, such as ',' or '|'; got {text!r}"
            )
        return self

    @model_validator(mode="after")
    def _one_vocabulary(self) -> "SequenceParams":
        if (self.vocabulary_of is None) == (self.num_buckets is None):
            raise ValueError("give either vocabulary_of (a categorical column) or num_buckets, not both")
        return self


class ImpressionParams(Section):
    """The rows that were shown together: what names them, and what is compared among them."""

    key: SomeNames | None = None
    columns: Names | None = None


class StatisticsParams(Section):
    """Click rates and shares of categorical values, fitted on the train fold."""

    enable: bool = True
    fields: Names | None = None
    pairs: Pairs | Literal["auto"] = "auto"
    cosines: bool = True
    num_blocks: Annotated[int, Field(ge=2)] = 10  # the first one sees nothing, so that one alone would be no statistic
    prior_weight: Annotated[float, Field(ge=1e-6)] = 20.0  # at 0, a value without a click has an infinite logit
    drift_psi: Annotated[float, Field(gt=0)] | None = 0.25

    @property
    def listed_pairs(self) -> list[list[str]] | None:
        """The pairs as a list; None where they are chosen by the columns."""
        return None if self.pairs == "auto" else self.pairs


class FeatureParams(Section):
    """Which columns feed the model and how they are encoded; names may be globs such as `l_feat_*`."""

    categorical: list[str]
    numeric: list[str] = []
    sequences: list[SequenceParams] = []
    target: SomeNames
    num_buckets: NumBuckets
    num_buckets_of: dict[str, NumBuckets] = {}
    hash_seed: Seed
    matches: bool = True
    impression: ImpressionParams = ImpressionParams()
    statistics: StatisticsParams = StatisticsParams()
