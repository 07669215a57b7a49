"""What a search may change: settings with ranges or lists of values, checked against the rules before anything runs.

As options, `-S train.lr=1e-4..1e-2:log -S model.num_layers=1..4 -S model.norm=none,rms`, or as a file with the sections
and keys of params.yaml:

    train:
      lr: 1e-4..1e-2:log
    model:
      num_layers: 1..4
      norm: [none, rms]

Ends of a range belong to it. A range of whole numbers is whole where the setting is; `:log` draws evenly in the
logarithm, `:step=8` in steps. A single value holds in every trial, that of the defaults too.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from qin.config import Params
from qin.config.strict_yaml import parse_yaml, read_yaml
from qin.experiments.changes import changed, leaves
from qin.runtime.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<how>:.*)?")
_STEP = re.compile(rf":step=(?P<step>{_NUMBER})")
_DIGITS = 4

_REFUSED = {
    "data": "it changes which rows are judged, so that trials could not be compared",
    "split": "it changes which rows are judged, so that trials could not be compared",
    "features.impression": "it changes which rows decide, so that trials could not be compared",
    "prepare": "it changes speed, not the model",
    "evaluate": "it changes the report, not the model",
    "predict": "it changes the submission, not the model",
    "track": "it changes no output",
    "train.seed": "use --seeds, so that means and standard errors are taken over them",
    "trees.seed": "use --seeds, so that means and standard errors are taken over them",
    "train.refit": "trials are judged before the refit",
}


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which belong to it.

    Attributes:
        low: The smallest.
        high: The largest.
        is_log: Drawn evenly in the logarithm.
        step: Distance of the values, or None.
        is_whole: Whole numbers.
    """

    low: float
    high: float
    is_log: bool = False
    step: float | None = None
    is_whole: bool = False

    def value(self, drawn: float) -> float | int:
        """A drawn number as a setting, of few enough digits to be read."""
        if self.is_whole:
            return round(drawn)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """Some values.

    Attributes:
        values: As params.yaml would have them.
    """

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """What a search varies, and what it sets.

    Attributes:
        dimensions: Ranges and choices by dotted key.
        fixed: Values that hold in every trial, by dotted key.
    """

    dimensions: dict[str, Range | Choice]
    fixed: dict[str, Any]

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the choices, the last key's values varying fastest.

        Raises:
            ConfigError: If there is a range, which has no end of values.
        """
        lists = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise ConfigError(f"{key}: a grid needs a list of values, not a range")
            lists[key] = dimension.values
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def read_space(options: Sequence[str], file: Path | None, base: Params) -> Space:
    """Read a search space and check every end and value against the rules of the settings.

    Args:
        options: `KEY=LOW..HIGH`, `KEY=VALUE,VALUE` or `KEY=VALUE`.
        file: The same in sections, or None.
        base: The settings that are varied.

    Raises:
        ConfigError: A line per problem: a key that is unknown, not searched or given twice, a range or a value that
            breaks a rule.
    """
    given = [*_of_file(file), *map(_of_option, options)]
    if not given:
        raise ConfigError("nothing to search: give --set-param KEY=LOW..HIGH or KEY=VALUE,VALUE, or --space FILE")
    problems, found = [], dict[str, Range | Choice]()
    for source, key, values in sorted(given, key=_varies):  # what is set decides what others may be
        try:
            if key in found:
                raise ConfigError(f"{key}: given twice")
            found[key] = _dimension(key, values, base)
            if not _varies((source, key, values)):
                base = changed(base, {key: values[0]})
        except ConfigError as error:
            problems += [f"{source}: {line}" for line in error.args]
    if problems:
        raise ConfigError(*problems)
    fixed = {key: one.values[0] for key, one in found.items() if isinstance(one, Choice) and len(one.values) == 1}
    return Space({key: one for key, one in found.items() if key not in fixed}, fixed)


def _varies(given: tuple[str, str, list[Any]]) -> bool:
    values = given[2]
    return len(values) > 1 or (isinstance(values[0], str) and _RANGE.fullmatch(values[0]) is not None)


def _of_file(file: Path | None) -> Iterator[tuple[str, str, list[Any]]]:
    """Source, key and values of each line of a file of sections."""
    if file is None:
        return
    tree = read_yaml(file)
    if not isinstance(tree, dict) or not all(isinstance(keys, dict) and keys for keys in tree.values()):
        raise ConfigError(f"{file}: expected sections such as `train:` with keys and ranges or lists")
    for key, values in leaves(tree):
        yield str(file), key, values if isinstance(values, list) else [values]


def _of_option(option: str) -> tuple[str, str, list[Any]]:
    key, words = parse_choices(option)
    source = f"--set-param {option}"
    return source, key, [parse_yaml(word, source=source) for word in words]


def parse_choices(text: str) -> tuple[str, list[str]]:
    """Split `key=value,value`; commas inside brackets, braces and quotes belong to a value.

    Raises:
        ConfigError: If there is no key or an empty value.
    """
    key, _, rest = text.partition("=")
    values, depth, quote = [""], 0, ""
    for character in rest:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += character
    if not key or not all(values):
        raise ConfigError(f"--set-param {text}: expected KEY=LOW..HIGH, KEY=VALUE,VALUE or KEY=VALUE")
    return key, values


def _dimension(key: str, values: Sequence[Any], base: Params) -> Range | Choice:
    """A range or choice that obeys the rules.

    Raises:
        ConfigError: If it does not.
    """
    for refused, why in _REFUSED.items():
        if key == refused or key.startswith(f"{refused}."):
            raise ConfigError(f"{key}: not searched: {why}")
    match = _RANGE.fullmatch(values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    if match is None:
        for value in values:
            changed(base, {key: value})
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"{key}: a value is given twice")
        return Choice(tuple(values))
    return _range(key, match, base)


def _range(key: str, match: re.Match[str], base: Params) -> Range:
    low, high, how = float(match["low"]), float(match["high"]), match["how"] or ""
    found = _STEP.fullmatch(how)
    step = float(found["step"]) if found else None
    if how not in ("", ":log") and not found:
        raise ConfigError(f"{key}: {how[1:]}: expected log or step=NUMBER behind a range")
    if not low < high:
        raise ConfigError(f"{key}: the range ends before it begins: {match[0]}")
    if how == ":log" and low <= 0.0:
        raise ConfigError(f"{key}: a range on the logarithm begins above 0: {match[0]}")
    is_whole = low.is_integer() and high.is_integer() and (step or 1.0).is_integer() and not _takes_fractions(key, base)
    # Both ends: every rule here is a bound, so what lies between obeys it as well.
    for end in (low, high):
        changed(base, {key: int(end) if is_whole else end})
    if step is not None and not 0.0 < step <= high - low:
        raise ConfigError(f"{key}: a step must be above 0 and fit into the range: {match[0]}")
    return Range(low, high, is_log=how == ":log", step=step, is_whole=is_whole)


def _takes_fractions(key: str, base: Params) -> bool:
    """Whether a setting may be a number that is not whole: those that may be above 1, or below it, differ."""
    for value in (math.pi, 1.0 / math.pi):
        try:
            changed(base, {key: value})
        except ConfigError:
            continue
        return True
    return False
