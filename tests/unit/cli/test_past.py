from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from piecework import clock, config
from piecework.cli.past import past_of
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import open_ledger


def record(number: int, seconds: int) -> None:
    """A successful run of the job p.a on a machine of its own, that long."""
    at = clock.from_text("2026-11-23T06:00:00Z") + timedelta(hours=number)
    end = at + timedelta(seconds=seconds)
    attempt, machine = f"p.a.{number}.1", f"local-{number}"
    queued = {"run": f"p.a.{number}", "attempt": 1, "job": "a", "pipeline": "p"}
    price = {"usd_per_hour": "1", "currency": "USD", "source": "test", "as_of": None}
    told: list[tuple[str, Kind, datetime, dict[str, Any]]] = [
        (attempt, Kind.ATTEMPT_QUEUED, at, queued),
        (machine, Kind.MACHINE_LAUNCHED, at, {"minimum_seconds": 0, "increment_seconds": 1}),
        (machine, Kind.MACHINE_PRICE, at, price),
        (machine, Kind.MACHINE_OCCUPIED, at, {"attempt": attempt}),
        (attempt, Kind.ATTEMPT_STARTED, at, {}),
        (attempt, Kind.ATTEMPT_ENDED, end, {"outcome": "success", "cause": "", "exit_code": 0}),
        (machine, Kind.MACHINE_VACATED, end, {"attempt": attempt}),
        (machine, Kind.MACHINE_GONE, end, {"cause": "returned"}),
    ]
    with open_ledger(config.load().ledger_url) as ledger:
        ledger.append(
            Event("test", who, kind, 0, when, when, data) for who, kind, when, data in told
        )


def find(job: str = "a") -> Decimal | None:
    with past_of(config.load(), "p") as find_history:
        past = find_history(job)
    return None if past is None else past.high_seconds


@pytest.fixture
def cache(home: Path) -> Path:
    home.mkdir(parents=True)
    return home / "cache" / "history.json"


def test_without_a_ledger_there_is_no_past_and_none_is_made(home: Path) -> None:
    assert find() is None
    assert not home.exists()


def test_the_past_is_kept_until_something_happens(cache: Path) -> None:
    record(1, 100)
    assert find() == 100
    kept = cache.read_text()
    assert find() == 100
    assert cache.read_text() == kept
    record(2, 200)
    assert find() == 200


def test_a_kept_answer_is_read_without_opening_the_ledger(cache: Path) -> None:
    record(1, 100)
    assert find() == 100
    cache.write_text(cache.read_text().replace("100", "321"))
    assert find() == 321


def test_that_a_job_has_no_past_is_kept_too(cache: Path) -> None:
    record(1, 100)
    assert find("b") is None
    assert '"p.b": null' in cache.read_text()
    assert find("b") is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"jobs": 3}', "null"])
def test_a_damaged_cache_changes_nothing(cache: Path, damage: str) -> None:
    record(1, 100)
    assert find() == 100
    cache.write_text(damage)
    assert find() == 100


def test_a_cache_that_cannot_be_written_changes_nothing(cache: Path) -> None:
    record(1, 100)
    cache.parent.write_text("a file where the folder should be")
    assert find() == 100
