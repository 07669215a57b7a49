"""The charts of a report: the templates that `dvc plots` fills, filled with one run's points."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_json
from qin.runtime.paths import PLOT_TEMPLATES, PLOTS
from qin.runtime.progress import log

_COLOUR = "#0072B2"  # the first revision's in the templates: Okabe and Ito's blue, told apart by any eye
_REVISION = "rev"

_CHECKOUT = Path(__file__).resolve().parents[2]  # templates are files of the repository, not of the package


@dataclass(frozen=True, kw_only=True)
class Plot:
    """How one file of `plots/` is drawn; dvc.yaml has the same template, axes and labels.

    Attributes:
        title: Its heading.
        text: What it shows of one run.
        x: Column along the page.
        y: Column up the page.
        x_label: Its title, if not its name.
        y_label: The same.
        template: Of `.dvc/plots`, if not of the plot's name.
        empty: What to say where there are no rows.
    """

    title: str
    text: str
    x: str
    y: str
    x_label: str | None = None
    y_label: str | None = None
    template: str | None = None
    empty: str = "no rows"


PLOT_OF = {
    "train": Plot(
        title="Training",
        text="Loss on the rows trained on (dashed) and on the selection half of the validation fold, with the latter's "
        "AP and AUC, at each check. The best check's weights are kept.",
        x="step",
        y="val_log_loss",
        y_label="loss",
        template="training",
    ),
    "trees": Plot(
        title="Trees",
        text="Log loss of the selection half by number of trees; growing stops where it no longer falls.",
        x="trees",
        y="val_log_loss",
        y_label="log loss of the selection half",
        empty="The stage trees has not run.",
    ),
    "pr": Plot(
        title="Precision and recall",
        text="Precision at each recall with its pointwise 95% band; dashed: the base rate, which a random ranking "
        "reaches. The drawn band ends a decade below it.",
        x="recall",
        y="precision",
    ),
    "roc": Plot(
        title="ROC",
        text="True against false positive rate with its pointwise 95% band; dashed: a random ranking.",
        x="fpr",
        y="tpr",
        x_label="false positive rate",
        y_label="true positive rate",
    ),
    "gains": Plot(
        title="Cumulative gains and lift",
        text="Share of all clicks among the best-scored rows, and their click rate over the base rate, with pointwise "
        "95% bands; grey: a random and a perfect ranking.",
        x="share",
        y="gain",
        x_label="share of rows, best scores first",
        y_label="share of clicks",
    ),
    "reliability": Plot(
        title="Reliability",
        text="Observed against predicted click rate in bins of as many rows each, with 95% intervals. On the dashed "
        "line a probability means what it says.",
        x="probability",
        y="observed",
        x_label="mean predicted probability",
        y_label="observed click rate",
    ),
    "score_histogram": Plot(
        title="Score distribution by class",
        text="Predicted probabilities of clicked and of other rows, per decade; both curves have area 1.",
        x="probability",
        y="density",
        x_label="predicted probability",
        y_label="density per decade",
    ),
    "slices": Plot(
        title="Calibration by slice",
        text="Observed over predicted click rate of each value of a column, with 95% intervals; dashed: calibrated. "
        "The axis ends at 3; a triangle stands for a value beyond.",
        x="predicted",
        y="observed",
        empty="evaluate.slices names no column, so there is nothing to draw.",
    ),
    "importance": Plot(
        title="Importance of fields",
        text="How much worse the log loss gets when a row takes the field from another row, with 95% intervals; and of "
        "pairs of fields, what both together cost beyond the sum of each alone.",
        x="log_loss_rise",
        y="name",
        empty="evaluate.importance_rows is 0, or the report half has too few clicks.",
    ),
}


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Of its file in `plots/`.
        plot: How it is drawn.
        spec: The Vega-Lite document; None where there are no rows.
    """

    name: str
    plot: Plot
    spec: dict[str, Any] | None


def read_chart(name: str) -> Chart:
    """The chart of `plots/<name>.csv`; without rows where there is no such file.

    Raises:
        ArtifactError: If it is not the table that its stage writes, or its template is no JSON object.
    """
    plot, path = PLOT_OF[name], PLOTS / f"{name}.csv"
    points = _points(path) if path.exists() else []
    template = _template(plot.template or name) if points else None
    return Chart(name, plot, filled(template, points, plot) if template else None)


def _points(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            points = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: no CSV file in UTF-8 ({error}); run the stage that writes it again") from error
    for line, row in enumerate(points, start=2):
        if None in row or None in row.values():  # more cells than the header has, or fewer
            raise ArtifactError(f"{path}: line {line}: not as many cells as the header has; run its stage again")
    return points


def _template(name: str) -> dict[str, Any] | None:
    """A template of the project, or else of the checkout whose code runs; None, with a warning, where there is none."""
    for folder in (Path(), _CHECKOUT):
        path = folder / PLOT_TEMPLATES / f"{name}.json"
        if path.exists():
            return read_json(path)
    log.warning("warning: no %s: the report has no such chart", PLOT_TEMPLATES / f"{name}.json")
    return None


def filled(template: dict[str, Any], points: Sequence[Mapping[str, str]], plot: Plot) -> dict[str, Any]:
    """A template with its places filled, without what tells revisions apart.

    Args:
        template: One of `.dvc/plots`.
        points: The rows, every cell as text, as DVC reads them.
        plot: Its axes and labels.
    """
    values = {
        "DATA": list(points),
        "X": plot.x,
        "Y": plot.y,
        "X_LABEL": plot.x_label or plot.x,
        "Y_LABEL": plot.y_label or plot.y,
        "PLOT_WIDTH": 300,
        "PLOT_HEIGHT": 260,
    }
    places = {f"<DVC_METRIC_{name}>": value for name, value in values.items()}
    spec = _of_one_run(_replaced(_of_one_label(template), places))
    assert isinstance(spec, dict)
    del spec["title"]  # the page has headings
    return {**spec, "description": plot.text}


def _of_one_label(template: Mapping[str, Any]) -> dict[str, Any]:
    """A template without the step that tells the labels of a revision apart."""
    steps = [step for step in template.get("transform", ()) if step.get("as") != _REVISION]
    rest = {key: value for key, value in template.items() if key != "transform" or steps}
    return {**rest, "transform": steps} if steps else rest


def _replaced(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, values) for value in node if value != "<DVC_METRIC_ZOOM_AND_PAN>"]
    if not isinstance(node, str):
        return node
    if node in values:
        return values[node]
    for place, value in values.items():
        node = node.replace(place, str(value)) if place in node else node
    return node


def _of_one_run(node: Any) -> Any:
    """The same document with one colour and no word of revisions."""
    if isinstance(node, list):
        return [_of_one_run(value) for value in node if not _tells_revisions(value)]
    if not isinstance(node, dict):
        return node
    changed: dict[str, Any] = {}
    for key, value in node.items():
        if key == "values":  # the points
            changed[key] = value
        elif not _tells_revisions(value):
            changed[key] = _of_one_run(value)
        elif key == "color":
            changed[key] = {"value": _COLOUR}
    return changed


def _tells_revisions(value: Any) -> bool:
    return isinstance(value, dict) and value.get("field") == _REVISION
