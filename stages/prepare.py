"""Stage 1: raw files to fixed-width shards.

python -m stages prepare
"""

import logging
from functools import partial

import pyarrow as pa
import typer

from qin.columns.resolve import check_test_columns, resolve_schema
from qin.columns.schema import Schema
from qin.config import DataParams, FeatureParams, load_params
from qin.features.derived import Impressions, check_impression_columns, with_derived
from qin.prepare.cache import PartCache
from qin.prepare.file import prepare_file
from qin.prepare.histories import inspect_histories
from qin.prepare.statistics import headlines
from qin.raw.log import RawLog, open_log
from qin.raw.sample_ids import match_ids, read_sample_ids
from qin.runtime import paths
from qin.runtime.chain import origin_of
from qin.runtime.files import atomic_directory, write_exact_json, write_json
from qin.runtime.labelled import of_labels
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.shards.files import MANIFEST
from qin.shards.ids import read_ids

app = typer.Typer(add_completion=False)
log = logging.getLogger("qin")


@app.command()
def main() -> None:
    """Encode train and test; nothing is fitted, so this may precede the split.

    1. Columns and types of both files are checked, and the tokens of histories are looked into.
    2. Numbers that are derived from a row get their names.
    3. Each file is encoded, the one to predict first; its ids must be those of the sample submission.
    """
    with run_stage("prepare") as report:
        params = load_params(paths.PARAMS)
        data, knobs, settings = params.data, params.prepare, params.model_dump(mode="json")
        files = {"data.train": data.train, "data.test": data.test}
        sample = None if data.test is None else data.sample_submission
        report.reads(settings=settings, files={**files, "data.sample_submission": sample})
        features, train = params.features, open_log(data.train)
        schema = resolve_schema(train.schema, data=data, features=features)
        test = None if data.test is None else open_log(data.test)
        schema, warnings = inspect_histories(train, schema)  # tells what tokens are, in test as well
        wanted = None if test is None else _check_test(test, schema, data=data, features=features, train=train)
        for warning in warnings:
            log.warning(warning)
        impressions = Impressions.of(schema, features.impression)
        schema = with_derived(schema, columns=train.schema, features=features, file=train.name)
        figures, cache = {}, PartCache(paths.PARTS)
        with atomic_directory(paths.PREPARED) as folder:
            for name, raw in (("test", test), ("train", train)):  # what is shorter may end the stage earlier
                (folder / name).mkdir()
                if raw is None:
                    log.info("data.test is null: there are no rows to predict")
                    write_exact_json(folder / name / MANIFEST, {"data.test": None})
                    continue
                statistics = prepare_file(
                    raw,
                    folder / name,
                    schema=schema,
                    with_label=name == "train",
                    knobs=knobs,
                    cache=cache,
                    impressions=impressions,
                    origin=origin_of("prepare", settings, files={f"data.{name}": files[f"data.{name}"]}),
                )
                figures[name] = headlines(statistics, schema.labels)
                report.num_rows += statistics["num_rows"]
                if wanted is not None and name == "test":
                    ids, at = read_ids(folder / name), partial(raw.at, data.id)
                    match_ids(wanted, ids, file=str(sample), column=data.id, test=raw.name, at=at)
            report.check_inputs()
        # Only when `data/prepared` is in its place: a stage that fails keeps what it could go on with.
        cache.prune()
        logs = [name for name in ("train", "test") if name in figures]
        told = {
            label: {**{name: figures[name][label] for name in logs}, "warnings": report.warnings}
            for label in schema.labels
        }
        write_json(paths.METRICS / "prepare.json", of_labels(told))


def _check_test(
    test: RawLog, schema: Schema, *, data: DataParams, features: FeatureParams, train: RawLog
) -> pa.ChunkedArray:
    """Check that the rows to predict have what train has; returns the ids that the sample submission asks for."""
    check_test_columns(test.schema, schema, data=data, features=features, train=train.schema)
    check_impression_columns(test.schema, features, file=test.name)
    assert data.sample_submission is not None, "checked with the settings"
    return read_sample_ids(data.sample_submission)[1]


if __name__ == "__main__":
    end_with_dvc()
    app()
