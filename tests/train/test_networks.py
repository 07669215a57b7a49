"""Several networks of one model: each is what it would be alone, and their logits are averaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.calibrate.blend import Blend, Member
from qin.config import Params
from qin.members import Members
from qin.model.scoring import for_scoring, mean_logit
from qin.shards.files import ShardReader
from qin.shards.loader import read_batch
from qin.train.fit import fit_model, refit_model
from qin.train.networks import as_model, figures_of, fit_models, refit_models, with_seed
from qin.train.watch import Watch
from tests.planted import write_planted
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS, settings


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("networks") / "log", num_rows=NUM_ROWS)


def several(number: int, **changes: Any) -> Params:
    params = settings(**changes)
    return params.model_copy(update={"model": params.model.model_copy(update={"seeds": number})})


def test_each_is_what_it_would_be_alone(reader: ShardReader, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"is_report": IS_REPORT, "checkpoints": tmp_path}
    histories: list[Any] = []
    runs, scored = fit_models(several(3), reader, FOLD, watch=Watch(histories.append), **arguments)
    logits = []
    for number, run in enumerate(runs):
        alone, own = fit_model(settings(train={"seed": 5 + number}), reader, FOLD, watch=Watch(), **arguments)
        logits.append(own.logit.astype(np.float64))
        assert run.provenance["run"] == alone.provenance["run"]
        assert run.figures == alone.figures
        for name, value in run.network.state_dict().items():
            assert torch.equal(value, alone.network.state_dict()[name])
    np.testing.assert_allclose(scored.logit, np.mean(logits, axis=0), rtol=0, atol=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    assert histories[-1] == runs[0].result.history

    refits = refit_models(several(3), reader, FOLD, heldout=runs, checkpoints=tmp_path)
    last = refit_model(with_seed(several(3), 2), reader, FOLD, heldout=runs[2], checkpoints=tmp_path / "alone")
    assert all(torch.equal(v, last.network.state_dict()[n]) for n, v in refits[2].network.state_dict().items())
    model = as_model(refits, several(3), reader.schema)
    assert [network is run.network for network, run in zip(model.networks, refits, strict=True)] == [True] * 3
    assert model.provenance["run"] == refits[0].provenance["run"]
    assert [one["run"] for one in model.provenance["other_seeds"]] == [run.provenance["run"] for run in refits[1:]]
    assert [one["best_step"] for one in figures_of(runs)["other_seeds"]] == [
        run.figures["best_step"] for run in runs[1:]
    ]


def test_one_network_has_nothing_of_others(reader: ShardReader, tmp_path: Path) -> None:
    runs, scored = fit_models(several(1), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())
    alone = fit_model(settings(), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())[1]
    assert scored.logit.tobytes() == alone.logit.tobytes()
    assert "other_seeds" not in as_model(runs, several(1), reader.schema).provenance
    assert "other_seeds" not in figures_of(runs)


def test_the_last_seed_has_a_next_one() -> None:
    params = settings(train={"seed": 2**63 - 1})
    assert [with_seed(params, number).train.seed for number in range(3)] == [2**63 - 1, 0, 1]


def test_the_mean_is_taken_in_float64() -> None:
    logits = [np.array(row, np.float32) for row in ([1e8, 1.0, -3.0], [-1e8, 2.0, -3.0], [1.5, 3.0, -3.0])]
    assert mean_logit(logits).tolist() == [0.5, 2.0, -3.0]
    assert mean_logit(logits[:1]) is logits[0]


def test_members_score_with_every_network(reader: ShardReader, tmp_path: Path) -> None:
    """Of a file and of rows in memory alike, to the byte what training scored."""
    runs, scored = fit_models(several(2), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())
    networks = tuple(for_scoring(run.network) for run in runs)
    members = Members(
        Blend({"network": Member(offset=0.0, slope=1.0, intercept=0.0, weight=1.0)}), networks, None, reader.schema
    )
    assert np.array_equal(members.logit(reader, batch_size=700)[scored.row], scored.logit)
    batch = read_batch(reader, scored.row)
    assert np.array_equal(members.logit_of(batch, batch_size=300), scored.logit)
