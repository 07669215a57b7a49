"""Stage 2: the fold of each row, and the leakage audit.

python -m stages split
"""

import typer

from qin.columns.resolve import scalar_columns
from qin.config import load_params
from qin.raw.log import open_log
from qin.runtime import paths
from qin.runtime.chain import origin_of
from qin.runtime.files import atomic_directory, write_json
from qin.runtime.folded import of_folds
from qin.runtime.labelled import of_labels
from qin.runtime.parent import end_with_dvc
from qin.runtime.progress import log as logger
from qin.runtime.stage import run_stage
from qin.shards.folds import write_divisions
from qin.split.audit import audit, audits_by_label, check, warnings
from qin.split.columns import read_split_columns
from qin.split.crossed import check_cover, divide
from qin.split.early import check_later_columns
from qin.split.impressions import impression_hint, row_facts

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Divide the train file's rows into a train and a validation fold, or into those of several models.

    1. The columns that divide rows, and those that only later stages read, are looked for.
    2. Rows are divided, and every division is audited: a promise that does not hold ends the stage.
    3. Folds and the facts of rows are written, then what the audit found.
    """
    with run_stage("split") as report:
        params = load_params(paths.PARAMS)
        data, split, settings = params.data, params.split, params.model_dump(mode="json")
        files = {"data.train": data.train}
        report.reads(settings=settings, files={**files, "data.test": data.test})
        log = open_log(data.train)
        test_columns = None if data.test is None else open_log(data.test).schema
        # What only later stages read, asked before hours of training rather than after.
        check_later_columns(params, train=log.schema, test=test_columns)
        scalars = scalar_columns(log.schema.names, data=data, features=params.features)
        columns = read_split_columns(
            data, split, target=params.features.target, features=scalars, impression=params.features.impression.key
        )
        hint = impression_hint(columns, split)
        if hint is not None:
            logger.info("%s: hint: %s", log, hint)
        assignments = divide(columns, split, file=log.name)
        check_cover(assignments, method=split.method, file=log.name)
        audits = [audit(columns, assignment, method=split.method) for assignment in assignments]
        by_label = audits_by_label(audits, columns, assignments)
        for number, figures in enumerate(audits, start=1):
            of = f"fold {number} of {len(audits)}: " if len(audits) > 1 else ""
            check(figures, file=log.name, of=of)
            for name, of_label in by_label.items():
                file = f"{log}: label {name}" if len(by_label) > 1 else log.name
                for warning in warnings(of_label[number - 1], file=file, of=of):
                    logger.warning(warning)
        with atomic_directory(paths.FOLDS) as folder:
            facts, origin = row_facts(columns, method=split.method), origin_of("split", settings, files=files)
            write_divisions(folder, assignments, method=split.method, facts=facts, origin=origin)
            report.check_inputs()
        told = {name: {**of_folds(figures), "warnings": report.warnings} for name, figures in by_label.items()}
        write_json(paths.METRICS / "split.json", of_labels(told))
        report.num_rows = columns.label.size


if __name__ == "__main__":
    end_with_dvc()
    app()
