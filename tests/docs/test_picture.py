"""The picture of a run, light and dark."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.picture import IMAGES, NUM_FIELDS, THEMES, main, picture

GAINS = "share,gain,lower,upper,lift,perfect\n0.5,0.8,0.7,0.9,1.6,1\n1,1,1,1,1,1\n"
RELIABILITY = """series,bin,probability,observed,lower,upper,num_rows
before,1,0.5,0.5,0.4,0.6,9
after,1,0.01,0,0,0.02,9
after,2,0.02,0.03,0.01,0.05,9
"""
IMPORTANCE = "name,kind,rank,log_loss_rise,log_loss_rise_se\n" + "".join(
    f"{name},{kind},{rank},{1 / rank},0.1\n"
    for rank in range(12, 0, -1)
    for name, kind in ((f"f{rank}", "field"), (f"f{rank} x g", "pair"))
)


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    folder = tmp_path / "plots"
    folder.mkdir()
    for name, text in {"gains": GAINS, "reliability": RELIABILITY, "importance": IMPORTANCE}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_it_shows_the_runs_own_figures(plots: Path) -> None:
    gains, reliability, importance = picture(plots, THEMES["light"])["hconcat"]
    assert [row["gain"] for row in gains["data"]["values"]] == [0.8, 1.0]
    bins = reliability["data"]["values"]
    assert [row["series"] for row in bins] == ["after", "after"]
    assert all(row["lower"] > 0 for row in bins), "a logarithmic axis has no zero"
    assert [row["name"] for row in importance["data"]["values"]] == [f"f{rank}" for rank in range(1, NUM_FIELDS + 1)]
    assert importance["data"]["values"][0] == pytest.approx({"name": "f1", "rise": 1.0, "lower": 0.804, "upper": 1.196})


def test_both_pictures_are_whole_and_name_the_fields(plots: Path, tmp_path: Path) -> None:
    main(plots, tmp_path / "images")
    for theme, colours in THEMES.items():
        text = (tmp_path / f"images/run-{theme}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert colours["main"].lower() in text.lower()
        assert ">f1<" in text


@pytest.mark.parametrize("theme", THEMES)
def test_the_repositorys_pictures_are_small_and_load_nothing(theme: str) -> None:
    text = (IMAGES / f"run-{theme}.svg").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "href" not in text.replace("xmlns:xlink", "")
