"""KuaiRand's public files as the example's three: train, test without labels, and a sample submission.

    python -m tools.kuairand KuaiRand-Pure/data --out data

1. Both standard logs are read; what rows need is kept as numbers (about 40 bytes a row), in the order of user and time.
2. Rows from 25 April 2022 on are kept, so that each has two weeks behind it; those from 6 May on are test.
3. A row's histories are its user's exposures strictly before it, rows of the same millisecond left out: `seq` the
   long-viewed videos, `seq_recent` all of them, the last 100 of each, oldest first.
4. A session ends where a user is away for more than 30 minutes; they are counted within the kept rows.
5. Features of users and videos are joined while a part of the rows at a time is written. Train is shuffled, by a seed.

The source is KuaiRand (Gao et al., CIKM 2022, arXiv 2208.08696), CC BY-SA 4.0: what is made of it is under the same
terms. The random exposures (`log_random_*`) and the statistics of videos, which look ahead, are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import typer

from qin.runtime.errors import DataError
from qin.runtime.files import atomic_file

Int64Array = npt.NDArray[np.int64]

FIRST_DAY, FIRST_TEST_DAY = 20220425, 20220506
MAX_HISTORY, GAP_MS, SEED = 100, 30 * 60 * 1000, 0
LABELS = {"clicked": "long_view", "liked": "is_like"}
_LOG = ("user_id", "video_id", "date", "hourmin", "time_ms", "is_like", "long_view", "tab")
_TEXTS = (
    *("video_type", "upload_type", "tag", "user_active_degree"),
    *("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range"),
)
_VIDEO = (
    *("author_id", "video_type", "upload_type", "server_width", "server_height"),
    *("music_id", "music_type", "tag", "video_duration"),
)
_CHUNK_ROWS = 20_000


@dataclass(frozen=True)
class Log:
    """Exposures in the order of user and time, with what each row may know of those before it.

    Attributes:
        columns: Of the log, `(rows,)` each.
        first: Of each row, the first row of its user, `(rows,)`.
        known: Of each row, the first row that is not earlier, `(rows,)`.
        viewed: Long-viewed rows, ascending.
    """

    columns: dict[str, Int64Array]
    first: Int64Array
    known: Int64Array
    viewed: Int64Array

    def recent(self, row: int) -> Int64Array:
        """The last videos that were shown before a row."""
        return self.columns["video_id"][max(self.first[row], self.known[row] - MAX_HISTORY) : self.known[row]]

    def liked(self, row: int) -> Int64Array:
        """The last videos that were long-viewed before a row."""
        start, stop = np.searchsorted(self.viewed, (self.first[row], self.known[row]))
        return self.columns["video_id"][self.viewed[max(start, stop - MAX_HISTORY) : stop]]


def main(
    source: Annotated[Path, typer.Argument(help="Folder with the public CSV files.")],
    out: Annotated[Path, typer.Option(help="Folder for the three files.")] = Path("data"),
) -> None:
    """Write train.parquet, test.parquet and sample_submission.csv."""
    try:
        for name, num_rows in convert(source, out).items():
            typer.echo(f"{out / name}: {num_rows:,} rows")
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def convert(source: Path, out: Path) -> dict[str, int]:
    """Write the three files; returns the rows of train and test.

    Args:
        source: Folder with the public CSV files of one of KuaiRand's versions.
        out: Folder for the three files.

    Raises:
        DataError: Naming the file that is missing or has no such column, or the first bad value.
    """
    log = read_log(sorted(source.glob("log_standard_*.csv")), source)
    users = _features(_single(source, "user_features_*.csv"), "user_id")
    videos = _features(_single(source, "video_features_basic_*.csv"), "video_id")
    kept = np.flatnonzero(log.columns["date"] >= FIRST_DAY)
    session = _sessions(log, kept)
    is_test = log.columns["date"][kept] >= FIRST_TEST_DAY
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if not (train.size and test.size):
        raise DataError(f"{source}: no rows from {FIRST_DAY} to {FIRST_TEST_DAY - 1}, or none from then on")
    train = np.random.default_rng(SEED).permutation(train)
    test = test[np.argsort(log.columns["time_ms"][kept[test]], kind="stable")]
    ids = pa.array([f"TEST_{number:06d}" for number in range(test.size)])
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.parquet", train), ("test.parquet", test)):
        with atomic_file(out / name) as staging:
            writer = None
            for start in range(0, rows.size, _CHUNK_ROWS):
                part = rows[start : start + _CHUNK_ROWS]
                table = _joined(log, kept[part], session[part], users, videos)
                if rows is test:
                    table = table.drop_columns(list(LABELS)).add_column(0, "ID", ids.slice(start, part.size))
                writer = writer or pq.ParquetWriter(staging, table.schema)
                writer.write_table(table)
            assert writer is not None
            writer.close()
    with atomic_file(out / "sample_submission.csv") as staging:
        staging.write_text("".join(["ID,clicked\n", *(f"{one},0.5\n" for one in ids.to_pylist())]), encoding="utf-8")
    return {"train.parquet": train.size, "test.parquet": test.size}


def read_log(files: Sequence[Path], source: Path) -> Log:
    """Read the standard logs, both weeks as one.

    Raises:
        DataError: See `convert`.
    """
    if not files:
        raise DataError(f"{source}: no log_standard_*.csv there; name the folder data of the unpacked archive")
    parts = [_read(file, list(_LOG), {name: pa.int64() for name in _LOG}) for file in files]
    for file, part in zip(files, parts, strict=True):
        _check(file, part)
    table = pa.concat_tables(parts)
    columns = {name: table[name].to_numpy() for name in _LOG}
    order = np.lexsort((columns["time_ms"], columns["user_id"]))  # stable: rows of one moment stay in the files' order
    columns = {name: values[order] for name, values in columns.items()}
    is_first = np.diff(columns["user_id"], prepend=columns["user_id"][:1] - 1) != 0
    is_new = is_first | (np.diff(columns["time_ms"], prepend=0) != 0)
    return Log(columns, _start_of(is_first), _start_of(is_new), np.flatnonzero(columns["long_view"]))


def _check(file: Path, part: pa.Table) -> None:
    """Find the first value of a log that cannot be."""
    for name in _LOG:
        good, rule = pc.is_valid(part[name]), "a whole number"
        if name in LABELS.values():
            good, rule = pc.is_in(part[name], value_set=pa.array([0, 1])), "0 or 1"
        elif name == "date":
            good, rule = pc.is_valid(_days(part[name])), "a day such as 20220425"
        bad = pc.indices_nonzero(pc.invert(good))
        if len(bad):
            raise DataError(f"{file}: column {name}, row {bad[0]}: must be {rule}, got {part[name][bad[0].as_py()]}")


def _days(numbers: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Days from numbers such as 20220425; null where there is no such day."""
    texts = numbers.cast(pa.string())
    days = pc.strptime(texts, format="%Y%m%d", unit="s", error_is_null=True)
    is_day = pc.equal(pc.strftime(days, format="%Y%m%d"), texts)  # or the 31st of April would be the 1st of May
    return pc.if_else(is_day, days, None).cast(pa.date32())


def _start_of(begins: npt.NDArray[np.bool_]) -> Int64Array:
    """Of each row, where its run has begun."""
    start: Int64Array = np.maximum.accumulate(np.where(begins, np.arange(begins.size), 0))
    return start


def _sessions(log: Log, kept: Int64Array) -> Int64Array:
    """The number of each kept row's session among those of its user, from 1 on."""
    user, time = log.columns["user_id"][kept], log.columns["time_ms"][kept]
    is_first = np.diff(user, prepend=user[:1] - 1) != 0
    begun = np.cumsum(is_first | (np.diff(time, prepend=0) > GAP_MS))
    number: Int64Array = begun - begun[_start_of(is_first)] + 1
    return number


def _joined(log: Log, rows: Int64Array, session: Int64Array, users: pa.Table, videos: pa.Table) -> pa.Table:
    """Rows as the example has them."""
    columns = {name: values[rows] for name, values in log.columns.items()}
    time = pa.array(columns["time_ms"] * 1000).cast(pa.timestamp("us"))
    user, video = _taken(users, "user_id", columns["user_id"]), _taken(videos, "video_id", columns["video_id"])
    day = _days(pa.array(columns["date"]))
    in_china = pc.add(time, pa.scalar(8 * 3600 * 10**6, pa.duration("us")))
    sessions = [f"{one}_{number}" for one, number in zip(columns["user_id"], session, strict=True)]
    return pa.table(
        {
            "user_id": columns["user_id"],
            "session_id": sessions,
            "time": time,
            "video_id": columns["video_id"],
            "hour": (columns["hourmin"] // 100).astype(np.int32),
            "day_of_week": pc.day_of_week(in_china).cast(pa.int32()),
            "tab": columns["tab"],
            "seq": [",".join(map(str, log.liked(row))) for row in rows],
            "seq_recent": [",".join(map(str, log.recent(row))) for row in rows],
            **{name: video[name] for name in _VIDEO},
            **{name: user[name] for name in user.column_names if name != "user_id"},
            "freshness_days": pc.days_between(video["upload_dt"], day),
            **{name: columns[source].astype(np.int8) for name, source in LABELS.items()},
        }
    )


def _features(file: Path, key: str) -> pa.Table:
    """Features by their key, ascending.

    Raises:
        DataError: If the key or a feature is missing, or a key occurs twice.
    """
    types = {**dict.fromkeys(_TEXTS, pa.string()), key: pa.int64(), "upload_dt": pa.date32()}
    table = _read(file, [key, "upload_dt", *_VIDEO] if key == "video_id" else [], types)
    if key not in table.column_names or not table.num_rows:
        raise DataError(f"{file}: column {key}: missing, or without a value")
    table = table.sort_by(key)
    twice = np.flatnonzero(np.diff(table[key].to_numpy()) == 0)
    if twice.size:
        raise DataError(f"{file}: column {key}: {table[key][int(twice[0])]} occurs twice")
    return table


def _taken(table: pa.Table, key: str, keys: Int64Array) -> pa.Table:
    """The features of each key; nulls where there are none."""
    known = table[key].to_numpy()
    place = np.minimum(np.searchsorted(known, keys), known.size - 1)
    return table.take(pa.array(place, mask=known[place] != keys))


def _single(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files {pattern}, where one is expected")
    return found[0]


def _read(file: Path, columns: list[str], types: dict[str, pa.DataType]) -> pa.Table:
    options = pacsv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=True)
    try:
        return pacsv.read_csv(file, convert_options=options)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file}: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    typer.run(main)
