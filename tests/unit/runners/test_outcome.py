"""From how a process ended to why the attempt did."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.ledger.events import Outcome
from piecework.runners.outcome import Ending, judge

CANCELLED = Ending(Outcome.CANCELLED, "enough")


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "more", "outcome", "cause"),
    [
        (exited(0), {}, Outcome.SUCCESS, "exit code 0"),
        (exited(3), {}, Outcome.ERROR, "exit code 3"),
        (exited(137), {"out_of_memory": "used all"}, Outcome.OUT_OF_MEMORY, "used all"),
        (exited(0), {"out_of_memory": "used all"}, Outcome.SUCCESS, "exit code 0"),
        (exited(0), {"asked": CANCELLED}, Outcome.CANCELLED, "enough"),
        (signal.SIGKILL, {}, Outcome.ERROR, "killed by signal SIGKILL"),
        (signal.SIGKILL, {"out_of_memory": "used all"}, Outcome.OUT_OF_MEMORY, "used all"),
        (None, {}, Outcome.INTERRUPTED, "was killed"),
        (None, {"failed": "there is no file"}, Outcome.ERROR, "there is no file"),
        (64, {}, Outcome.ERROR, "signal SIGRTMAX"),
        (63, {}, Outcome.ERROR, "signal 63"),
    ],
)
def test_every_ending_has_an_outcome_and_a_cause(
    status: int | None, more: dict[str, str], outcome: Outcome, cause: str
) -> None:
    ending = judge(status, **more)  # type: ignore[arg-type] # a table of keyword arguments
    assert ending.outcome is outcome
    assert cause in ending.cause


@given(st.integers(1, 255), st.one_of(st.none(), st.just("used all")))
def test_what_did_not_exit_with_zero_is_never_a_success(number: int, memory: str | None) -> None:
    assert judge(exited(number), out_of_memory=memory).outcome is not Outcome.SUCCESS
    assert judge(number & 0x7F or 9, out_of_memory=memory).outcome is not Outcome.SUCCESS
    assert judge(exited(0), asked=CANCELLED, out_of_memory=memory).outcome is not Outcome.SUCCESS
