"""A hook of mkdocs: one page per package of `qin` from its docstrings, so that a new module appears by itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qin"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages to those found in docs/."""
    pages = dict(api_pages())
    index = "# API\n\nFrom the docstrings; names that begin with an underscore are left out.\n\n"
    index += "| package | what it is |\n|---|---|\n"
    index += "".join(f"| [`{name}`]({name}.md) | {_summary(path)} |\n" for name, path in packages())
    for name, text in {"index": index, **pages}.items():
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def packages() -> Iterator[tuple[str, Path]]:
    """Dotted name and folder of `qin` and of each package below it."""
    for path in sorted(PACKAGE.rglob("__init__.py")):
        yield ".".join(path.parent.relative_to(ROOT).parts), path.parent


def api_pages() -> Iterator[tuple[str, str]]:
    """Dotted name and Markdown of each package's page."""
    for name, folder in packages():
        modules = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
        directives = "\n".join(f"::: {name}.{module}\n" for module in modules)
        yield name, f"# {name}\n\n{_summary(folder)}\n\n{directives}"


def _summary(folder: Path) -> str:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())
