"""Blocks of commands, and comparing what they print."""

import pytest

from tools.console import Command, masked, matched, plain_commands, shown_commands

PAGE = """Text

```console
$ one --flag   # why
first 1.5
second
$ two
```

   ```sh
   three
   ```

```console
$ four
ERROR: no
```
"""


def test_commands_with_the_output_that_a_page_shows() -> None:
    commands = list(shown_commands(PAGE))
    assert commands == [
        Command("one --flag   # why", 4, ("first 1.5", "second")),
        Command("two", 7, ()),
        Command("four", 15, ("ERROR: no",)),
    ]
    assert [command.fails for command in commands] == [False, False, True]
    assert PAGE.splitlines()[4] == "first 1.5"
    assert list(plain_commands(PAGE)) == ["three"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("epoch 1: loss 0.09777, AUC 0.65830", "epoch 1: loss 1e-5, AUC 1"),
        ("| a | -0.5 | 12,000 |", "|  a |  +3 | 7 |"),
        ("| ------- | --- |", "| -- | ------ |"),
        ("ap  0.03550  0.05144  +2.2  B likely better", "ap  0.1  0.05  -1  noise"),
        ("6052de7 done 04:24 AM", "1234567 done 11:03 PM"),
        ("file:///a/b/index.html", "file:///tmp/c/index.html"),
    ],
)
def test_what_differs_between_machines_is_the_same(first: str, second: str) -> None:
    assert masked(first) == masked(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Running stage 'train':", "Running stage 'split':"),
        ("model.dropout 1 2", "model.dropouts 1 2"),
        ("unknown key, did you mean a?", "unknown key, did you mean b?"),
        ("ap 1 2", "ap 1"),
    ],
)
def test_words_are_compared(first: str, second: str) -> None:
    assert masked(first) != masked(second)


def test_shown_lines_are_found_in_order() -> None:
    printed = ["start", "ap 0.1", "noise", "auc 0.7 ", "end"]
    assert matched(["ap 0.5", "auc 0.5"], printed) == ["ap 0.1", "auc 0.7"]
    with pytest.raises(ValueError, match="not in this place: 'ap"):
        matched(["auc 0.5", "ap 0.5"], printed)
    with pytest.raises(ValueError, match="not printed"):
        matched(["gauc 0.5"], printed)
