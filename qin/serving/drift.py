"""How a log differs from the rows that the deployed model was fitted on: what predict compares, of raw files."""

from contextlib import closing
from pathlib import Path
from typing import Any

from qin.features.file_drift import FileDrift, ScoreReference
from qin.features.reference import Reference
from qin.labels.artifacts import artifacts_of
from qin.members import arrays_of
from qin.raw.log import open_log
from qin.runtime import paths
from qin.runtime.folded import place_of_fold
from qin.runtime.progress import Progress
from qin.runtime.sources import Source
from qin.scored.rows import ScoredRows
from qin.serving.deployed import read_deployed
from qin.serving.files import check_log, encoded_batches


def log_drift(folder: Path, source: Source, *, num_threads: int, label: str | None = None) -> dict[str, Any]:
    """Compare a log, a batch at a time.

    Args:
        folder: `artifacts` of a repository, or a copy of it.
        source: Parquet file, folder of parts, or URI.
        num_threads: That encode and score.
        label: Which label's model, where there are several; None for the first.

    Returns:
        As of `FileDrift.summary`.

    Raises:
        SchemaError: Naming each column that is missing or of a wrong type.
        DataError: Naming the first bad value, or where the log cannot be read.
        ArtifactError: If an artifact is missing or damaged.
    """
    with artifacts_of(folder, label) as artifacts:
        model, log = read_deployed(artifacts, num_threads=num_threads, precision=None, num_folds=1), open_log(source)
        check_log(model, log.schema, source=log.name)
        place = place_of_fold(paths.SCORED, model.folds[0].number, at=artifacts / paths.SCORED.name)
        scores = ScoreReference.of(ScoredRows.read(place).logit)
        drift = FileDrift(model.schema, Reference.read(artifacts / paths.STATISTICS.name), scores)
    with (
        Progress(log.num_rows, label=f"compare {log}") as progress,
        closing(encoded_batches(model, log, list(model.columns), num_threads=num_threads)) as batches,
    ):
        for batch, encoded, segment in batches:
            drift.update(arrays_of(encoded, model.schema))
            logit = model.logit(encoded, num_threads=num_threads)
            drift.add_scores(logit, model.probability(logit, segment, "natural"))
            progress.advance(batch.num_rows)
    return drift.summary(base_rate=model.base_rate)


def drift_lines(found: dict[str, Any]) -> list[str]:
    """What is said of a comparison: rows and scores, then each large difference."""
    scores = found["scores"]
    return [
        f"{found['num_rows']:,} rows, mean probability {scores['mean_probability']:.4g} "
        f"(base rate {scores['base_rate']:.4g}), scores' PSI {scores['psi']:.3f}",
        *(found["large"] or ["no column differs much from the train file"]),
    ]
