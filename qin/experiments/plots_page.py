"""The page that `dvc plots show` and `dvc plots diff` fill, with its drawing library inside: no network is needed.

python -m qin.experiments.plots_page

DVC's own page loads Vega from a content delivery network. The library comes from the installed vl-convert-python, so
its version is pinned with the others and git holds no bundle. Both files written here are ignored by git; without them
DVC draws with its own page.
"""

from pathlib import Path

import typer
import vl_convert
from dvc.config import Config

from qin.runtime.files import atomic_file

DVC_FOLDER = Path(".dvc")
PAGE = Path("plots/page.html")  # relative to DVC's folder, as its setting is
VEGA_LITE = "5.21"  # the newest of the major version that the templates' $schema names

_HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots</title>
<style>
body { font-family: sans-serif; margin: 1rem; }
body > div { display: inline-block; vertical-align: top; margin: 0 1.5rem 1.5rem 0; }
.no-rows { color: #767676; }
</style>
<script>
%s
</script>
<script>
const drawPlot = window.vegaEmbed;
window.vegaEmbed = (target, spec) => {
    if (spec.$schema) return drawPlot(target, spec, { actions: { export: true, source: true } });
    const note = document.createElement("p");  // DVC makes an empty document of a file without rows
    note.className = "no-rows";
    note.textContent = target.slice(1) + ": no rows";
    document.querySelector(target).append(note);
};
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""

app = typer.Typer(add_completion=False)


def page() -> str:
    """Return the template, which stands for itself in any folder."""
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return _HTML % library.replace("</script", r"<\/script")


@app.command()
def main() -> None:
    """Write .dvc/plots/page.html and name it in .dvc/config.local."""
    with atomic_file(DVC_FOLDER / PAGE) as staging:
        staging.write_text(page(), encoding="utf-8")
    with Config(str(DVC_FOLDER.resolve())).edit("local") as settings:
        settings.setdefault("plots", {})["html_template"] = PAGE.as_posix()


if __name__ == "__main__":
    app()
