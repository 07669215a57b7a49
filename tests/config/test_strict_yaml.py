"""YAML 1.2's scalars, and one line for each thing that settings may not hold."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from qin.config import strict_yaml
from qin.config.strict_yaml import MAX_DEPTH, read_yaml, resolve_scalar
from qin.runtime.errors import ConfigError


def read(folder: Path, text: str | bytes) -> Any:
    path = folder / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


# From the tables of YAML 1.2.2, section 10.3.2, and what YAML 1.1 would make of other text.
SCALARS: dict[str, Any] = {
    "null": None,
    "~": None,
    "": None,
    "Null": None,
    "nULL": "nULL",
    "true": True,
    "FALSE": False,
    "on": "on",
    "off": "off",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "0": 0,
    "010": 10,
    "-19": -19,
    "+12": 12,
    "0o7": 7,
    "0x3A": 58,
    "0b11": "0b11",
    "1_000": "1_000",
    "12:30": "12:30",
    "190:20:30": "190:20:30",
    "0.": 0.0,
    "-0.0": 0.0,
    ".5": 0.5,
    "+12e03": 12000.0,
    "-2E+05": -200000.0,
    "1e-05": 1e-5,
    "5e-4": 5e-4,
    "1e5": 1e5,
    "1.5.2": "1.5.2",
    "1e": "1e",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "inf": "inf",
    "2022-05-04": "2022-05-04",
    "2022-05-04 12:00:00": "2022-05-04 12:00:00",
    "=": "=",
    "<<": "<<",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    assert resolve_scalar(text) == value
    assert type(resolve_scalar(text)) is type(value)
    assert read(tmp_path, f"a: {text}\n") == {"a": value}
    assert read(tmp_path, f"a: '{text}'\nb: !!str {text}\n") == {"a": text, "b": text}


def test_not_a_number_is_read() -> None:
    assert math.isnan(resolve_scalar(".nan"))  # type: ignore[arg-type]
    assert resolve_scalar("nan") == "nan"


def test_keys_are_text_as_written(tmp_path: Path) -> None:
    assert read(tmp_path, "010: a\ntrue: b\n~: c\n") == {"010": "a", "true": "b", "~": "c"}


def test_aliases_repeat_a_value(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &x [1, {b: 2}]\nc: *x\nd: &x 3\ne: *x\n") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
        "d": 3,
        "e": 3,
    }


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") is None
    assert read(tmp_path, "\ufeffa: 1\n") == {"a": 1}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "bomb": (BOMB, "line 6: more than 1000000 values, aliases expanded"),
    "circle": ("a: &x [1, *x]\n", "line 1: alias *x is inside what it stands for"),
    "circle of mappings": ("a: &x\n  b: {c: *x}\n", "line 2: alias *x is inside what it stands for"),
    "unknown alias": ("a: *x\n", "line 1: alias *x of an unknown anchor"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, f"line 1: more than {MAX_DEPTH} levels of lists and mappings"),
    "deep by aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 40)),
        f"line 32: more than {MAX_DEPTH} levels of lists and mappings",
    ),
    "list as key": ("? [a, b]\n: 1\n", "line 1: a key must be text"),
    "mapping as key": ("a: 1\n? {b: 1}\n: 1\n", "line 2: a key must be text"),
    "alias as key": ("a: &x b\n*x : 1\n", "line 2: a key must be text"),
    "key twice": ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4: key c occurs twice, first in line 3"),
    "key twice, quoted": ("a: 1\n'a': 2\n", "line 2: key a occurs twice, first in line 1"),
    "digits": (f"a: {'9' * 5000}\n", "line 1: an integer of 5000 digits"),
    "hexadecimal digits": (f"a: 0x{'f' * 5000}\n", "line 1: an integer of 5002 digits"),
    "two documents": ("a: 1\n---\nb: 1\n", "line 2: a second document begins"),
    "binary": ("a: !!binary AAAA\n", "line 1: tag tag:yaml.org,2002:binary: write the value without it"),
    "python": ("a: !!python/name:os.system\n", "line 1: tag tag:yaml.org,2002:python/name:os.system: write the value"),
    "set": ("a: !!set {b}\n", "line 1: tag tag:yaml.org,2002:set is not one of YAML 1.2's core schema"),
    "local tag": ("a: !thing [b]\n", "line 1: tag !thing is not one of YAML 1.2's core schema"),
    "not UTF-8": (b"a: \xff\xfe\n", ""),
    "control character": (b"a: \x00\n", ""),
    "unclosed": ("a: [", ""),
    "tab": ("a:\n\tb: 1\n", ""),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader], ids=["libyaml", "python"])
def test_what_settings_may_not_hold_is_one_line(
    tmp_path: Path, name: str, loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_yaml, "_LOADER", loader)
    text, problem = REFUSED[name]
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/p.yaml: not valid YAML: {problem}")
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


def test_a_folder_is_no_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        read_yaml(tmp_path)


def test_both_parsers_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).resolve().parents[2] / "params.yaml"
    expected = read_yaml(path)
    monkeypatch.setattr(strict_yaml, "_LOADER", yaml.SafeLoader)
    assert read_yaml(path) == expected
