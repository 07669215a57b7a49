"""What one mutation did, and what must follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Mutation:
    """One change of a project.

    Attributes:
        name: What was changed, for whoever reads of a fault.
        is_bad: True where a stage has to refuse it, False where none may, None where either may be right.
    """

    name: str
    is_bad: bool | None = None


def choice(generator: np.random.Generator, values: Sequence[T]) -> T:
    """One of some values of any type, which NumPy would make an array of."""
    return values[int(generator.integers(len(values)))]
