"""Column names in params.yaml: a name is first itself, then a glob."""

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator

from qin.runtime.sources import natural_key


def matching(pattern: str, names: Collection[str]) -> list[str]:
    """The names that a pattern means, in natural order.

    Args:
        pattern: A column's name, or a glob such as `l_feat_*`. Where a column is called exactly so (`price[usd]`), it
            alone is meant.
        names: All columns of the file; a set or a dictionary where there are many patterns.
    """
    if pattern in names:
        return [pattern]
    if not any(character in pattern for character in "*?["):
        return []
    # Compiled once, and not `fnmatch.filter`, which takes upper and lower case for one on some systems.
    is_match = re.compile(fnmatch.translate(pattern)).match
    return sorted((name for name in names if is_match(name)), key=natural_key)


def expanded(patterns: Iterable[str], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield `(pattern, name)` in the order of the patterns, so that the order of a file's columns means nothing."""
    for pattern in patterns:
        for name in matching(pattern, names):
            yield pattern, name
