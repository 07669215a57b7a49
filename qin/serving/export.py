"""The deployed model as a folder that needs none of this package: the model, its signature, golden rows, proof.

| file | what it holds |
|---|---|
| `model.*` | raw values in, calibrated probabilities out |
| `signature.json` | inputs and outputs, how values become inputs, calibration, prior, versions |
| `golden.parquet` | raw rows of the log, and one of nulls |
| `golden_inputs.npz` | the same rows as the model's inputs; `golden_inputs.pt` for C++, beside machine code |
| `golden.json` | their buckets, calibrated logits and probabilities, by this package |
| `parity.json` | how far the exported model is from them |
| `README.md` | how to run it |
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from qin.labels.artifacts import artifacts_of
from qin.metrics.logits import prior_logit
from qin.model.artifact import load_model
from qin.network.qin import QIN
from qin.raw.hashing import seed_of
from qin.raw.log import open_log, read_sample
from qin.runtime import paths
from qin.runtime.errors import ArtifactError, ConfigError
from qin.runtime.files import atomic_directory, write_json
from qin.runtime.folded import place_of_fold
from qin.runtime.sources import Source
from qin.serving.deployed import Deployed, FoldModel, read_deployed
from qin.serving.graph.feeds import Feeds, feeds_of
from qin.serving.graph.formats import FORMATS, OPSET, OUTPUTS, run
from qin.serving.graph.whole import WholeModel, input_names, integer_columns
from qin.serving.readme import readme
from qin.serving.scorer import Scorer

Format = Literal["onnx", "pt2", "aoti"]

NUM_GOLDEN = 200  # enough to meet every branch, few enough to be read
MOST_APART = 1e-4  # of a logit; sums of float32 in another order stay far below

_SIGNATURE = "signature.json"


def export(artifacts: Path, out: Path, rows: Source, *, kind: Format, label: str | None = None) -> dict[str, Any]:
    """Write the folder.

    Args:
        artifacts: Folder of artifacts.
        out: Folder to write, which takes the place of an earlier export that is there.
        rows: Log from which golden rows are taken.
        kind: One of `FORMATS`.
        label: Which label's model, where there are several; None for the first.

    Returns:
        What `parity.json` holds.

    Raises:
        ArtifactError: If the exported model is further from this package's scores than it may be; nothing is written.
        ConfigError: If a package that the format needs is missing, or `out` holds anything but an export.
    """
    _refuse_other_folder(out)
    with artifacts_of(artifacts, label) as place:
        return _export(place, out, rows, kind=kind)


def _export(artifacts: Path, out: Path, rows: Source, *, kind: Format) -> dict[str, Any]:
    """Write the folder from the artifacts of one label.

    1. Golden rows are taken, and made the inputs of a client.
    2. The whole model is written as a graph, and run as its user would run it.
    3. What it gives is held against this package's scores.
    4. Rows, inputs, scores, proof, signature and README are written beside it.
    """
    # What other runtimes compute in: with products in bfloat16, no export could be told from a wrong one.
    model = read_deployed(artifacts, num_threads=1, precision="fp32")
    if len(model.folds) > 1:
        raise ArtifactError(
            f"{artifacts}: {len(model.folds)} models, made with split.num_folds; an export holds one: run `dvc repro` "
            "with split.num_folds: 1"
        )
    golden = _golden(model, rows)
    feeds, names = feeds_of(model, golden), input_names(model)
    graph = WholeModel(model, _networks(artifacts, model.folds[0])).eval()
    file, write = FORMATS[kind]
    inputs = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in names}
    with atomic_directory(out) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters' own parts
            write(graph, inputs, folder / file)
        found = run(kind, folder / file, names, feeds)
        expected = _expected(model, golden)
        parity = _parity(found, expected, Scorer.load(artifacts, num_threads=1).score(golden))
        pq.write_table(golden, folder / "golden.parquet")
        np.savez(folder / "golden_inputs.npz", allow_pickle=False, **feeds)
        if kind == "aoti":
            torch.save(tuple(inputs.values()), folder / "golden_inputs.pt")
        exact = {name: values.tolist() for name, values in expected.items()}
        (folder / "golden.json").write_text(json.dumps(exact) + "\n", encoding="utf-8")
        write_json(folder / "parity.json", parity)
        signature = _signature(model, feeds, kind=kind, file=file)
        (folder / _SIGNATURE).write_text(json.dumps(signature, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(readme(kind, file, names), encoding="utf-8")
    return parity


def _refuse_other_folder(out: Path) -> None:
    """The folder is replaced as a whole, so nobody's other files may be in it."""
    if not out.is_dir() or (out / _SIGNATURE).is_file():
        return
    found = next((entry.name for entry in sorted(out.iterdir())), None)
    if found is not None:
        raise ConfigError(f"{out}: holds {found}, and is no earlier export; name a folder that is new, or empty")


def _networks(artifacts: Path, model: FoldModel) -> Sequence[QIN]:
    """The networks of a model as they were trained; none where they have no weight."""
    if not model.members.networks:
        return ()
    return load_model(place_of_fold(paths.MODEL, model.number, at=artifacts / paths.MODEL.name)).networks


def _golden(model: Deployed, rows: Source) -> pa.Table:
    """Rows from some places of a log, and one of nulls."""
    log = open_log(rows)
    problems = model.problems(log.schema, may_miss=False, name=log.name)
    if problems:
        raise ArtifactError(*problems)
    table = read_sample(log, columns=list(model.columns), num_rows=NUM_GOLDEN)
    # A log may have no missing value where the model was told what to make of one.
    nothing = pa.Table.from_arrays([pa.nulls(1, kind) for kind in table.schema.types], schema=table.schema)
    return pa.concat_tables([table, nothing]).unify_dictionaries()


def _expected(model: Deployed, golden: pa.Table) -> Feeds:
    scorer = Scorer(model, num_threads=1)
    prepared = scorer.prepare(golden)
    [blended] = scorer.logits_of([prepared])
    probability = scorer.probabilities_of(prepared, blended, "natural")
    buckets = np.concatenate([batch.categorical.numpy() for batch in prepared.batches])
    logit = np.log(probability) - np.log1p(-probability)
    return {"buckets": buckets.astype(np.int64), "logit": logit, "probability": probability}


def _parity(found: list[Any], expected: Feeds, deployed: Any) -> dict[str, Any]:
    """How far apart the exported model and this package are, in float32 and in the precision that predict uses.

    Raises:
        ArtifactError: If that is too far.
    """
    got = dict(zip(OUTPUTS, found, strict=True))
    apart = np.abs(got["logit"] - expected["logit"])
    wrong = int(np.count_nonzero(got["buckets"] != expected["buckets"]))
    out = {
        "rows": int(apart.size),
        "different_buckets": wrong,
        "logit": {"max": float(apart.max()), "p99_9": float(np.quantile(apart, 0.999))},
        "probability": {"max": float(np.abs(got["probability"] - expected["probability"]).max())},
        "probability_of_predict": {"max": float(np.abs(got["probability"] - deployed).max())},
        "limit": MOST_APART,
    }
    # Not `>`: NaN is too far as well.
    if wrong or not apart.max() <= MOST_APART:
        raise ArtifactError(f"the exported model differs: {wrong} buckets, logits by up to {apart.max():.3g}")
    return out


def _signature(model: Deployed, feeds: Feeds, *, kind: str, file: str) -> dict[str, Any]:
    schema, calibration = model.schema, model.folds[0].calibration
    return {
        "model": model.version,
        "format": kind,
        "file": file,
        "inputs": [_described(name, feeds[name]) for name in input_names(model)],
        "outputs": {
            "probability": "float64 (rows,), calibrated at the natural base rate",
            "logit": "float64 (rows,), of that probability; another prior p adds log(p / (1 - p)) - base_logit",
            "buckets": "int64 (rows, categorical columns), to check hashes against golden.json",
        },
        "base_logit": prior_logit(calibration.base_rate),
        "categorical": [
            {
                "column": field.name,
                "type": field.type,
                "input": "the integer" if is_integer else "the 64-bit hash of its text",
                "num_buckets": field.num_buckets,
                "seed": str(seed_of(field.vocabulary, schema.hash_seed)),
            }
            for field, is_integer in zip(schema.categorical, integer_columns(model), strict=True)
        ],
        "numeric": [field.name for field in schema.numeric if not field.source],
        "sequences": [
            {
                "column": field.name,
                "tokens": field.tokens or "those of the list",
                "separator": field.separator,
                "padding": field.padding,
                "max_len": field.max_len,
            }
            for field in schema.sequences
        ],
        "impression": None
        if model.impressions is None
        else {"key": list(model.impressions.key), "compared": list(model.impressions.columns)},
        "segment": model.segment,
        "calibration": {"method": calibration.deployed.method, **calibration.deployed.parameters},
        "versions": {
            "torch": version("torch"),
            **({"opset": OPSET, "onnx": version("onnx")} if kind == "onnx" else {}),
        },
    }


def _described(name: str, values: Any) -> Mapping[str, Any]:
    width = [] if values.ndim == 1 else ["tokens" if name.startswith("sequence.") else values.shape[1]]
    return {"name": name, "type": str(values.dtype), "shape": ["rows", *width]}
