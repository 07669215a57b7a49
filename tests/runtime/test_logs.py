"""The log for people and for machines."""

import json

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
