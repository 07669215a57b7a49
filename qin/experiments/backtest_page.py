"""The figures of a walk forward as charts by day, on one page that needs no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qin.experiments.backtest import SHOWN
from qin.metrics.intervals import NORMAL_975
from qin.report.library import drawing_library
from qin.report.page import in_script
from qin.runtime.files import atomic_file

_NAMES = {
    "ap": "AP",
    "auc": "AUC",
    "wll": "WLL, natural prior",
    "log_loss": "log loss",
    "calibration_ratio": "predicted / observed clicks",
}
_COLOURS = {"fresh": "#0072B2", "warm": "#D55E00"}  # Okabe and Ito

_HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Backtest</title>
<style>body { font-family: system-ui, sans-serif; margin: 1rem; }</style>
</head>
<body>
<h1>Backtest</h1>
<p>Trained on the days before, scored on the day itself; bars are 95% intervals.</p>
<div id="plot" role="img" aria-label="Figures by day"></div>
<script>
LIBRARY
</script>
<script type="application/json" id="spec">SPEC</script>
<script>
vegaEmbed("#plot", JSON.parse(document.getElementById("spec").textContent), { renderer: "svg" });
</script>
</body>
</html>
"""


def points(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per day, model and figure: `day`, `model`, `figure`, `value`, `lower`, `upper`."""
    rows = []
    for day in report["days"]:
        for variant in report["variants"]:
            for name in SHOWN:
                value, error = day[variant][name], day[variant][f"{name}_se"]
                reach = 0.0 if error is None else NORMAL_975 * error
                row = {"day": day["day"], "model": variant, "figure": _NAMES[name], "value": value}
                rows.append({**row, "lower": value - reach, "upper": value + reach})
    return rows


def chart(report: Mapping[str, Any]) -> dict[str, Any]:
    """The Vega-Lite document: a panel per figure, days along it, a line per model."""
    colours = {"domain": list(report["variants"]), "range": [_COLOURS[name] for name in report["variants"]]}
    x = {"field": "day", "type": "ordinal", "title": None}
    shift = {"field": "model", "scale": {"domain": list(report["variants"])}}
    encoding = {
        "x": x,
        "xOffset": shift,
        "color": {"field": "model", "type": "nominal", "scale": colours, "title": None},
    }
    y = {"field": "value", "type": "quantitative", "scale": {"zero": False}, "title": None}
    spread = {"y": {**y, "field": "lower"}, "y2": {"field": "upper"}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": points(report)},
        "facet": {"row": {"field": "figure", "type": "nominal", "title": None, "sort": list(_NAMES.values())}},
        "spec": {
            "width": 640,
            "height": 130,
            "encoding": encoding,
            "layer": [
                {"mark": {"type": "rule"}, "encoding": spread},
                {"mark": {"type": "point", "filled": True, "size": 50}, "encoding": {"y": y}},
            ],
        },
        "resolve": {"scale": {"y": "independent"}},
    }


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """Write the page; equal reports give equal bytes."""
    spec = in_script(chart(report))
    with atomic_file(path) as staging:
        staging.write_text(_HTML.replace("SPEC", spec).replace("LIBRARY", drawing_library()), encoding="utf-8")
