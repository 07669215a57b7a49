"""What a setting may name: files, folders of parts, folders named `column=value`, lists and URIs, in one order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime.errors import DataError
from qin.runtime.sources import exists, list_files, source_name
from tests.object_store import ObjectStore, object_store


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(monkeypatch) as found:
        yield found


def test_parts_are_in_natural_order_without_what_writers_leave(tmp_path: Path) -> None:
    folder = touch(tmp_path / "log", "part-10.parquet", "part-9.parquet", "_SUCCESS", ".part-9.parquet.crc", "_tmp/0.x")
    assert [file.inside for file in list_files(folder)] == ["part-9.parquet", "part-10.parquet"]
    assert [file.name for file in list_files(str(folder))] == [
        str(folder / "part-9.parquet"),
        str(folder / "part-10.parquet"),
    ]


def test_folders_give_columns(tmp_path: Path) -> None:
    names = ("day=10/shop=a%2Fb/0.parquet", "day=9/shop=b/1.parquet", "day=9/shop=__HIVE_DEFAULT_PARTITION__/0.parquet")
    files = list_files(touch(tmp_path / "log", *names, "_delta_log/0.json"))
    assert [dict(file.partition) for file in files] == [
        {"day": "9", "shop": None},
        {"day": "9", "shop": "b"},
        {"day": "10", "shop": "a/b"},
    ]


def test_a_list_keeps_its_order(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b.parquet", "a/1.parquet", "a/0.parquet")
    source = [str(folder / "b.parquet"), str(folder / "a")]
    assert [Path(file.name).name for file in list_files(source)] == ["b.parquet", "0.parquet", "1.parquet"]
    assert source_name(source) == f"{folder / 'b.parquet'} and 1 more"
    assert exists(source)
    assert not exists([*source, str(folder / "c")])
    with pytest.raises(DataError, match=r"a/0\.parquet: named twice; its rows would count twice$"):
        list_files([*source, str(folder / "a/0.parquet")])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "log: an empty folder; expected a Parquet or CSV file, or a folder of them"),
        (("old/0.parquet",), "log/old: a folder inside a folder of parts, and not named `column=value`; name"),
        (("0.parquet", "notes.txt"), "log/notes.txt: no Parquet or CSV file by its name; "),
        (
            ("0.parquet", "day=1/0.parquet"),
            "log/day=1/0.parquet: in folders of day, but the first part is in those of no",
        ),
        (("day=1/0.parquet", "hour=1/0.parquet"), "log/hour=1/0.parquet: in folders of hour, but the first part is in"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = touch(tmp_path / "log", *names)
    folder.mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        list_files(folder)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_patterns_are_not_expanded(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"\*\.parquet: file not found; patterns are not expanded, name the folder or a"
    ):
        list_files(str(tmp_path / "*.parquet"))


def test_a_uri_is_listed_and_read_as_a_folder_is(tmp_path: Path, store: ObjectStore) -> None:
    folder = touch(tmp_path / "log", "day=10/0.parquet", "day=9/0.parquet", "day=9/_SUCCESS", "day=9/a b+c%25.parquet")
    uri = store.put(folder, "deep/log")
    local, remote = list_files(folder), list_files(uri)
    assert [(file.inside, file.partition) for file in remote] == [(file.inside, file.partition) for file in local]
    assert remote[0].name == "s3://logs/deep/log/day=9/0.parquet"
    for ours, theirs in zip(local, remote, strict=True):
        with ours.open() as first, theirs.open() as second:
            assert first.read() == second.read()
    [single] = list_files("s3://logs/deep/log/day=10/0.parquet")
    assert (single.name, single.partition) == ("s3://logs/deep/log/day=10/0.parquet", ())
    assert single.state()[0] == len("day=10/0.parquet")


def test_files_of_a_bucket_share_a_connection(tmp_path: Path, store: ObjectStore) -> None:
    folder = touch(tmp_path / "log", "a.parquet", "b.parquet")
    uris = [store.put(folder / name, f"days/{name}") for name in ("a.parquet", "b.parquet")]
    first, second = list_files(uris)
    assert first.filesystem is second.filesystem
    assert [file.name for file in (first, second)] == uris


def test_objects_that_are_missing_are_named(store: ObjectStore) -> None:
    for uri in ("s3://logs/none.parquet", "s3://nobody/train"):
        assert not exists(uri)
        with pytest.raises(DataError, match=f"^{uri}: file not found$"):
            list_files(uri)


def test_an_unknown_kind_of_uri_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        list_files("ftp://host/train")
    assert str(caught.value).startswith("ftp://host/train: cannot be reached (")
    assert "\n" not in str(caught.value)
