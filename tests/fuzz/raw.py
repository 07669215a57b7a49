"""Mutations of the raw files: types, nulls, encodings, odd text and histories, damage, columns, labels and ids."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.fuzz.damage import damage
from tests.fuzz.mutation import Mutation, choice

_FILES = ("train", "test")

TYPES = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(16), pa.binary_view(), pa.null()),
    *(pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", tz="Asia/Seoul"), pa.date32(), pa.date64()),
    *(pa.time64("us"), pa.duration("ms"), pa.decimal128(20, 3), pa.decimal256(50, 0), pa.month_day_nano_interval()),
    *(pa.list_(pa.int64()), pa.large_list(pa.string()), pa.list_(pa.float64(), 3), pa.list_(pa.list_(pa.int64()))),
    *(pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.dictionary(pa.int32(), pa.string())),
    *(pa.dictionary(pa.int8(), pa.float64()), pa.json_(pa.string()), pa.bool8(), pa.uuid(), pa.list_(pa.string_view())),
    *(pa.list_(pa.null()), pa.list_(pa.timestamp("s")), pa.list_(pa.bool_()), pa.list_(pa.struct([("a", pa.int8())]))),
)

_TEXTS = (
    *("", " ", "0", "-0", "+5", "00042", "1e5", "1.0", "nan", "NaN", "inf", "null", "None"),
    *("true", "1,2", ",", ",,", "1,"),
    *("[1,2,3]", "[1, 2", '["a"]', "[[1]]", "{}", "1 2", "1|2", "1^2", "i1,i2", "12.0,3.0"),
    *("9" * 30, "1,x", "é,ü", "\u202e"),
    *("\x00", "a\nb", "a\tb", '"', "'", "😀", "x" * 3000, "1," * 2000 + "1", "2022-05-04", "2022-05-04 10:00:00+09:00"),
    *("9999-12-31", "0001-01-01", "2022-13-45", "-9223372036854775808", "9223372036854775808", "18446744073709551616"),
)

_NUMBERS = (
    *(0, -0.0, 1, -1, 2, 0.5, 1e-320, 1e30, 3.5e38, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *(2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 253402300799, 10**18),
)

_FORMS = (
    *("json", "blanks", "bar", "float", "text", "padded", "nested"),
    *("nulls", "quoted", "zeros", "long", "empty", "mixed"),
)

_CHANGES_OF_COLUMNS = ("missing", "extra", "renamed", "doubled", "reordered", "odd name")

_PLACES = ("csv", "json", "sample is Parquet", "train for test", "link to nowhere", "link to itself")

_SAMPLES: tuple[tuple[Callable[[list[str]], str | bytes], bool | None], ...] = (
    (lambda ids: "", True),
    (lambda ids: "ID,clicked\n", True),
    (lambda ids: "ID,clicked", True),
    ("\n".join, True),
    (lambda ids: _csv(ids[:-1]), True),
    (lambda ids: _csv([*ids, "extra"]), True),
    (lambda ids: _csv([*ids[:-1], ids[0]]), True),
    (lambda ids: _csv([*ids[:-1], ""]), True),
    (lambda ids: _csv(ids).replace(",0", ""), True),
    (lambda ids: _csv(ids).replace(",0", ",0,0"), True),
    (lambda ids: _csv(ids).replace("T3,", '"T3,', 1), True),
    (lambda ids: _csv(ids).replace("T3,", "T3 ,", 1), True),
    (lambda ids: _csv(ids).encode("utf-16"), True),
    (lambda ids: _csv(ids).replace("clicked", "클릭").encode("cp949"), True),
    (lambda ids: _csv(ids).encode() + b"\x00\xff", True),
    (lambda ids: _csv(ids).replace(",", ";"), True),
    (lambda ids: _csv(ids).replace(",", "\t"), True),
    (lambda ids: _csv([name.lower() for name in ids]), True),
    (lambda ids: _csv(ids).encode("utf-8-sig"), None),
    (lambda ids: _csv(ids).replace("\n", "\r\n"), False),
    (lambda ids: _csv(ids).replace("\n", "\r"), None),
    (lambda ids: _csv(ids) + "\n\n", None),
    (lambda ids: _csv(ids[::-1]), False),
    (lambda ids: _csv(ids).rstrip("\n"), False),
    (lambda ids: _csv([f'"{name}"' for name in ids]), False),
    (lambda ids: "ID,ID\n" + "".join(f"{name},0\n" for name in ids), None),
    (lambda ids: "ID,\n" + "".join(f"{name},\n" for name in ids), None),
    (lambda ids: _csv(ids).replace(",0", "," + "9" * 5000), None),
)


def mutate_raw(folder: Path, generator: np.random.Generator) -> Mutation:
    """Write raw files with one thing wrong, or odd."""
    return choice(generator, _KINDS)(folder, generator)


def _change(
    folder: Path, name: str, column: str, change: Callable[[list[Any]], pa.Array | pa.ChunkedArray | None]
) -> None:
    file = folder / f"data/{name}.parquet"
    table = pq.read_table(file)
    place, new = table.schema.get_field_index(column), change(table.column(column).to_pylist())
    pq.write_table(table.remove_column(place) if new is None else table.set_column(place, column, new), file)


def _some_column(folder: Path, name: str, generator: np.random.Generator) -> str:
    return choice(generator, _names(folder, name))


def _names(folder: Path, name: str) -> list[str]:
    return list(pq.read_schema(folder / f"data/{name}.parquet").names)


def _files(generator: np.random.Generator) -> tuple[str, ...]:
    """One of the two files, or both."""
    return choice(generator, (_FILES, _FILES, ("train",), ("test",)))


def _other_type(folder: Path, generator: np.random.Generator) -> Mutation:
    """The same values as another type, or as nulls of it where they cannot be."""
    names, kind = _files(generator), choice(generator, TYPES)
    column = _some_column(folder, names[-1], generator)

    def changed(values: list[Any]) -> pa.Array:
        makers: tuple[Callable[[], pa.Array], ...] = (
            lambda: pa.array(values).cast(kind),
            lambda: pa.array(values, kind),
            lambda: made(values, kind),
        )
        for make in makers:
            try:
                array = make()
                pq.write_table(pa.table({"x": array}), io.BytesIO())
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                continue
            return array
        return pa.array([f"as text: {value}" for value in values])

    for name in names:
        if column in pq.read_schema(folder / f"data/{name}.parquet").names:
            _change(folder, name, column, changed)
    return Mutation(f"{column} of {', '.join(names)} as {kind}")


def made(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values of a type that hold what can be told of the old ones."""
    if pa.types.is_struct(kind):
        return pa.array([{"a": hash_of(value) % 100} for value in values], kind)
    if pa.types.is_map(kind):
        return pa.array([[("k", hash_of(value) % 100)] for value in values], kind)
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return pa.array([hash_of(value).to_bytes(8, "little") * 2 for value in values], kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = pa.array([hash_of(value) % 100 for value in values for _ in range(3)]).cast(kind.value_type)
        return pa.FixedSizeListArray.from_arrays(inner, 3).cast(kind)
    return pa.array([hash_of(value) % 100 for value in values]).cast(kind)


def hash_of(value: Any) -> int:
    """A number of a value that is the same in every process."""
    return sum((place + 1) * byte for place, byte in enumerate(repr(value).encode())) % 1009


def _odd_values(folder: Path, generator: np.random.Generator) -> Mutation:
    """Some rows, or all, hold text or numbers as logs have them."""
    names = _files(generator)
    column = _some_column(folder, names[-1], generator)
    is_text, share = bool(generator.random() < 0.5), choice(generator, (0.01, 0.5, 1.0))
    pool = _TEXTS if is_text else _NUMBERS
    drawn: list[Any] = [choice(generator, pool) for _ in range(choice(generator, (1, 3)))]
    is_changed = generator.random(1000) < share
    is_changed[int(generator.integers(50))] = True

    def changed(values: list[Any]) -> pa.Array:
        new = [drawn[row % len(drawn)] if is_changed[row] else value for row, value in enumerate(values)]
        if is_text:
            return pa.array([None if value is None else str(value) for value in new])
        numbers = [value if isinstance(value, int | float) else drawn[0] for value in new]
        if all(isinstance(value, int) for value in numbers):
            return pa.array(numbers, pa.int64())
        return pa.array([float(value) for value in numbers])

    for name in names:
        if column in pq.read_schema(folder / f"data/{name}.parquet").names:
            _change(folder, name, column, changed)
    return Mutation(f"{column} of {', '.join(names)}, {share:.0%} of rows: {str(drawn)[:120]}")


def _histories(folder: Path, generator: np.random.Generator) -> Mutation:
    """Histories in another form."""
    column, names = choice(generator, ("seq", "recent")), _files(generator)
    form = choice(generator, _FORMS)

    def written(tokens: list[str], row: int) -> Any:
        forms: dict[str, Any] = {
            "json": json.dumps([int(token) for token in tokens]),
            "blanks": " ".join(tokens),
            "bar": "|".join(tokens),
            "float": ",".join(f"{token}.0" for token in tokens),
            "text": ",".join(f"i{token}" for token in tokens),
            "padded": ",".join(f"{token:0>5}" for token in tokens),
            "nested": [[int(token)] for token in tokens],
            "nulls": [None, *map(int, tokens)],
            "quoted": json.dumps(tokens),
            "zeros": [*([0] * 6), *map(int, tokens)][-6:],
            "long": ",".join(tokens * 200),
            "empty": "",
            "mixed": tokens[0] if tokens and row % 2 else json.dumps(tokens),
        }
        return forms[form]

    def changed(values: list[Any]) -> pa.Array:
        lists = [value.split(",") if isinstance(value, str) else list(map(str, value or [])) for value in values]
        return pa.array([written([t for t in tokens if t], row) for row, tokens in enumerate(lists)])

    for name in names:
        _change(folder, name, column, changed)
    return Mutation(f"{column} of {', '.join(names)} as {form}")


def _nulls(folder: Path, generator: np.random.Generator) -> Mutation:
    names, share = _files(generator), choice(generator, (0.01, 0.3, 1.0))
    column = _some_column(folder, names[-1], generator)
    is_null = generator.random(1000) < share
    is_null[0] = True
    for name in names:
        schema = pq.read_schema(folder / f"data/{name}.parquet")
        if column in schema.names:
            kind = schema.field(column).type
            _change(folder, name, column, _with_nulls(is_null, kind))
    is_bad = True if column in {"clicked", "ID"} else None
    return Mutation(f"{share:.0%} of {column} null in {', '.join(names)}", is_bad=is_bad)


def _with_nulls(is_null: NDArray[np.bool_], kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array([None if is_null[row] else value for row, value in enumerate(values)], kind)


def _columns(folder: Path, generator: np.random.Generator) -> Mutation:
    """A column missing, extra, renamed, doubled, or all in another order."""
    name = choice(generator, _FILES)
    file = folder / f"data/{name}.parquet"
    table, kind = pq.read_table(file), choice(generator, _CHANGES_OF_COLUMNS)
    column = _some_column(folder, name, generator)
    place = table.schema.get_field_index(column)
    is_bad: bool | None = True
    if kind == "missing":
        table = table.remove_column(place)
        is_bad = column != "unused" or name == "train"
    elif kind == "extra":
        extra = choice(generator, ("no_such", "extra_1", "clicked", "ID"))
        table = table if extra in table.column_names else table.append_column(extra, pa.array([0] * len(table)))
        is_bad = None
    elif kind == "renamed":
        table = table.rename_columns([*table.column_names[:place], f"{column}x", *table.column_names[place + 1 :]])
    elif kind == "doubled":
        table = table.append_column(column, table.column(place))
    elif kind == "reordered":
        table = table.select([table.column_names[i] for i in generator.permutation(len(table.column_names))])
        is_bad = False
    else:
        odd = choice(generator, ("", " ", "a\nb", "*", "[a]", "é\u202e", "x" * 3000, "a.b", "\x00"))
        table = table.append_column(odd, pa.array([0] * len(table)))
    pq.write_table(table, file)
    is_bad = None if name == "test" and kind in {"missing", "renamed", "odd name"} and column == "unused" else is_bad
    return Mutation(f"{kind} {column} in {name}", is_bad=is_bad if kind != "odd name" or name == "train" else None)


def _rows(folder: Path, generator: np.random.Generator) -> Mutation:
    """No row, one, two, a few, all equal, all twice, or another order; row groups of any size."""
    name = choice(generator, _FILES)
    file = folder / f"data/{name}.parquet"
    is_bad: bool | None = None
    table, kind = pq.read_table(file), choice(generator, ("0", "1", "2", "9", "equal", "twice", "shuffled", "groups"))
    if kind.isdigit():
        table = table.slice(int(generator.integers(50)), int(kind))
        is_bad = True if kind in "01" or name == "test" else None
    elif kind == "equal":
        table = table.take(np.zeros(len(table), np.int64))
        is_bad = True
    elif kind == "twice":
        table = pa.concat_tables([table, table])
        is_bad = True if name == "test" else None
    elif kind == "shuffled":
        table, is_bad = table.take(generator.permutation(len(table))), False
    size, compression = int(generator.integers(1, 100)), choice(generator, ("none", "zstd"))
    pq.write_table(table, file, row_group_size=size, compression=compression)
    return Mutation(f"{name}: {kind} rows", is_bad=is_bad)


def _labels(folder: Path, generator: np.random.Generator) -> Mutation:
    kinds: tuple[tuple[str, Callable[[list[int]], pa.Array], bool | None], ...] = (
        ("all 0", lambda v: pa.array([0 for _ in v]), True),
        ("all 1", lambda v: pa.array([1 for _ in v]), True),
        ("one click", lambda v: pa.array([int(row == 7) for row in range(len(v))]), True),
        ("two clicks", lambda v: pa.array([int(row in {7, 300}) for row in range(len(v))]), None),
        ("a 2", lambda v: pa.array([*v[:-1], 2]), True),
        ("-1 for 0", lambda v: pa.array([2 * x - 1 for x in v]), True),
        ("halves", lambda v: pa.array([x / 2 for x in v]), True),
        ("text", lambda v: pa.array([str(x) for x in v]), None),
        ("yes", lambda v: pa.array(["yes" if x else "no" for x in v]), True),
        ("bool", lambda v: pa.array([bool(x) for x in v]), None),
        ("float", lambda v: pa.array([float(x) for x in v]), None),
        ("nan", lambda v: pa.array([float("nan"), *map(float, v[1:])]), True),
        ("lists", lambda v: pa.array([[x] for x in v]), True),
        ("decimal", lambda v: pa.array(v, pa.decimal128(20, 3)), None),
    )
    name, change, is_bad = choice(generator, kinds)
    _change(folder, "train", "clicked", change)
    return Mutation(f"label: {name}", is_bad=is_bad)


def _ids(folder: Path, generator: np.random.Generator) -> Mutation:
    kinds: tuple[tuple[str, Callable[[list[str]], pa.Array], bool | None], ...] = (
        ("doubled", lambda v: pa.array([*v[:-1], v[0]]), True),
        ("empty", lambda v: pa.array([*v[:-1], ""]), True),
        ("null", lambda v: pa.array([*v[:-1], None]), True),
        ("numbers", lambda v: pa.array(range(len(v))), True),
        ("floats", lambda v: pa.array([float(row) for row in range(len(v))]), True),
        ("blank behind", lambda v: pa.array([f"{x} " for x in v]), True),
        ("bytes", lambda v: pa.array([x.encode() for x in v]), None),
        ("invalid UTF-8", lambda v: pa.array([b"\xff" + x.encode() for x in v]), True),
        ("lists", lambda v: pa.array([[x] for x in v]), True),
        ("dictionary", lambda v: pa.array(v).dictionary_encode(), False),
        ("large", lambda v: pa.array(v, pa.large_string()), False),
        ("comma", lambda v: pa.array([f"{x},1" for x in v]), True),
        ("line break", lambda v: pa.array([f"{x}\n" for x in v]), True),
    )
    name, change, is_bad = choice(generator, kinds)
    _change(folder, "test", "ID", change)
    return Mutation(f"ids: {name}", is_bad=is_bad)


def _sample(folder: Path, generator: np.random.Generator) -> Mutation:
    number = int(generator.integers(len(_SAMPLES)))
    make, is_bad = _SAMPLES[number]
    text = make(pq.read_table(folder / "data/test.parquet", columns=["ID"]).column("ID").to_pylist())
    (folder / "data/sample_submission.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Mutation(f"sample submission {number}", is_bad=is_bad)


def _csv(ids: Sequence[str]) -> str:
    return "ID,clicked\n" + "".join(f"{name},0\n" for name in ids)


def _bytes(folder: Path, generator: np.random.Generator) -> Mutation:
    """Damage of a file as a broken download has it."""
    name = choice(generator, ("train.parquet", "test.parquet", "sample_submission.csv"))
    return damage(folder / "data" / name, generator, label=name)


def _places(folder: Path, generator: np.random.Generator) -> Mutation:
    """Another kind of file under the name."""
    kind = choice(generator, _PLACES)
    file = folder / f"data/{choice(generator, _FILES)}.parquet"
    if kind == "csv":
        file.write_text("user,item\n1,2\n", encoding="utf-8")
    elif kind == "json":
        file.write_text('{"user": 1}\n', encoding="utf-8")
    elif kind == "sample is Parquet":
        (folder / "data/sample_submission.csv").write_bytes(file.read_bytes())
    elif kind == "train for test":
        (folder / "data/test.parquet").write_bytes((folder / "data/train.parquet").read_bytes())
    else:
        file.unlink()
        file.symlink_to("nowhere" if kind == "link to nowhere" else file.name)
    return Mutation(f"{file.name}: {kind}", is_bad=True)


_KINDS = (
    *(_other_type, _other_type, _odd_values, _odd_values, _histories, _nulls, _columns, _rows, _labels, _ids),
    *(_sample, _sample, _bytes, _bytes, _places),
)
