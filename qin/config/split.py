"""Section split: how rows are divided into what trains and what judges."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qin.config.section import Ratio, Section, Seed, SomeNames

# Of hashes cut to 53 bits (see `qin.split.methods`); 2^53 itself is above all of them.
Threshold = Annotated[int, Field(ge=0, le=2**53)]


class SplitParams(Section):
    """How rows are divided into a train and a validation fold."""

    method: Literal["stratified", "group_user", "group_session", "time"]
    num_folds: Annotated[int, Field(ge=1, le=100)] = 1  # numbers of folds are kept in bytes
    seed: Seed
    val_ratio: Ratio
    row_key: SomeNames | None = None
    group_key: str | None = None
    session_key: str | None = None
    time_col: str | None = None
    time_val_ratio: Ratio
    time_val_start: str | int | float | None = None
    time_embargo: Annotated[float, Field(ge=0)] = 0.0
    cross_boundary_sessions: Literal["keep", "drop"] = "keep"
    thresholds: dict[str, Threshold] | None = None

    @model_validator(mode="after")
    def _method_has_its_column(self) -> "SplitParams":
        needs = {"group_user": "group_key", "group_session": "session_key", "time": "time_col"}
        key = needs.get(self.method)
        if key is not None and getattr(self, key) is None:
            raise ValueError(f"method {self.method} needs {key}, which is null")
        if self.method == "time" and self.thresholds is not None:
            raise ValueError("thresholds belong to the hashed methods; freeze a time split with time_val_start")
        return self

    @model_validator(mode="after")
    def _folds_are_drawn(self) -> "SplitParams":
        if self.num_folds == 1:
            return self
        for key in ("thresholds", "time_val_start"):
            if getattr(self, key) is not None:
                raise ValueError(f"num_folds {self.num_folds} draws its own folds: {key} must be null")
        if self.method == "time" and self.num_folds * self.time_val_ratio >= 1.0:
            raise ValueError(
                f"num_folds {self.num_folds} of time_val_ratio {self.time_val_ratio} leave no rows to train on; their "
                "product must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _large_groups_are_placed(self) -> "SplitParams":
        """A group of many rows is placed by its own key, `large_` and the hash, in train (0) or validation (1)."""
        for name, value in (self.thresholds or {}).items():
            if not name.startswith("large_"):
                continue
            if re.fullmatch("large_[0-9a-f]{14}", name) is None:  # 53 bits
                raise ValueError(f"thresholds.{name}: the group must be 14 hexadecimal digits, as in manifest.json")
            if value not in (0, 1):
                raise ValueError(f"thresholds.{name}: must be 0 (train) or 1 (validation), got {value}")
        return self
