"""LightGBM on raw columns as a user of pandas has it; a process of its own, for `benchmarks.peers`.

`python peers_lightgbm.py TRAIN SCORED BATCH THREADS OUT`; BATCH means nothing here.
"""

import json
import sys
import time
from pathlib import Path

import lightgbm as lgb
import pandas as pd

_ROUNDS = 200


def features(path: str, texts: dict[str, pd.Index]) -> tuple[pd.DataFrame, pd.Series]:
    """Columns as numbers and categories, whose values are those of the first file; of a history its length and end."""
    frame = pd.read_parquet(path)
    label = frame.pop("clicked")
    items = frame.pop("seq").fillna("").str.split(",")
    frame["seq_length"], frame["seq_last"] = items.str.len(), items.str[-1]
    frame = frame.drop(columns=[name for name in ("ID", "id") if name in frame])
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            known = texts.setdefault(name, pd.Index(frame[name].dropna().unique()))
            frame[name] = pd.Categorical(frame[name], categories=known)
    return frame, label


def main(train: str, scored: str, _: str, threads: str, out: str) -> None:
    """Prepare, train and score, and write how long each took."""
    texts: dict[str, pd.Index] = {}
    moments = [time.perf_counter()]
    rows, label = features(train, texts)
    others, _label = features(scored, texts)
    moments.append(time.perf_counter())
    parameters = {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": int(threads), "seed": 0}
    booster = lgb.train(parameters, lgb.Dataset(rows, label), _ROUNDS)
    moments.append(time.perf_counter())
    for _time in range(2):  # the second time is counted, as of the other systems
        started = time.perf_counter()
        logit = booster.predict(others, raw_score=True, num_threads=int(threads))
        scored_seconds = time.perf_counter() - started
    steps = zip(("prepare", "train"), moments[1:], moments[:-1], strict=True)
    seconds = {f"{name}_seconds": stop - start for name, stop, start in steps} | {"score_seconds": scored_seconds}
    counts = {"num_train": len(rows), "num_scored": len(others)}
    Path(out).write_text(json.dumps({**seconds, **counts, "logit": list(map(float, logit))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
