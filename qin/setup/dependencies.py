"""The lines of dvc.yaml that name raw files and an earlier model, as params.yaml has them.

DVC fills in text there, but no list and no null.
"""

import re
from itertools import groupby
from pathlib import Path

from qin.config import DataParams
from qin.runtime.errors import ConfigError
from qin.runtime.files import atomic_file
from qin.runtime.sources import Source

_KEYS = r"data\.train|data\.test|data\.sample_submission|train\.init_from"
# With a `# ` in front where the setting was null: so the place of the line is found again.
_LINE = re.compile(rf"(?P<indent> *)(?:# )?- \$\{{(?P<key>{_KEYS})(?:\[\d+\])?\}}.*")


def write_dependencies(file: Path, data: DataParams, *, init_from: str | None = None) -> bool:
    """Let the stages of a dvc.yaml depend on the raw files and the model that settings name; nothing else changes.

    Args:
        file: Dvc.yaml.
        data: The settings.
        init_from: Folder of the model that training starts from.

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
    sources: dict[str, Source | None] = {
        "data.train": data.train,
        "data.test": data.test,
        "data.sample_submission": sample,
        "train.init_from": init_from,
    }
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
        why = "null" if key == "train.init_from" else "null, or not read without data.test"
        return [f"# - ${{{key}}}: {why}"]
    if isinstance(source, str | Path):
        return [f"- ${{{key}}}"]
    return [f"- ${{{key}[{number}]}}" for number in range(len(source))]
