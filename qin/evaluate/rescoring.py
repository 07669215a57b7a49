"""What evaluate reads the prepared log again for: trees to compare with, and the importance of each field."""

from pathlib import Path
from typing import Any

from qin.config import Params
from qin.evaluate.baseline import baseline_figures, baseline_logits
from qin.evaluate.curves import Row
from qin.evaluate.figures import JudgedFold
from qin.evaluate.importance import fold_importance
from qin.model.scoring import check_same_schema, for_scoring, load_model, score_batch
from qin.raw.segments import Segments
from qin.shards.files import ShardReader
from qin.split.columns import read_folds
from qin.train.build import place


def compare_with_baseline(params: Params, judged: JudgedFold, *, prepared: Path, folds: Path) -> dict[str, Any]:
    """Fit trees on a sample of the train fold and compare the network with them on the validation fold.

    Args:
        params: Sections evaluate and train.
        judged: The validation fold.
        prepared: Folder of the prepared train file.
        folds: Folder of the folds.

    Returns:
        `rows`, those fitted, and what `baseline_figures` returns.

    Raises:
        DataError: see `baseline_logits`.
        ArtifactError: If a file is missing or damaged.
    """
    reader = ShardReader(prepared)
    num_rows, logit = baseline_logits(
        reader,
        read_folds(folds, num_rows=reader.num_rows),
        judged.scored.row,
        max_rows=params.evaluate.baseline_rows,
        seed=params.evaluate.seed,
        batch_size=params.train.eval_batch_size,
        num_threads=params.train.num_threads,
    )
    figures = baseline_figures(
        logit,
        judged.calibrated,
        judged.scored.label,
        is_judge=judged.is_judge,
        is_ranked=judged.is_ranked,
        cluster=judged.cluster,
    )
    return {"rows": num_rows, **figures}


def judge_fields(
    params: Params, judged: JudgedFold, *, segments: Segments | None, prepared: Path, trained: Path
) -> list[Row]:
    """Return the importance of each field to the deployed model; see `qin.evaluate.importance`.

    Args:
        params: Sections evaluate and train.
        judged: The validation fold.
        segments: Each validation row's segment, where the calibrator has shifts.
        prepared: Folder of the prepared train file.
        trained: Folder of the trained model.

    Raises:
        ArtifactError: If a file is missing or damaged, or the rows are not encoded as the model was trained.
    """
    reader, model = ShardReader(prepared), load_model(trained)
    check_same_schema(model, reader)
    network, calibrator = for_scoring(place(model.network, params.train)), judged.report.deployed
    return fold_importance(
        reader,
        judged.scored.row,
        judged.scored.label,
        score=lambda batch: score_batch(network, batch, batch_size=params.train.eval_batch_size),
        calibrate=lambda logit, rows: calibrator.apply(logit, None if segments is None else segments.where(rows)),
        max_rows=params.evaluate.importance_rows,
        seed=params.evaluate.seed,
    )
