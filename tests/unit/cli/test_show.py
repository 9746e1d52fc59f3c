"""`piecework show`, as a user calls it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from piecework import clock, config
from piecework.cli.main import main
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import open_ledger


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One run on a cluster, which left three files."""
    home.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    at = clock.from_text("2026-11-23T06:00:00Z")
    queued = {"run": "p.a.1a", "attempt": 1, "job": "a", "pipeline": "p", "pool": "burst"}
    ended = {"outcome": "success", "cause": "exit code 0", "exit_code": 0, "artifacts": 3}
    told = [(Kind.ATTEMPT_QUEUED, queued), (Kind.ATTEMPT_STARTED, {}), (Kind.ATTEMPT_ENDED, ended)]
    with open_ledger(config.load().ledger_url) as ledger:
        ledger.append(
            Event("test", "p.a.1a.1", kind, 0, at + timedelta(seconds=number), at, data)
            for number, (kind, data) in enumerate(told)
        )
    return tmp_path


def test_artifacts_are_shown_with_their_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "piecework.toml").write_text('store = "s3://bucket/piecework"\n')
    assert main(["show", "p.a.1a"]) == 0
    out = capsys.readouterr().out
    assert "Artifacts     3 files in s3://bucket/piecework/artifacts/p.a.1a.1/" in out
    assert main(["show", "p.a.1a", "--json"]) == 0
    (attempt,) = json.loads(capsys.readouterr().out)["attempts"]
    assert attempt["artifacts"] == 3
