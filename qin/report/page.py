"""`outputs/report.html`: one file that needs no network, in light and dark, on a phone and on paper."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from qin.report import tables
from qin.report.charts import PLOT_OF, Chart, read_chart
from qin.report.library import drawing_library
from qin.report.tables import Table
from qin.report.verdict import against_chance, smallness, verdict
from qin.runtime.chain import Origin
from qin.runtime.errors import ArtifactError
from qin.runtime.files import atomic_file, read_json
from qin.runtime.paths import METRICS

_STAGES = ("prepare", "split", "train", "trees", "calibrate", "evaluate")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        tables: Its tables, first.
        charts: Its charts, below.
    """

    title: str
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()


def write_report(path: Path, *, origin: Origin) -> None:
    """Write the page from what the stages left in `metrics/` and `plots/`; equal files give equal bytes.

    Args:
        path: The page.
        origin: What evaluate's outputs were made from.
    """
    details = stage_details()
    evaluation = details["evaluate"]
    html = _template().render(
        verdict=verdict(evaluation),
        chance=against_chance(evaluation),
        smallness=smallness(evaluation),
        warnings=tables.warnings_of(details.values()),
        sections=_sections(details, origin),
        library=drawing_library(),
    )
    with atomic_file(path) as staging:
        staging.write_text(html, encoding="utf-8")


def stage_details() -> dict[str, dict[str, Any]]:
    """What each stage left in `metrics/`, by stage.

    Raises:
        ArtifactError: If a file is not what its stage writes: git holds these files, and people edit them.
    """
    details = {name: _details(name) for name in _STAGES}
    # Once for nothing, stage by stage: an error inside the page could not say whose file it is.
    for name, read in _READERS.items():
        try:
            read(details)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{METRICS / name}.json: not what the stage {name} writes ({error!r}); run it again"
            ) from error
    return details


# How the tables read each stage's file; what they can read once, they can read again.
_READERS: Mapping[str, Callable[[Mapping[str, Mapping[str, Any]]], object]] = {
    "prepare": lambda details: tables.data_table(details["prepare"]),
    "split": lambda details: [tables.audit_table(one) for one in tables.of_each_fold(details["split"])],
    "train": lambda details: tables.training_tables(details["train"], {}),
    "trees": lambda details: tables.training_tables(details["train"], details["trees"]),
    "calibrate": lambda details: (
        tables.mean_weights(details["calibrate"]),
        [tables.calibration_table(one) for one in tables.of_each_fold(details["calibrate"])],
    ),
}


def _details(stage: str) -> dict[str, Any]:
    """What a stage left; nothing where it has not run here: trees that are no member, artifacts from elsewhere."""
    file = METRICS / f"{stage}.json"
    return read_json(file) if file.exists() else {}


def _sections(details: Mapping[str, Mapping[str, Any]], origin: Origin) -> list[Section]:
    evaluation, calibration = details["evaluate"], details["calibrate"]
    charts = {name: [read_chart(name)] for name in PLOT_OF}
    prepared, folds = details["prepare"], tables.of_each_fold
    split, train, trees = details["split"], details["train"], details["trees"]
    return [
        Section("Figures", tables.all_figures(evaluation)),
        Section("Members of the blend", [tables.members_table(evaluation, tables.mean_weights(calibration))]),
        Section("Ranking", charts=charts["pr"] + charts["roc"] + charts["gains"]),
        Section(
            "Probabilities",
            tables.numbered([tables.calibration_table(one) for one in folds(calibration)]) or [_missing("calibrate")],
            charts["reliability"] + charts["score_histogram"] + charts["slices"],
        ),
        Section("What the model uses", charts=charts["importance"]),
        Section(
            "Training",
            tables.training_tables(train, trees) or [_missing("train")],
            charts["train"] + charts["trees"],
        ),
        Section("Data", [tables.data_table(prepared) if prepared else _missing("prepare")]),
        Section(
            "Folds and leakage audit", tables.numbered(map(tables.audit_table, folds(split))) or [_missing("split")]
        ),
        Section("Settings that differ from the default", [tables.settings_table(origin)]),
        Section("Made from", [tables.provenance_table(origin)]),
    ]


def _missing(stage: str) -> Table:
    return Table((), (), f"The stage {stage} has not run here: there is no metrics/{stage}.json.")


def _template() -> Any:
    # Names of columns may hold anything, so all text is escaped; a place whose name is misspelt is an error, not a gap.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["script"] = in_script
    return environment.from_string(files("qin.report").joinpath("report.html").read_text(encoding="utf-8"))


def in_script(value: Any) -> str:
    """A value as JSON that may stand inside a `<script>` element."""
    # `</script>` inside a text would end the element, `<!--` may keep it open; escaped like this, JSON reads the same.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.replace("</", "<\\/").replace("<!--", "\\u003c!--")
