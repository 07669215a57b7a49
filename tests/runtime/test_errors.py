"""What a line shows of names, keys and values that hold anything."""

import pickle

import pytest

from qin.runtime.errors import DataError, SchemaError, one_line, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a key\nof two lines", r"a key\nof two lines"),
        ("a\r\tb\0c\x1b[31m\x7f", r"a\r\tb\x00c\x1b[31m\x7f"),
        ("a\u2028b\x0bc\x85d", r"a\u2028b\x0bc\x85d"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("half \ud800 a character", r"half \ud800 a character"),
        (r"C:\no escape", r"C:\no escape"),
        ("클릭 é 😀 'quoted' \"so\"", "클릭 é 😀 'quoted' \"so\""),
    ],
)
def test_what_is_no_sign_is_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert one_line(shown) == shown


def test_long_words_and_lines_are_cut_in_the_middle() -> None:
    line = one_line(f"begin {'x' * 5000} end")
    assert line.startswith("begin xxx")
    assert line.endswith("xxx end")
    assert len(line) < 300
    line = one_line("word " * 1000 + "end")
    assert len(line) <= 1000
    assert line.endswith("word end")
    assert one_line("\n" * 5000) == one_line(one_line("\n" * 5000))


def test_an_error_is_a_line_per_problem() -> None:
    error = SchemaError("column a\nb: missing", "column c: missing")
    assert error.lines == [r"column a\nb: missing", "column c: missing"]
    assert str(error) == "column a\\nb: missing\ncolumn c: missing"
    assert pickle.loads(pickle.dumps(error)).lines == error.lines


def test_of_very_many_problems_the_first_are_shown() -> None:
    error = DataError(*(f"row {row}" for row in range(20_000)))
    assert error.lines[0] == "row 0"
    assert error.lines[-1] == "and 19900 more"
    assert len(error.lines) == 101


def test_a_value_is_shown_by_its_beginning() -> None:
    assert shortened("x" * 60) == "x" * 60
    assert shortened("x" * 61) == "x" * 60 + "..."
