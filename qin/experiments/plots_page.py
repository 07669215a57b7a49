"""The page that `dvc plots show` and `dvc plots diff` fill, with its drawing library inside: no network is needed.

python -m qin.experiments.plots_page

DVC's own page loads Vega from a content delivery network. The library comes from the installed vl-convert-python, so
its version is pinned with the others and git holds no bundle. Both files written here are ignored by git; without them
DVC draws with its own page.
"""

import json
from pathlib import Path

import typer
from dvc.config import Config

from qin.report.charts import PLOT_OF
from qin.report.library import drawing_library
from qin.runtime.files import atomic_file

DVC_FOLDER = Path(".dvc")
PAGE = Path("plots/page.html")  # relative to DVC's folder, as its setting is

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
const NOTES = %s;
const drawPlot = window.vegaEmbed, waiting = [];
window.vegaEmbed = (target, spec) => waiting.push([target, spec]);

/** A line's name: its revision, with its label where there are several; the templates call it so, too. */
const nameOf = (point) => point.of_label ? point.rev + ", " + point.of_label : point.rev;

/** Every place of a document where revisions have colours. */
function revisionScales(node, found = []) {
    if (node === null || typeof node !== "object") return found;
    if (node.color && node.color.field === "rev" && node.color.scale) found.push(node.color.scale);
    for (const [key, inner] of Object.entries(node)) if (key !== "values") revisionScales(inner, found);
    return found;
}

function note(target) {
    const name = (/plots_([a-z_]+?)_csv/.exec(target) || [null, ""])[1];
    const line = document.createElement("p");  // DVC makes an empty document of a file without rows
    line.className = "no-rows";
    line.textContent = NOTES[name] || `${target.slice(1)}: no rows`;
    document.querySelector(target).append(line);
}

// Drawn together, so that a revision has one colour in all plots, also where another one has no rows.
addEventListener("DOMContentLoaded", () => {
    const revisions = [];
    for (const [, spec] of waiting)
        for (const point of (spec.data && spec.data.values) || [])
            if (point.rev && !revisions.includes(nameOf(point))) revisions.push(nameOf(point));
    for (const [target, spec] of waiting) {
        if (!spec.$schema) { note(target); continue; }
        const shown = revisions.filter((name) => spec.data.values.some((point) => nameOf(point) === name));
        for (const scale of revisionScales(spec)) {
            scale.range = shown.map((name) => scale.range[revisions.indexOf(name) %% scale.range.length]);
            scale.domain = shown;
        }
        drawPlot(target, spec, { actions: { export: true, source: true } });
    }
});
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""

app = typer.Typer(add_completion=False)


def page() -> str:
    """The template, which stands for itself in any folder."""
    notes = {name: f"{plot.title}: {plot.empty}" for name, plot in PLOT_OF.items()}
    return _HTML % (drawing_library(), json.dumps(notes))


@app.command()
def main() -> None:
    """Write .dvc/plots/page.html and name it in .dvc/config.local."""
    with atomic_file(DVC_FOLDER / PAGE) as staging:
        staging.write_text(page(), encoding="utf-8")
    # In the local file: the page exists on this machine alone, and git keeps the shared one.
    with Config(str(DVC_FOLDER.resolve())).edit("local") as settings:
        settings.setdefault("plots", {})["html_template"] = PAGE.as_posix()


if __name__ == "__main__":
    app()
