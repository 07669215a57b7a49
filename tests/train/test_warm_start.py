"""Training from an earlier model: what is taken over, what is not, and what is refused before training."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.columns.schema import Schema
from qin.config import Params
from qin.distributed.ranks import Ranks
from qin.model.artifact import load_model, save_model
from qin.runtime import paths
from qin.runtime.chain import Origin, read_artifact
from qin.runtime.errors import ArtifactError, ConfigError
from qin.shards.files import RowReader, ShardReader
from qin.shards.folds import FoldRule
from qin.train.networks import as_model, fit_models, refit_models
from qin.train.warm_start import Earlier, open_earlier
from qin.train.watch import SILENT, Watch
from tests.planted import SCHEMA, write_planted
from tests.together import together
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS, settings, weights

RULE = FoldRule("stratified", {"label_0": 5, "label_1": 7})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("warm") / "log", num_rows=NUM_ROWS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, reader: ShardReader) -> Path:
    """A model of two networks, with their optimizers, in a folder of artifacts."""
    folder = tmp_path_factory.mktemp("kept") / "monday"
    write(folder / "model", warm(None, keep_optimizer=True, seeds=2), reader, checkpoints=folder / "checkpoints")
    return folder


def warm(init_from: Path | None, *, seeds: int | str = 1, **train: Any) -> Params:
    named = None if init_from is None else str(init_from)
    params = settings(train={"init_from": named, **train})
    return params.model_copy(update={"model": params.model.model_copy(update={"seeds": seeds})})


def write(
    folder: Path, params: Params, reader: RowReader, *, checkpoints: Path, earlier: Earlier | None = None
) -> tuple[Any, Any]:
    knobs: dict[str, Any] = {"checkpoints": checkpoints, "earlier": earlier}
    fitted, _ = fit_models(params, reader, FOLD, is_report=IS_REPORT, watch=Watch(), **knobs)
    runs, params = fitted.runs, fitted.params
    refits = refit_models(params, reader, FOLD, heldout=runs, **knobs)
    folder.mkdir(parents=True)
    recorded: dict[str, Any] = {
        "split.seed": params.split.seed,
        "split.row_key": params.split.row_key,
        "split.method": "stratified",
    }
    recorded |= {"data.label": params.data.label, "features.impression": {"key": None, "columns": None}}
    origin = Origin({**recorded, "split.time_col": None}, {})
    save_model(paths.heldout_place(folder, refit=True), as_model(runs, params, SCHEMA, RULE), origin=origin)
    save_model(folder, as_model(refits, params, SCHEMA, RULE), origin=origin)
    return runs, refits


def opened(params: Params, schema: Schema = SCHEMA, rule: FoldRule = RULE) -> Earlier:
    earlier = open_earlier(params, schema, rule)
    assert earlier is not None
    return earlier


def frozen(init_from: Path, **changes: Any) -> Params:
    """Settings by which a run moves nothing."""
    return warm(init_from, **{"lr": 1e-30, "epochs": 1, "weight_decay": 0.0, **changes})


def test_without_it_nothing_is_read() -> None:
    assert open_earlier(warm(None), SCHEMA, RULE) is None


def test_each_run_starts_from_its_own_earlier_network(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    """The held-out one from the held-out one, the refit from the deployed one, the second seed from the second."""
    params = frozen(kept, seeds=2)
    runs, refits = write(tmp_path / "model", params, reader, checkpoints=tmp_path, earlier=opened(params))
    for trained, folder in ((runs, kept / "model" / "heldout"), (refits, kept / "model")):
        for run, network in zip(trained, load_model(folder).networks, strict=True):
            for name, value in network.state_dict().items():
                torch.testing.assert_close(weights(run)[name], value, rtol=0, atol=1e-12, msg=name)
    assert not torch.equal(runs[0].network.numeric_weight, refits[0].network.numeric_weight)
    start = runs[1].provenance["start"]
    assert start["number"] == 1
    assert start["weights_crc32"] != runs[0].provenance["start"]["weights_crc32"]


def test_it_learns_on_and_gives_the_same_bytes_again(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    params = warm(kept / "model")
    first, second = (
        write(tmp_path / name, params, reader, checkpoints=tmp_path / f"{name}.state", earlier=opened(params))
        for name in ("one", "two")
    )
    files = [tmp_path / name / "weights.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    fresh, _ = write(tmp_path / "fresh", warm(None), reader, checkpoints=tmp_path / "fresh.state")
    assert first[0][0].result.history[0]["train_loss"] < fresh[0].result.history[0]["train_loss"]
    assert first[0][0].provenance["run"] == second[0][0].provenance["run"] != fresh[0].provenance["run"]


def test_it_goes_on_in_the_form_that_it_has(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    """Of several forms of the settings the earlier one's alone is trained, whichever would be best now."""
    params = warm(kept)
    model = params.model.model_copy(
        update={"activation": "inside", "alternatives": [{"activation": "after", "dropout": 0.3}, {"norm": "rms"}]}
    )
    params = params.model_copy(update={"model": model})
    earlier = opened(params)
    assert earlier.form == params.model.forms[1]
    fitted, _ = fit_models(
        params, reader, FOLD, is_report=IS_REPORT, watch=Watch(), checkpoints=tmp_path, earlier=earlier
    )
    assert fitted.params.model.network == earlier.form
    assert not fitted.others
    other = params.model_copy(update={"model": model.model_copy(update={"alternatives": []})})
    with pytest.raises(ConfigError, match=r"not the same model: model\.activation after there, inside here"):
        open_earlier(other, SCHEMA, RULE)


def in_processes(ranks: Ranks, log: Path, params: Params, folder: Path) -> list[float]:
    knobs: dict[str, Any] = {"checkpoints": folder, "ranks": ranks, "earlier": opened(params)}
    fitted, _ = fit_models(params, ShardReader(log), FOLD, is_report=IS_REPORT, watch=SILENT, **knobs)
    return [float(value.double().sum()) for value in weights(fitted.runs[0]).values()]


def test_several_processes_start_from_it(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    """With rates of nothing they end where they have started: at the earlier weights, in every process."""
    params = frozen(kept, init_optimizer=True)
    found = together(2, in_processes, reader.folder, params, tmp_path)
    expected = load_model(kept / "model" / "heldout").networks[0].state_dict()
    assert found[0] == found[1] == [float(value.double().sum()) for value in expected.values()]


def test_a_bucket_that_was_never_seen_is_as_one_of_a_new_network(
    kept: Path, reader: ShardReader, tmp_path: Path
) -> None:
    table = load_model(kept / "model").networks[0].embedding
    seen = np.zeros(len(table.embedding_table), np.bool_)
    offsets = table.offsets.numpy()
    rows = np.flatnonzero(FOLD != 2)
    seen[
        (reader.read("categorical", 0, NUM_ROWS)[rows].astype(np.int64) + offsets[: len(SCHEMA.categorical)]).ravel()
    ] = 1
    for field in SCHEMA.sequences:
        vocabulary = list(SCHEMA.vocabularies).index(field.vocabulary)
        items = reader.read(f"sequence.{field.name}", 0, NUM_ROWS)[rows].astype(np.int64)
        seen[(items[items > 0] + offsets[vocabulary]).ravel()] = 1
    params = frozen(kept)
    runs, _ = write(tmp_path / "model", params, reader, checkpoints=tmp_path, earlier=opened(params))
    drawn = load_model(kept / "model").networks[0]
    drawn.init_parameters(torch.Generator().manual_seed(params.train.seed), embedding_std=params.model.embedding_std)
    new = ~seen
    assert new.sum() > 10
    found, expected = runs[0].network.embedding.embedding_table[new], drawn.embedding.embedding_table[new]
    torch.testing.assert_close(
        found, expected, rtol=1e-2, atol=1e-6
    )  # but for the decay of the steps that it was not in


def test_the_optimizer_goes_on_where_that_is_wanted(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    """A step of nothing keeps the second moments; without it they start from zero."""
    moments = []
    for wanted in (True, False):
        params = frozen(kept, init_optimizer=wanted, keep_optimizer=True, batch_size=1500)
        runs, _ = write(
            tmp_path / f"{wanted}", params, reader, checkpoints=tmp_path / f"{wanted}.state", earlier=opened(params)
        )
        moments.append(runs[0].optimizer)
        assert ("optimizer_crc32" in runs[0].provenance["start"]) is wanted
    before, after = moments
    assert after["numeric_weight/step"] < before["numeric_weight/step"]
    assert (before["numeric_weight/exp_avg_sq"] != after["numeric_weight/exp_avg_sq"]).any()


def test_a_logit_stays_natural_where_weights_of_clicks_differ(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    params = frozen(kept)
    params = params.model_copy(update={"imbalance": params.imbalance.model_copy(update={"pos_weight": 3.0})})
    runs, _ = write(tmp_path / "model", params, reader, checkpoints=tmp_path, earlier=opened(params))
    before = load_model(kept / "model" / "heldout").networks[0].network.fc.bias.item()
    assert runs[0].network.network.fc.bias.item() == pytest.approx(before + np.log(3.0), rel=1e-5)


def test_as_many_go_on_as_there_are_where_their_number_is_not_set(
    kept: Path, reader: ShardReader, tmp_path: Path
) -> None:
    """On so few rows there would be four."""
    params = warm(kept, seeds="auto")
    runs, refits = write(tmp_path / "model", params, reader, checkpoints=tmp_path, earlier=opened(params))
    assert len(runs) == len(refits) == 2


def test_which_values_are_rare_is_counted_anew(kept: Path, reader: ShardReader, tmp_path: Path) -> None:
    params = frozen(kept)
    params = params.model_copy(update={"model": params.model.model_copy(update={"min_count": 3})})
    runs, _ = write(tmp_path / "model", params, reader, checkpoints=tmp_path, earlier=opened(params))
    assert runs[0].network.embedding.is_rare is not None
    assert runs[0].network.embedding.is_rare.any()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"embedding_dim": 8}, "model.embedding_dim 4 there, 8 here"),
        ({"num_layers": 2, "norm": "rms"}, "model.num_layers 1 there, 2 here; model.norm none there, rms here"),
        ({"seeds": 3}, "model.seeds 2 there, 3 here"),
    ],
)
def test_another_network_is_named(kept: Path, model: dict[str, Any], message: str) -> None:
    params = warm(kept)
    params = params.model_copy(update={"model": params.model.model_copy(update=model)})
    with pytest.raises(ConfigError) as error:
        opened(params)
    assert str(error.value) == f"params.yaml: train.init_from: {kept}: not the same model: {message}"


def test_other_columns_are_named(kept: Path) -> None:
    first, *others = SCHEMA.fields
    wider = replace(SCHEMA, fields=(replace(first, num_buckets=first.num_buckets + 1), *others))
    with pytest.raises(ConfigError, match=f"column {first.name}: num_buckets {first.num_buckets} there, "):
        opened(warm(kept), wider)
    with pytest.raises(ConfigError, match=f"not the same model: column {others[0].name} there alone"):
        opened(warm(kept), replace(SCHEMA, fields=tuple(field for field in SCHEMA.fields if field != others[0])))
    names = [field.name for field in SCHEMA.fields if field.name != first.name]
    told = "; ".join(f"column {name} there alone" for name in names[:6])
    with pytest.raises(ConfigError, match=re.escape(f"not the same model: {told}")):  # in order, in every process
        opened(warm(kept), replace(SCHEMA, fields=(first,)))
    with pytest.raises(ConfigError, match=r"hash_seed \d+ there, 99 here"):
        opened(warm(kept), replace(SCHEMA, hash_seed=99))


def test_statistics_that_there_are_not_are_named(kept: Path) -> None:
    earlier = opened(warm(kept))
    assert earlier.statistics == ()
    earlier.check_statistics(())
    read = replace(SCHEMA, fields=(*SCHEMA.fields, replace(SCHEMA.numeric[0], name="stat.a.rate", source="statistic")))
    described = {folder: replace(one, schema=read) for folder, one in earlier.descriptions.items()}
    with pytest.raises(ConfigError, match=r"reads 1 statistics that features.statistics does not make: stat\.a\.rate$"):
        replace(earlier, descriptions=described).check_statistics(())


def test_what_is_no_model_is_refused(
    kept: Path, reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no model\.json there, nor in its folder model$"):
        opened(warm(Path("nowhere")))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kept / "model", paths.MODEL)
    with pytest.raises(ConfigError, match=r"artifacts: an output of this pipeline, which is removed before train runs"):
        opened(warm(Path("artifacts")))
    shutil.copytree(paths.MODEL, "plain")
    (Path("plain") / "weights.safetensors").write_bytes(b"other")
    start = opened(warm(Path("plain"))).start(0, is_heldout=False)
    with pytest.raises(ArtifactError, match="damaged or of another model"):
        start.load_weights(load_model(kept / "model").networks[0], prior=start.description.prior)


def test_an_optimizer_that_was_not_kept_is_refused(reader: ShardReader, tmp_path: Path) -> None:
    write(tmp_path / "plain", warm(None), reader, checkpoints=tmp_path)
    with pytest.raises(ConfigError, match=r"init_optimizer: .*plain has no optimizer; it was trained without"):
        opened(warm(tmp_path / "plain", init_optimizer=True))


@pytest.mark.parametrize(
    ("before", "now", "warned"),
    [
        (RULE, RULE, False),
        (RULE, FoldRule("stratified", {"label_0": 5, "label_1": 8}), True),
        (FoldRule("time", {}, "2022-05-03T00:00:00+00:00"), FoldRule("time", {}, "2022-05-04T00:00:00+00:00"), False),
        (FoldRule("time", {}, "2022-05-04T00:00:00+00:00"), FoldRule("time", {}, "2022-05-03T00:00:00+00:00"), True),
        (FoldRule("time", {}, "2022-05-03T00:00:00"), FoldRule("time", {}, "2022-05-04T00:00:00+00:00"), True),
        (FoldRule("time", {}, "+30828-09-14T00:00:00"), FoldRule("time", {}, "2022-05-04T00:00:00"), True),
        (FoldRule("time", {}, 3), FoldRule("time", {}, 4.5), False),
        (RULE, FoldRule("time", {}, 4.5), True),
    ],
)
def test_folds_that_may_overlap_are_warned_of(
    kept: Path, before: FoldRule, now: FoldRule, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(kept / "model", tmp_path / "model")
    for folder in (tmp_path / "model", tmp_path / "model" / "heldout"):
        model = load_model(folder)
        tree = {**model.provenance, "folds": {"method": before.method, "thresholds": before.thresholds}}
        if before.boundary is not None:
            tree["folds"]["boundary"] = before.boundary
        save_model(folder, replace(model, provenance=tree), origin=read_artifact(paths.MODEL, at=kept / "model").origin)
    opened(warm(tmp_path / "model"), rule=now)
    assert ("may have been trained on rows of today's validation fold" in caplog.text) is warned
