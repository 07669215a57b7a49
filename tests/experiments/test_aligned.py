"""Tables for a terminal."""

from qin.experiments.aligned import aligned


def test_columns_are_two_blanks_apart_and_nothing_is_markup() -> None:
    rows = [("name", "value", "word"), ("a", "1", "[red]x"), ("longer name", "12", "")]
    assert aligned(rows, right=slice(1, 2)) == [
        "name         value  word",
        "a                1  [red]x",
        "longer name     12",
    ]


def test_the_last_column_goes_on_below_itself_on_a_narrow_terminal() -> None:
    lines = aligned([("a", "one two three"), ("b", "x" * 12)], width=12)
    assert lines == ["a  one two", "   three", f"b  {'x' * 9}", "   xxx"]
    assert aligned([("a", "one two three" * 100)]) == [f"a  {'one two three' * 100}"]


def test_no_rows_are_no_lines() -> None:
    assert aligned([]) == []
