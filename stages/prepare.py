"""Stage 1: raw Parquet files to fixed-width shards.

python -m stages prepare
"""

import typer

from qin import paths
from qin.config import load_params
from qin.prepare.file import prepare_file
from qin.prepare.statistics import headline
from qin.raw.parquet import open_parquet
from qin.runtime.chain import origin_of
from qin.runtime.files import atomic_directory, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.schema import check_test_columns, resolve_schema

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Encode train and test; nothing is fitted, so this may precede the split."""
    with run_stage("prepare") as report:
        params = load_params(paths.PARAMS)
        data, knobs, settings = params.data, params.prepare, params.model_dump(mode="json")
        report.reads(settings=settings, files={"data.train": data.train, "data.test": data.test})
        columns = open_parquet(data.train).schema_arrow
        schema = resolve_schema(columns, data=data, features=params.features)
        check_test_columns(open_parquet(data.test).schema_arrow, schema, file=data.test, train=columns)
        figures = {}
        with atomic_directory(paths.PREPARED) as folder:
            for name, file in (("train", data.train), ("test", data.test)):
                (folder / name).mkdir()
                statistics = prepare_file(
                    file,
                    folder / name,
                    schema=schema,
                    with_label=name == "train",
                    shard_rows=knobs.shard_rows,
                    batch_rows=knobs.batch_rows,
                    num_threads=knobs.num_threads,
                    origin=origin_of("prepare", settings, files={f"data.{name}": file}),
                )
                figures[name] = headline(statistics)
                report.num_rows += statistics["num_rows"]
            report.check_inputs()
        write_json(paths.METRICS / "prepare.json", figures)


if __name__ == "__main__":
    end_with_dvc()
    app()
