"""Stage 2: the fold of each row, and the leakage audit.

python -m stages split
"""

import typer

from qin.columns.schema import scalar_columns
from qin.config import load_params
from qin.raw.parquet import open_parquet
from qin.runtime import paths
from qin.runtime.chain import origin_of
from qin.runtime.claim import claimed
from qin.runtime.files import atomic_directory, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.progress import log
from qin.runtime.stage import run_stage
from qin.shards.folds import write_folds
from qin.split.audit import audit, check, warnings
from qin.split.columns import read_split_columns
from qin.split.early import check_later_columns
from qin.split.impressions import impression_hint, row_facts
from qin.split.methods import assign_folds

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Divide the train file's rows into a train and a validation fold."""
    with run_stage("split") as report:
        params = load_params(paths.PARAMS)
        data, split, settings = params.data, params.split, params.model_dump(mode="json")
        files = {"data.train": data.train}
        report.reads(settings=settings, files={**files, "data.test": data.test})
        file_columns = open_parquet(data.train).schema_arrow
        check_later_columns(params, train=file_columns, test=open_parquet(data.test).schema_arrow)
        scalars = scalar_columns(file_columns.names, data=data, features=params.features)
        columns = read_split_columns(
            data, split, target=params.features.target, features=scalars, impression=params.features.impression.key
        )
        hint = impression_hint(columns, split)
        if hint is not None:
            log.info("%s: hint: %s", data.train, hint)
        assignment = assign_folds(columns, split, file=data.train)
        figures = audit(columns, assignment, method=split.method)
        check(figures, file=data.train)
        for warning in warnings(figures, file=data.train):
            log.warning(warning)
        with claimed("split"), atomic_directory(paths.FOLDS) as folder:
            facts, origin = row_facts(columns, method=split.method), origin_of("split", settings, files=files)
            write_folds(folder, assignment, method=split.method, facts=facts, origin=origin)
            report.check_inputs()
        write_json(paths.METRICS / "split.json", {**figures, "warnings": report.warnings})
        report.num_rows = columns.label.size


if __name__ == "__main__":
    end_with_dvc()
    app()
