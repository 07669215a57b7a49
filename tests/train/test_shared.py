"""Training of labels that share a network: which form is kept, and who is told of it."""

from pathlib import Path
from typing import Any

import pytest

from qin.shards.files import ShardReader
from qin.train.shared import SharedFitting, fit_shared_models
from qin.train.watch import Watch
from tests.planted import write_planted
from tests.train.test_networks import BLIND, with_alternatives
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("shared") / "log", num_rows=NUM_ROWS)


def test_the_checks_of_the_form_that_is_kept_are_told_last(reader: ShardReader, tmp_path: Path) -> None:
    params = with_alternatives({"field_dropout": 0.0})
    params = params.model_copy(update={"model": params.model.model_copy(update=BLIND)})
    histories: list[Any] = []
    fitting = SharedFitting([reader, reader], FOLD, IS_REPORT, tmp_path)
    found = fit_shared_models(params, fitting, watch=Watch(histories.append))
    assert len(found) == 2
    for fitted, _ in found:
        assert fitted.form == 1, "the first form sees none of its fields"
        assert histories[-1] == fitted.runs[0].result.history
        assert histories[-2] != histories[-1]
