"""The members' logits of the validation fold as one logit per row, which calibrate and evaluate go on with."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from qin.calibrate.blend import MEAN, Blend, BlendChoice, choose_blend
from qin.metrics.logits import IntArray
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json
from qin.runtime.seeds import BLEND_SALT, GOLDEN, mix_words
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.folds import selection_rows

NUM_PARTS = 5


def blend_members(members: Mapping[str, ScoredRows]) -> tuple[ScoredRows, BlendChoice]:
    """Choose and fit the blend on the selection half, and apply it to the whole fold.

    The report half decides nothing. A single member stays as it is, with its training prior; a blend of several is on
    the natural scale.

    Args:
        members: The validation fold as each member scored it, by name.

    Raises:
        ArtifactError: If the members scored different rows.
        ValueError: If the fold holds one class only.
    """
    first = next(iter(members.values()))
    for name, scored in members.items():
        if not (np.array_equal(scored.row, first.row) and np.array_equal(scored.is_report, first.is_report)):
            raise ArtifactError(f"the validation rows of member {name} are not those of {next(iter(members))}")
    everything = np.ones(first.row.size, np.bool_)
    rows = selection_rows(first.label, is_val=everything, is_report=first.is_report == 1)
    choice = choose_blend(
        {name: scored.logit[rows] for name, scored in members.items()},
        first.label[rows],
        offsets={name: scored.prior.offset for name, scored in members.items()},
        part=_parts(first.row[rows]),
    )
    if len(members) == 1:
        return first, choice
    logit = choice.blend.apply({name: scored.logit for name, scored in members.items()})
    # The offsets are in the blend, so to whoever comes next nothing has shifted the prior.
    prior = TrainingPrior(base_rate=first.prior.base_rate)
    # Rounded as `predict` rounds what it blends: the calibrator is fitted on the very logits that it will meet.
    return replace(first, logit=logit.astype(np.float32), prior=prior), choice


def describe_choice(choice: BlendChoice) -> list[str]:
    """What was chosen and why, a line each for the log."""
    weights = ", ".join(f"{name} {member.weight:.2f}" for name, member in choice.blend.members.items())
    lines = [f"members: {choice.kind} ({weights})"] if choice.gains else []
    for name, member in choice.blend.members.items():
        if not member.weight:
            gain, error = choice.gains[choice.kind]
            lines.append(
                f"member {name} does not help: without it the log loss of the selection half is lower by "
                f"{gain:.2g} +- {error:.2g} than with the {MEAN} of all members"
            )
    return lines


def read_blends(path: Path) -> list[Blend]:
    """Read what the calibrate stage wrote: the blend of each fold, or the one that there is.

    Raises:
        ArtifactError: If it is missing, damaged, or breaks a rule.
    """
    tree = read_exact_json(path)
    try:
        return [Blend.from_dict(choice["members"]) for choice in tree.get("folds", [tree])]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def _parts(row: IntArray) -> IntArray:
    """Part of the cross-fitting of each row, by a hash of its number, whatever the order."""
    mixed = mix_words((row.astype(np.uint64) ^ np.uint64(BLEND_SALT)) + GOLDEN)
    return (mixed % np.uint64(NUM_PARTS)).astype(np.int64)
