"""What a user means by the name of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from piecework.cli.finding import find_one
from piecework.errors import InputError
from piecework.ledger.store import Ledger, open_ledger
from tests.unit.ledger.histories import attempt_life


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A job that has its pipeline's name, as one that was written alone has, and another one."""
    with open_ledger("sqlite://") as opened:
        for number, name in enumerate(("burn.burn.aa.1", "burn.burn.ab.1", "etl.load.ba.1")):
            opened.append(attempt_life(name, 100 * number, 100 * number, 100 * number + 50))
        yield opened


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("burn", "burn.burn.ab"),
        ("burn.burn", "burn.burn.ab"),
        ("burn.burn.aa", "burn.burn.aa"),
        ("load", "etl.load.ba"),
        ("etl", "etl.load.ba"),
    ],
)
def test_a_jobs_name_is_its_newest_run_though_several_begin_with_it(
    ledger: Ledger, name: str, run: str
) -> None:
    assert find_one(ledger, name).run == run


def test_the_beginning_of_several_runs_is_none(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="several runs"):
        find_one(ledger, "bur")
