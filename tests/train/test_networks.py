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
from qin.runtime.errors import ConfigError
from qin.shards.files import ShardReader, read_labels
from qin.shards.folds import VALIDATION
from qin.shards.loader import read_batch
from qin.train.fit import fit_model, refit_model
from qin.train.networks import as_model, fit_models, refit_models, with_seed
from qin.train.watch import Watch
from tests.planted import write_planted
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS, relabelled, settings


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("networks") / "log", num_rows=NUM_ROWS)


def several(number: int | str, **changes: Any) -> Params:
    params = settings(**changes)
    return params.model_copy(update={"model": params.model.model_copy(update={"seeds": number})})


def test_each_is_what_it_would_be_alone(reader: ShardReader, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"is_report": IS_REPORT, "checkpoints": tmp_path}
    histories: list[Any] = []
    fitted, scored = fit_models(several(3), reader, FOLD, watch=Watch(histories.append), **arguments)
    runs = fitted.runs
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
    assert [one["best_step"] for one in fitted.to_json()["other_seeds"]] == [
        run.figures["best_step"] for run in runs[1:]
    ]


def test_one_network_has_nothing_of_others(reader: ShardReader, tmp_path: Path) -> None:
    fitted, scored = fit_models(several(1), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())
    alone = fit_model(settings(), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())[1]
    assert scored.logit.tobytes() == alone.logit.tobytes()
    assert "other_seeds" not in as_model(fitted.runs, several(1), reader.schema).provenance
    assert fitted.to_json() == fitted.runs[0].figures


def test_a_small_log_has_as_many_as_its_rows_say(reader: ShardReader, tmp_path: Path) -> None:
    def runs(number: int | str) -> list[str]:
        params = several(number)
        fitted, _ = fit_models(params, reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())
        assert fitted.params.model.seeds == len(fitted.runs)  # by which the last run knows that none follows
        return [run.provenance["run"] for run in fitted.runs]

    assert runs("auto") == runs(4)


def with_alternatives(*changes: dict[str, Any], **other: Any) -> Params:
    params = several(other.pop("seeds", 1), **other)
    return params.model_copy(update={"model": params.model.model_copy(update={"alternatives": list(changes)})})


# Of the log of `write_planted`: too few numbers per embedding, and fields dropped so often that nothing is learned.
NARROW, BLIND = {"embedding_dim": 1}, {"field_dropout": 0.99}


def test_the_form_with_the_smallest_loss_of_the_selection_half_is_kept(reader: ShardReader, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"is_report": IS_REPORT, "checkpoints": tmp_path}
    histories: list[Any] = []
    params = with_alternatives(BLIND, {"embedding_dim": 8}, seeds=2)
    worst_first = params.model_copy(
        update={"model": params.model.model_copy(update={**BLIND, "alternatives": [{"field_dropout": 0.0}, NARROW]})}
    )
    for settings_, number_of_forms in ((params, 3), (worst_first, 3)):
        fitted, scored = fit_models(settings_, reader, FOLD, watch=Watch(histories.append), **arguments)
        alone = [
            fit_model(_only(settings_, number), reader, FOLD, watch=Watch(), **arguments)[0]
            for number in range(number_of_forms)
        ]
        losses = [run.figures["val_log_loss"] for run in alone]
        assert fitted.form == losses.index(min(losses))
        told = fitted.to_json()["forms"]
        assert [one["val_log_loss"] for one in told] == losses
        assert [one["form"] for one in told] == ["as set", *fitted.names[1:]]
        assert [one["is_kept"] for one in told] == [number == fitted.form for number in range(3)]
        assert fitted.runs[0].provenance["run"] == alone[fitted.form].provenance["run"]
        assert histories[-1] == fitted.runs[0].result.history
        assert len(fitted.runs) == 2
        assert fitted.params.model.network == settings_.model.forms[fitted.form]
        model = as_model(fitted.runs, fitted.params, reader.schema)
        assert model.params == settings_.model.forms[fitted.form]
        again = with_seed(fitted.params, 1)
        second = fit_model(again, reader, FOLD, watch=Watch(), **arguments)[1]
        first = fit_model(fitted.params, reader, FOLD, watch=Watch(), **arguments)[1]
        np.testing.assert_allclose(scored.logit, (first.logit + second.logit) / 2, rtol=0, atol=1e-6)
    assert fitted.names[1:] == ["field_dropout: 0.0", "embedding_dim: 1"]
    assert fitted.form > 0, "the first form of the last settings sees none of its fields"


def _only(params: Params, number: int) -> Params:
    model = {**params.model.forms[number].model_dump(), "alternatives": [], "seeds": 1}
    return params.model_copy(update={"model": params.model.model_copy(update=model)})


def test_the_choice_does_not_read_the_report_half(reader: ShardReader, tmp_path: Path) -> None:
    """With the labels of the report half turned round the same form, steps and weights come out."""
    params = with_alternatives({"attention_bias": "constant"}, {"activation": "inside"})
    label = read_labels(reader)
    turned = relabelled(reader, tmp_path / "turned", np.where(IS_REPORT & (FOLD == VALIDATION), 1 - label, label))
    fitted = [
        fit_models(params, log, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())[0]
        for log in (reader, turned)
    ]
    assert fitted[0].form == fitted[1].form
    assert fitted[0].to_json() == fitted[1].to_json()


def test_what_cannot_be_trained_is_found_before_anything_is(reader: ShardReader, tmp_path: Path) -> None:
    def refused(params: Params, match: str) -> None:
        steps: list[Any] = []
        watch = Watch(on_step=lambda *told: steps.append(told), every_steps=1)
        with pytest.raises(ConfigError, match=match):
            fit_models(params, reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=watch)
        assert not steps

    refused(with_alternatives({"num_layers": 1024, "num_rows": 1024, "embedding_dim": 2**16}), "GiB to train")
    batch_norm = with_alternatives({"norm": "batch"})
    mining = batch_norm.hnm.model_copy(update={"enable": True, "forward": "two_pass"})
    refused(batch_norm.model_copy(update={"hnm": mining}), "two_pass is impossible with batch norm")


def test_a_preset_has_one_form() -> None:
    params = with_alternatives({"norm": "rms"})
    assert [form.norm for form in params.model.forms] == ["none", "rms"]
    published = params.model.model_copy(update={"preset": "published"})
    assert published.forms == [published.network]


def test_the_last_seed_has_a_next_one() -> None:
    params = settings(train={"seed": 2**63 - 1})
    assert [with_seed(params, number).train.seed for number in range(3)] == [2**63 - 1, 0, 1]


def test_the_mean_is_taken_in_float64() -> None:
    logits = [np.array(row, np.float32) for row in ([1e8, 1.0, -3.0], [-1e8, 2.0, -3.0], [1.5, 3.0, -3.0])]
    assert mean_logit(logits).tolist() == [0.5, 2.0, -3.0]
    assert mean_logit(logits[:1]) is logits[0]


def test_members_score_with_every_network(reader: ShardReader, tmp_path: Path) -> None:
    """Of a file and of rows in memory alike, to the byte what training scored."""
    fitted, scored = fit_models(several(2), reader, FOLD, is_report=IS_REPORT, checkpoints=tmp_path, watch=Watch())
    networks = tuple(for_scoring(run.network) for run in fitted.runs)
    members = Members(
        Blend({"network": Member(offset=0.0, slope=1.0, intercept=0.0, weight=1.0)}), networks, None, reader.schema
    )
    assert np.array_equal(members.logit(reader, batch_size=700)[scored.row], scored.logit)
    batch = read_batch(reader, scored.row)
    assert np.array_equal(members.logit_of(batch, batch_size=300), scored.logit)
