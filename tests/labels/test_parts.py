"""Outputs of several labels: brought together and taken out again, without a byte of difference."""

from pathlib import Path
from typing import Any

import pytest

from qin.config.strict_yaml import read_yaml
from qin.labels.pages import joined_cards, joined_pages
from qin.labels.parts import OUTPUTS, hand_over, take_out
from qin.runtime import paths
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json, read_json, write_csv, write_exact_json, write_json
from qin.runtime.labelled import labels_of, of_labels
from tests.project import ROOT

LABELS = ("clicked", "liked")


def test_the_outputs_are_those_of_the_stages() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for stage, places in OUTPUTS.items():
        kinds = (stages[stage].get(kind, []) for kind in ("outs", "metrics", "plots"))
        declared = [next(iter(out)) if isinstance(out, dict) else out for kind in kinds for out in kind]
        assert sorted(map(str, places)) == sorted(declared), stage
    assert set(stages) - OUTPUTS.keys() == {"prepare", "split"}


def write_room(room: Path, *, loss: float) -> None:
    for place in (paths.SCORED, paths.MODEL):
        (room / place).mkdir(parents=True)
        (room / place / "facts.json").write_text(f"{loss}")
    for place in (paths.BLEND, paths.CALIBRATOR):
        write_exact_json(room / place, {"weights": {"network": loss / 3}, "bound": float("1e-300")})
    write_json(room / paths.METRICS / "calibrate.json", {"loss": loss / 3, "warnings": ["größer"]})


def test_each_label_gets_back_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rooms = {label: Path("rooms") / label for label in LABELS}
    for number, room in enumerate(rooms.values(), start=1):
        write_room(room, loss=0.1 * number)
    before = {
        (label, place): (room / place).read_bytes()
        for label, room in rooms.items()
        for place in OUTPUTS["calibrate"]
        if place.suffix
    }
    hand_over("calibrate", rooms)
    assert labels_of(paths.BLEND) == LABELS
    assert [(paths.SCORED / label / "facts.json").read_text() for label in LABELS] == ["0.1", "0.2"]
    figures = read_json(paths.METRICS / "calibrate.json")
    assert {label: figures[label]["loss"] for label in figures} == {"clicked": 0.0333333, "liked": 0.0666667}
    for (label, place), content in before.items():
        take_out(place, label, to=Path("again") / label / place)
        assert (Path("again") / label / place).read_bytes() == content
        if place in (paths.BLEND, paths.CALIBRATOR):
            read_exact_json(Path("again") / label / place)
    take_out(paths.SCORED, "liked", to=Path("again/liked") / paths.SCORED)
    assert (Path("again/liked") / paths.SCORED / "facts.json").read_text() == "0.2"
    with pytest.raises(ArtifactError, match=r"blend.json: has nothing of the label shared; run `dvc repro`"):
        take_out(paths.BLEND, "shared", to=Path("again/shared/blend.json"))


def test_tables_of_plots_have_the_label_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rooms = {label: Path("rooms") / label for label in LABELS}
    texts = {}
    for label, room in rooms.items():
        for place in OUTPUTS["trees"]:
            if not place.suffix:
                (room / place).mkdir(parents=True)
        write_json(room / paths.METRICS / "trees.json", {})
        rows: list[dict[str, Any]] = [{"trees": 1, "name": 'a "b", c\nd'}, {"trees": 2, "name": label}]
        write_csv(room / paths.PLOTS / "trees.csv", rows if label == "liked" else [], columns=("trees", "name"))
        texts[label] = (room / paths.PLOTS / "trees.csv").read_text()
    hand_over("trees", rooms)
    joined = (paths.PLOTS / "trees.csv").read_text()
    assert joined.splitlines()[0] == "of_label,trees,name"
    assert joined.count("\nliked,") == 2
    for label, text in texts.items():
        take_out(paths.PLOTS / "trees.csv", label, to=Path("again") / f"{label}.csv")
        assert (Path("again") / f"{label}.csv").read_text() == text
    write_csv(paths.PLOTS / "trees.csv", rows)  # of a run with one label
    with pytest.raises(ArtifactError, match="has nothing of the label liked"):
        take_out(paths.PLOTS / "trees.csv", "liked", to=Path("again/other.csv"))


def test_figures_of_one_label_are_as_they_are() -> None:
    assert of_labels({"clicked": {"ap": 0.1}}) == {"ap": 0.1}
    assert of_labels({"clicked": {"ap": 0.1}, "liked": {}}) == {"clicked": {"ap": 0.1}, "liked": {}}


def page(text: str) -> str:
    return (
        "<head>\n</head>\n<body>\n<h1>Report of the run</h1>\n"
        f'<nav>\n<a href="#s1">Figures</a>\n</nav>\n<section id="s1">\n<p>{text}</p>\n'
        '<div class="plot" data-plot="roc"></div>\n'
        '<script type="application/json" id="spec-roc">{"x": "a id=\\"s1\\" b"}</script>\n'
        "</section>\n<script>\nthe library\n</script>\n</body>\n"
    )


def test_a_joined_report_tells_its_labels_apart() -> None:
    joined = joined_pages({"clicked": page("first"), "li<ked": page("second")})
    assert joined.count("the library") == joined.count("<body>") == joined.count("</head>") == 1
    assert joined.index("first") < joined.index("second")
    for number in (1, 2):
        for part in (f'href="#l{number}-s1"', f'id="l{number}-s1"', f'data-plot="l{number}-roc"'):
            assert joined.count(part) == 1
        assert joined.count(f'id="spec-l{number}-roc"') == joined.count(f'href="#label{number}"') == 1
    assert joined.count('{"x": "a id=\\"s1\\" b"}') == 2  # what is inside a document stays
    assert "Report of the run: li&lt;ked</h1>" in joined
    assert joined.count("<section") == joined.count("</section>") == 2
    with pytest.raises(ValueError, match="must have the parts of"):
        joined_pages({"clicked": "<html></html>"})


def test_joined_cards_have_a_heading_each() -> None:
    assert joined_cards({"a": "# Model card\n\nx\n", "b": "# Model card\n\ny\n"}) == (
        "# Model card: a\n\nx\n\n# Model card: b\n\ny\n"
    )
