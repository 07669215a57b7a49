"""Stage 3: fit the model on the train fold; a killed run continues from its checkpoint.

python -m stages train
"""

import typer

from qin import paths
from qin.config import load_params
from qin.model.artifact import save_model
from qin.network.threads import use_threads
from qin.runtime.chain import origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.shards.files import ShardReader
from qin.shards.folds import read_folds
from qin.train.fit import train

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Train, keep the best epoch, and score the validation fold with it."""
    with run_stage("train") as report:
        params = load_params(paths.PARAMS)
        settings = params.model_dump(mode="json")
        inputs = report.reads(paths.PREPARED_TRAIN, paths.FOLDS, settings=settings)
        use_threads(params.train.num_threads)
        reader = ShardReader(paths.PREPARED_TRAIN)
        reader.verify()
        fold = read_folds(paths.FOLDS, num_rows=reader.num_rows)
        trained = train(
            params,
            reader,
            fold,
            checkpoints=paths.CHECKPOINTS,
            on_epoch=lambda history: write_csv(paths.PLOTS / "train.csv", history),
        )
        with atomic_directory(paths.MODEL) as folder:
            save_model(folder, trained.model, origin=origin_of("train", settings, artifacts=inputs))
            report.check_inputs()
        with atomic_directory(paths.VALIDATION) as folder:
            model = read_artifact(paths.MODEL)
            trained.validation.write(folder, origin=origin_of("train", settings, artifacts=[model]))
        write_json(paths.METRICS / "train.json", trained.figures)
        trained.checkpoints.remove()
        report.num_rows = trained.num_rows_seen


if __name__ == "__main__":
    end_with_dvc()
    app()
