from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from piecework.cli.keeper import JsonLines
from piecework.cli.main import main


def _record(**more: object) -> logging.LogRecord:
    record = logging.LogRecord("piecework.keeper", logging.INFO, "", 0, "admit %s", ("a",), None)
    for name, value in more.items():
        setattr(record, name, value)
    return record


def test_a_line_of_the_log_is_json_that_names_the_action_and_what_it_is_about() -> None:
    entry = json.loads(JsonLines().format(_record(action="admit", subject="a.b.1")))
    assert (entry["message"], entry["level"]) == ("admit a", "info")
    assert (entry["action"], entry["subject"]) == ("admit", "a.b.1")
    assert entry["at"].startswith("20")


def test_a_plain_remark_has_no_action() -> None:
    assert "action" not in json.loads(JsonLines().format(_record()))


@pytest.mark.parametrize("verb", ["keeper", "orphans"])
def test_without_a_pool_on_a_cluster_there_is_nothing_to_keep(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIECEWORK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([verb]) == 2
    assert 'provider = "karpenter"' in capsys.readouterr().err


def test_a_pool_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIECEWORK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["keeper", "--pool", "spot"]) == 2
    assert "there are: local" in capsys.readouterr().err
