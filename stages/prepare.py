"""Stage 1: raw Parquet files to fixed-width shards.

python -m stages prepare
"""

import logging

import typer

from qin.columns.schema import check_test_columns, resolve_schema
from qin.config import load_params
from qin.features.derived import Impressions, check_impression_columns, with_derived
from qin.prepare.file import prepare_file
from qin.prepare.histories import inspect_histories
from qin.prepare.statistics import headline
from qin.raw.parquet import open_parquet
from qin.raw.sample_ids import match_ids, read_sample_ids
from qin.runtime import paths
from qin.runtime.chain import origin_of
from qin.runtime.claim import claimed
from qin.runtime.files import atomic_directory, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.shards.ids import read_ids

app = typer.Typer(add_completion=False)
log = logging.getLogger("qin")


@app.command()
def main() -> None:
    """Encode train and test; nothing is fitted, so this may precede the split."""
    with run_stage("prepare") as report:
        params = load_params(paths.PARAMS)
        data, knobs, settings = params.data, params.prepare, params.model_dump(mode="json")
        files = {"data.train": data.train, "data.test": data.test}
        report.reads(settings=settings, files={**files, "data.sample_submission": data.sample_submission})
        features, columns = params.features, open_parquet(data.train).schema_arrow
        schema = resolve_schema(columns, data=data, features=features)
        test_columns = open_parquet(data.test).schema_arrow
        check_test_columns(test_columns, schema, data=data, features=features, train=columns)
        wanted = read_sample_ids(data.sample_submission)[1]
        schema, warnings = inspect_histories(data.train, schema)
        for warning in warnings:
            log.warning(warning)
        impressions = Impressions.of(schema, features.impression)
        check_impression_columns(test_columns, features, file=data.test)
        schema = with_derived(schema, columns=columns, features=features, file=data.train)
        figures = {}
        with claimed("prepare"), atomic_directory(paths.PREPARED) as folder:
            for name, file in (("test", data.test), ("train", data.train)):  # what is shorter may end the stage earlier
                (folder / name).mkdir()
                statistics = prepare_file(
                    file,
                    folder / name,
                    schema=schema,
                    with_label=name == "train",
                    knobs=knobs,
                    impressions=impressions,
                    origin=origin_of("prepare", settings, files={f"data.{name}": file}),
                )
                figures[name] = headline(statistics)
                report.num_rows += statistics["num_rows"]
                if name == "test":
                    match_ids(
                        wanted, read_ids(folder / name), file=data.sample_submission, column=data.id, test=data.test
                    )
            report.check_inputs()
        write_json(
            paths.METRICS / "prepare.json",
            {**{name: figures[name] for name in ("train", "test")}, "warnings": report.warnings},
        )


if __name__ == "__main__":
    end_with_dvc()
    app()
