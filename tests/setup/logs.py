"""Made-up logs of several shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qin.config import Params, load_params
from qin.setup.command import files_of
from qin.setup.plan import Plan
from qin.setup.write import write_settings
from tests.project import ROOT

NUM_ROWS = 1500


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shop(num_rows: int = NUM_ROWS) -> pd.DataFrame:
    """Users, items with attributes, histories of several forms, a measure, a time."""
    draw = rng()
    item = draw.integers(0, 60, num_rows)
    history = [draw.integers(0, 60, draw.integers(0, 9)) for _ in range(num_rows)]
    is_near = np.array([one in past for one, past in zip(item, history, strict=True)])
    tags = np.array(["new", "sale", "eco", "gift"])
    return pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in draw.integers(0, 200, num_rows)],
            "item_id": [f"i{number}" for number in item],
            "brand": [f"b{number // 6}" for number in item],
            "price": draw.lognormal(size=num_rows).round(2),
            "tags": ["|".join(draw.permutation(tags)[: draw.integers(1, 5)]) for _ in range(num_rows)],
            "history": [" ".join(f"i{number}" for number in past) for past in history],
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(draw.integers(0, 10**6, num_rows)), unit="s"),
            "clicked": (draw.random(num_rows) < np.where(is_near, 0.5, 0.1)).astype(int),
        }
    )


def write(folder: Path, log: pd.DataFrame, *, test_rows: int = 0, without: tuple[str, ...] = ("clicked",)) -> Path:
    """Write a log, with `test_rows` its last rows as the rows to predict; returns the train file."""
    folder.mkdir(parents=True, exist_ok=True)
    if test_rows:
        test = log.tail(test_rows).drop(columns=list(without)).assign(ID=[f"T{row}" for row in range(test_rows)])
        test.to_parquet(folder / "test.parquet")
        pd.DataFrame({"ID": test["ID"], "clicked": 0.5}).to_csv(folder / "sample_submission.csv", index=False)
        log = log.head(-test_rows)
    log.to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def init(train: Path, **options: Any) -> tuple[Params, Plan, str]:
    """Settings for a log, what they were decided from, and their text."""
    out = options.pop("out", train.parent / "params.yaml")
    chosen = {"purpose": "probabilities", "label": None, "force": True, "ask": None, **options}
    _, plan = write_settings(
        files_of(str(train), test=None, submission=None),
        out=out,
        base=ROOT / "params.yaml",
        **chosen,
    )
    return load_params(out), plan, out.read_text(encoding="utf-8")
