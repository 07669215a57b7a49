"""Charts of one run, made from the templates of `dvc plots`."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from qin.config.strict_yaml import read_yaml
from qin.report.charts import PLOT_OF, Plot, filled, read_chart
from qin.report.library import VEGA_LITE
from qin.runtime.files import write_csv
from tests.evaluate.test_curves import TEMPLATES, plot_rows
from tests.project import ROOT


def dvc_plots() -> dict[str, dict[str, Any]]:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    plots = [plot for stage in stages for plot in stage.get("plots", [])]
    return {Path(file).stem: settings for plot in plots for file, settings in plot.items()}


def test_the_report_draws_what_dvc_draws_from_the_same_templates_with_the_same_axes() -> None:
    plots = dvc_plots()
    assert set(plots) == set(PLOT_OF)
    for name, settings in plots.items():
        plot = PLOT_OF[name]
        assert (plot.title, plot.x, plot.y) == (settings["title"], settings["x"], settings["y"]), name
        assert (plot.template or name) == settings["template"], name
        assert (plot.x_label, plot.y_label) == (settings.get("x_label"), settings.get("y_label")), name


def spec_of(name: str, plot: Plot) -> dict[str, Any]:
    template = plot.template or name
    rows = [{key: str(value) for key, value in row.items()} for row in plot_rows()[template]]
    return filled(json.loads((TEMPLATES / f"{template}.json").read_text()), rows, plot)


@pytest.mark.parametrize("name", PLOT_OF)
def test_a_chart_of_one_run_compiles_and_says_nothing_of_revisions(name: str) -> None:
    spec = spec_of(name, PLOT_OF[name])
    text = json.dumps(spec)
    assert "<DVC_METRIC" not in text
    assert '"rev"' not in text.replace('"sort": [{"field": "rev", "order": "ascending"}]', "").replace(
        '"groupby": ["rev"]', ""
    )
    svg = vl_convert.vegalite_to_svg(copy.deepcopy(spec), vl_version=VEGA_LITE)
    assert "NaN" not in svg
    assert "#0072B2" in svg


def test_templates_are_the_projects_or_else_those_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("plots/roc.csv"), [{"fpr": 0.0, "tpr": 0.5}])
    of_the_code = read_chart("roc").spec
    assert of_the_code is not None
    Path(".dvc/plots").mkdir(parents=True)
    Path(".dvc/plots/roc.json").write_text('{"title": 1, "mark": "bar"}')
    assert read_chart("roc").spec == {"mark": "bar", "description": PLOT_OF["roc"].text}
    Path(".dvc/plots/roc.json").unlink()
    monkeypatch.setattr("qin.report.charts._CHECKOUT", tmp_path / "installed")
    assert read_chart("roc").spec is None
    assert [record.getMessage() for record in caplog.records] == [
        "warning: no .dvc/plots/roc.json: the report has no such chart"
    ]


def test_a_file_without_rows_is_no_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("plots/slices.csv"), [], columns=("column", "value"))
    assert read_chart("slices").spec is None
    assert read_chart("trees").spec is None  # nor one that is not there


def test_points_of_a_slice_stand_at_the_height_of_their_label() -> None:
    """They stood 0.4 of a row above it."""
    graph = vl_convert.vegalite_to_scenegraph(spec_of("slices", PLOT_OF["slices"]), vl_version=VEGA_LITE)
    points = [item["y"] for item in items(graph, "symbol", role="mark")]
    labels = [item["y"] for item in items(graph, "text", role="axis-label") if item["x"] < 0]
    assert len(points) == 2
    assert points == pytest.approx(labels, abs=1.0)


def items(node: Any, marktype: str, *, role: str) -> Iterator[dict[str, Any]]:
    """What a scene graph's marks of a type and role hold."""
    if isinstance(node, list):
        for inner in node:
            yield from items(inner, marktype, role=role)
    if isinstance(node, dict):
        if (node.get("marktype"), node.get("role")) == (marktype, role):
            yield from node["items"]
        yield from items(list(node.values()), marktype, role=role)
