"""The code that each stage of dvc.yaml depends on, from what it imports.

`python -m tools.stage_deps` prints it, `python -m tools.stage_deps --write` puts it into dvc.yaml after an import was
added or a file moved. A folder stands for its files where the stage imports half of them or more, so that a new file
needs no new line; files stand for themselves where a folder would make a stage run again for what it does not run.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from qin.config.strict_yaml import read_yaml
from qin.runtime.provenance import import_closure

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = ROOT / "dvc.yaml"
PACKAGES = frozenset({"qin", "stages"})
LISTED_SHARE = 0.5

# A change of a metric must not train again, so it is listed by file unless a stage imports every one.
BY_FILE = frozenset({"qin/metrics"})

# Whole though a stage imports few of it: what changes there runs an earlier stage again anyway.
WHOLE = frozenset({("calibrate", "qin/columns")})

# Docstrings alone, as a test checks; every stage imports them.
_UNLISTED = frozenset({"qin/__init__.py", "stages/__init__.py"})
_CODE = re.compile(r"\s*- (qin|stages)(/|$)")


def main(*, write: Annotated[bool, typer.Option("--write", help="Put it into dvc.yaml.")] = False) -> None:
    """Print or write what each stage depends on."""
    text = PIPELINE.read_text(encoding="utf-8")
    for stage in read_yaml(PIPELINE)["stages"]:
        if write:
            text = with_deps(text, stage, code_deps(stage))
        else:
            print(f"{stage}: {' '.join(code_deps(stage))}")
    if write:
        PIPELINE.write_text(text, encoding="utf-8")


def stage_closure(name: str) -> list[str]:
    """Paths of the modules that `python -m stages <name>` imports."""
    entries = ("stages/__main__.py", f"stages/{name}.py")
    return sorted({path for entry in entries for path in import_closure(entry, packages=PACKAGES)})


def code_deps(stage: str) -> list[str]:
    """The folders and files that cover what a stage imports, in order."""
    imported = set(stage_closure(stage)) - _UNLISTED
    folders = [folder for folder, files in _folders().items() if _is_listed(stage, folder, files, imported)]
    return sorted({_entry(path, folders) for path in imported})


def _folders() -> dict[str, set[str]]:
    """The files of each folder of the library."""
    found = defaultdict(set)
    for path in (ROOT / "qin").glob("*/**/*.py"):
        relative = path.relative_to(ROOT)
        if path.name != "__init__.py":
            found["/".join(relative.parts[:2])].add(relative.as_posix())
    return found


def _is_listed(stage: str, folder: str, files: set[str], imported: set[str]) -> bool:
    if (stage, folder) in WHOLE:
        return True
    share = len(files & imported) / len(files)
    return share == 1.0 or (share >= LISTED_SHARE and folder not in BY_FILE)


def _entry(path: str, folders: list[str]) -> str:
    return next((folder for folder in folders if path.startswith(f"{folder}/")), path)


def with_deps(text: str, stage: str, code: list[str]) -> str:
    """The text of dvc.yaml with a stage's code replaced; its data and all other lines stay."""
    begin = text.index("    deps:\n", text.index(f"\n  {stage}:\n")) + len("    deps:\n")
    lines = text[begin:].split("\n")
    size = next(number for number, line in enumerate(lines) if not line.startswith("      "))
    data = [line for line in lines[:size] if not _CODE.match(line)]
    return text[:begin] + "\n".join([*data, *(f"      - {path}" for path in code), *lines[size:]])


if __name__ == "__main__":
    typer.run(main)
