"""The mixing against published numbers, and that every stream and salt is in the one table."""

import re

import numpy as np

from qin.runtime import seeds
from qin.runtime.seeds import GOLDEN, HOLDOUT_SALT, IMPORTANCE_SALT, Stream, mix, mix_words
from tests.project import ROOT

# The first draws of SplitMix64 from state 1234567, as published with Vigna's reference implementation.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_draws_are_the_published_ones() -> None:
    states = np.uint64(1234567) + GOLDEN * np.arange(1, 6, dtype=np.uint64)
    assert mix_words(states).tolist() == PUBLISHED
    assert [int(mix(state)) for state in states] == PUBLISHED


def test_no_two_users_of_a_seed_share_a_stream() -> None:
    assert len(set(Stream)) == len(Stream.__members__)
    assert HOLDOUT_SALT != IMPORTANCE_SALT
    draws = {np.random.default_rng((7, 0, stream)).integers(2**63) for stream in Stream}
    assert len(draws) == len(Stream)


def test_the_mixing_is_written_once() -> None:
    constants = re.compile("|".join(("0x9E3779B97F4A7C15", "0xBF58476D1CE4E5B9", "0x94D049BB133111EB")), re.IGNORECASE)
    found = {path for path in (ROOT / "qin").rglob("*.py") if constants.search(path.read_text())}
    assert {path.relative_to(ROOT).as_posix() for path in found} == {"qin/runtime/seeds.py"}
    assert seeds.__file__ is not None
