"""The picture of README.md and docs/index.md: three plots of a run, as SVG for a light and a dark page.

`python -m tools.picture` draws the plots that `dvc repro` wrote to plots/ into docs/images/.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import vl_convert

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
VEGA_LITE = "5.21"
WIDTH, HEIGHT, NUM_FIELDS = 190, 190, 8

# Okabe and Ito's colours, which people who do not tell red from green tell apart; lighter on a dark page.
THEMES: dict[str, dict[str, str]] = {
    "light": {"text": "#24292f", "line": "#d0d7de", "muted": "#6e7781", "main": "#0072B2", "other": "#D55E00"},
    "dark": {"text": "#e6edf3", "line": "#3d444d", "muted": "#9198a1", "main": "#56B4E9", "other": "#E69F00"},
}

Rows = list[dict[str, Any]]


def main(
    plots: Annotated[Path, typer.Option(help="Folder of a run's plots.")] = ROOT / "plots",
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = IMAGES,
) -> None:
    """Write run-light.svg and run-dark.svg."""
    out.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        svg = vl_convert.vegalite_to_svg(picture(plots, colours), vl_version=VEGA_LITE)
        (out / f"run-{theme}.svg").write_text(svg, encoding="utf-8")


def picture(plots: Path, colours: Mapping[str, str]) -> dict[str, Any]:
    """The three plots beside each other, as a Vega-Lite specification."""
    axis = {"labelColor": colours["text"], "titleColor": colours["text"], "gridColor": colours["line"]}
    lines = {"domainColor": colours["line"], "tickColor": colours["line"], "titleFontWeight": "normal"}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "transparent",
        "spacing": 28,
        "config": {
            "font": "sans-serif",
            "view": {"stroke": None},
            "axis": {**axis, **lines, "gridOpacity": 0.6, "labelFontSize": 12, "titleFontSize": 12},
            "title": {"color": colours["text"], "fontSize": 13, "anchor": "start"},
        },
        "hconcat": [
            _gains(_read(plots / "gains.csv"), colours),
            _reliability(_read(plots / "reliability.csv"), colours),
            _importance(_read(plots / "importance.csv"), colours),
        ],
    }


def _read(path: Path) -> Rows:
    """Rows of a CSV file, numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # a name
        return text


def _gains(rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    x = {
        "field": "share",
        "type": "quantitative",
        "title": "share of all rows, best scores first",
        "axis": {"format": "%"},
    }
    y = {"type": "quantitative", "title": "share of all clicks", "axis": {"format": "%"}}
    chance = {"type": "line", "color": colours["muted"], "strokeDash": [4, 4], "strokeWidth": 1}
    return {
        **_panel("Clicks found, with a 95% band", rows),
        "layer": [
            {"mark": chance, "encoding": {"x": x, "y": {**y, "field": "share"}}},
            {
                "mark": {"type": "area", "color": colours["main"], "opacity": 0.25},
                "encoding": {"x": x, "y": {**y, "field": "lower"}, "y2": {"field": "upper"}},
            },
            {
                "mark": {"type": "line", "color": colours["main"], "strokeWidth": 2},
                "encoding": {"x": x, "y": {**y, "field": "gain"}},
            },
        ],
    }


def _reliability(rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    """After calibration; a bin without clicks has no place on a logarithmic axis, its interval still has."""
    after = [row for row in rows if row["series"] == "after"]
    floor = min(row[key] for row in after for key in ("observed", "probability", "upper") if row[key] > 0) / 1.3
    clipped = [{**row, "lower": max(row["lower"], floor)} for row in after]
    ends = [floor, max(max(row["upper"], row["probability"]) for row in after)]
    scale = {"type": "log", "domain": ends, "nice": False}
    axis = {"format": "~%", "values": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]}
    x = {"field": "probability", "type": "quantitative", "title": "predicted click rate", "scale": scale, "axis": axis}
    y = {"type": "quantitative", "title": "observed click rate", "scale": scale, "axis": axis}
    perfect = {"type": "line", "color": colours["muted"], "strokeDash": [4, 4], "strokeWidth": 1}
    return {
        **_panel("Calibration on held-out rows", clipped),
        "layer": [
            {
                "data": {"values": [{"probability": end, "observed": end} for end in ends]},
                "mark": perfect,
                "encoding": {"x": x, "y": {**y, "field": "observed"}},
            },
            {
                "mark": {"type": "rule", "color": colours["main"], "opacity": 0.7},
                "encoding": {"x": x, "y": {**y, "field": "lower"}, "y2": {"field": "upper"}},
            },
            {
                "transform": [{"filter": "datum.observed > 0"}],
                "mark": {"type": "point", "filled": True, "color": colours["main"], "opacity": 1, "size": 40},
                "encoding": {"x": x, "y": {**y, "field": "observed"}},
            },
        ],
    }


def _importance(rows: Rows, colours: Mapping[str, str]) -> dict[str, Any]:
    fields = sorted((row for row in rows if row["kind"] == "field"), key=lambda row: row["rank"])[:NUM_FIELDS]
    ranges = [
        {
            "name": row["name"],
            "rise": row["log_loss_rise"],
            "lower": row["log_loss_rise"] - 1.96 * row["log_loss_rise_se"],
            "upper": row["log_loss_rise"] + 1.96 * row["log_loss_rise_se"],
        }
        for row in fields
    ]
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 170}}
    x = {"type": "quantitative", "title": "rise of log loss without it", "axis": {"tickCount": 4}}
    return {
        **_panel("Fields that matter most", ranges),
        "layer": [
            {
                "mark": {"type": "bar", "color": colours["main"], "height": {"band": 0.6}},
                "encoding": {"x": {**x, "field": "rise"}, "y": y},
            },
            {
                "mark": {"type": "rule", "color": colours["other"], "strokeWidth": 2},
                "encoding": {"x": {**x, "field": "lower"}, "x2": {"field": "upper"}, "y": y},
            },
        ],
    }


def _panel(title: str, rows: Rows) -> dict[str, Any]:
    return {"title": title, "width": WIDTH, "height": HEIGHT, "data": {"values": rows}}


if __name__ == "__main__":
    typer.run(main)
