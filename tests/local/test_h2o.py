"""The example of H2O on this host, in the environment that the engine makes for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from tests.local.attempts import Place, place
from tests.local.jobs import job_of, run_job

FILE = Path(__file__).parents[2] / "examples" / "airports-h2o" / "airports.yaml"


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Iterator[Place]:
    with place(home, tmp_path / "code") as found:
        yield found


@pytest.mark.layer("h2o")
def test_h2o_ranks_flights_that_it_has_not_seen(here: Place) -> None:
    job = job_of(FILE, "train", months="6-6", trees="5")
    done = run_job(here, "train", job, FILE.parent)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    # June 2013: 28,243 flights left New York, of which 27,075 arrived.
    result = done.status.result
    assert (result["learned_from"], result["held_out"]) == (21_618, 5_457)
    # Better than guessing by the hour alone; short of what only the departure's delay could tell.
    assert all(0.7 < auc < 0.85 for auc in result["auc"].values()), result
    assert list((done.artifacts / "h2o").glob("h2o_127.0.0.1_*.log"))
    assert list((done.artifacts / "spark-events").iterdir())
