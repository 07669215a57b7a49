"""The lines of dvc.yaml that name raw files, as params.yaml has them: DVC fills in text, but no list and no null."""

import re
from itertools import groupby
from pathlib import Path

from qin.config import DataParams
from qin.errors import ConfigError
from qin.runtime.files import atomic_file
from qin.sources import Source

_LINE = re.compile(r"(?P<indent> *)(?:# )?- \$\{data\.(?P<key>train|test|sample_submission)(?:\[\d+\])?\}.*")


def write_dependencies(file: Path, data: DataParams) -> bool:
    """Let the stages of a dvc.yaml depend on the raw files that settings name; nothing else in it changes.

    Args:
        file: Dvc.yaml.
        data: The settings.

    Returns:
        Whether a line has changed.

    Raises:
        ConfigError: If the file is missing, or names no raw file.
    """
    try:
        before = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: file not found; run this in the repository's root") from error
    sample = None if data.test is None else data.sample_submission
    sources: dict[str, Source | None] = {"train": data.train, "test": data.test, "sample_submission": sample}
    lines: list[str] = []
    for (key, indent), same in groupby(before.splitlines(), key=_raw_file):
        lines += same if key is None else [f"{indent}{line}" for line in _dependencies(key, sources[key])]
    if not any(_raw_file(line)[0] for line in lines):
        raise ConfigError(f"{file}: no line such as `- ${{data.train}}`")
    after = "\n".join(lines) + "\n"
    if after == before:
        return False
    with atomic_file(file) as staging:
        staging.write_text(after, encoding="utf-8")
    return True


def _raw_file(line: str) -> tuple[str | None, str]:
    """The setting whose file a line names, and its indentation."""
    found = _LINE.fullmatch(line)
    return (found["key"], found["indent"]) if found else (None, "")


def _dependencies(key: str, source: Source | None) -> list[str]:
    if source is None:
        return [f"# - ${{data.{key}}}: null, or not read without data.test"]
    if isinstance(source, str | Path):
        return [f"- ${{data.{key}}}"]
    return [f"- ${{data.{key}[{number}]}}" for number in range(len(source))]
