"""The log for people and for machines."""

import json
import logging

import pytest

from qin.runtime.logs import log, log_to_stderr


def test_lines_are_plain_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QIN_LOG", raising=False)
    log_to_stderr()
    log.info("%d rows", 3, extra={"fields": {"num_rows": 3}})
    assert capsys.readouterr().err == "3 rows\n"


def test_lines_are_objects_for_machines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QIN_LOG", "json")
    log_to_stderr()
    log.warning("%d rows", 3, extra={"fields": {"num_rows": 3}})
    entry = json.loads(capsys.readouterr().err)
    assert (entry["level"], entry["message"], entry["num_rows"]) == ("warning", "3 rows", 3)
    assert entry["time"].endswith("+00:00")


def test_of_libraries_only_those_that_warn_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("a_library.of_others")
    for level, heard in ((logging.INFO, "look out\n"), (logging.ERROR, "")):
        log_to_stderr(level)
        library.info("constant folded")
        library.warning("look out")
        assert capsys.readouterr().err == heard
    log_to_stderr()
