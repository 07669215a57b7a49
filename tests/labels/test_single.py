"""One label of several: its settings, and how a command that is of one label chooses it."""

from pathlib import Path

import pytest

from qin.config import load_params
from qin.labels.single import choose_label, of_label
from qin.runtime.errors import ConfigError
from tests.config.test_params import write_params

LABELS = ["clicked", "liked"]


def test_the_others_are_ignored(tmp_path: Path) -> None:
    changes = {"data.label": LABELS, "data.ignore": ["old_*"], "predict.label": "clicked"}
    params = load_params(write_params(tmp_path, changes))
    alone = of_label(params, "liked")
    assert (alone.data.label, alone.data.ignore, alone.predict.label) == ("liked", ["old_*", "clicked"], None)
    assert choose_label(params, "liked", what="a search") == alone
    assert choose_label(params, None, what="a search") == of_label(params, "clicked")


def test_of_one_label_nothing_changes(tmp_path: Path) -> None:
    params = load_params(write_params(tmp_path, {"predict.label": "clicked"}))
    for label in (None, "clicked"):
        assert choose_label(params, label, what="a search") is params


def test_what_is_not_there_or_not_alone_is_refused(tmp_path: Path) -> None:
    params = load_params(write_params(tmp_path, {"data.label": LABELS}))
    with pytest.raises(ConfigError) as caught:
        choose_label(params, "likd", what="a search")
    assert str(caught.value) == (
        "params.yaml: data.label: no label likd, did you mean liked?; there are clicked, liked"
    )
    shared = load_params(write_params(tmp_path, {"data.label": LABELS, "data.label_heads": "shared"}))
    with pytest.raises(ConfigError) as caught:
        choose_label(shared, "liked", what="a backtest")
    assert str(caught.value) == (
        "params.yaml: data.label_heads: shared; a backtest is of one label, whose network here learns clicked, liked "
        "together: set it to separate"
    )
