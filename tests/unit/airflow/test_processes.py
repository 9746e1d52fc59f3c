"""Who a process is: never another one with the same id."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from piecework.airflow.processes import Identity, identify, members


def own() -> Identity:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_a_living_process_is_itself_also_after_a_round_trip() -> None:
    assert own().alive
    assert Identity.from_json(own().to_json()) == own()


def test_another_start_or_another_boot_is_another_process() -> None:
    assert not replace(own(), start=own().start + 1).alive
    assert not replace(own(), boot="another").alive


def test_nobody_is_found_in_a_session_whose_leader_is_somebody_else(tmp_path: Path) -> None:
    assert members(replace(own(), start=own().start + 1), tmp_path) == []
    assert members(replace(own(), boot="another"), tmp_path) == []


def test_processes_of_a_session_that_are_not_the_platforms_are_left_alone(tmp_path: Path) -> None:
    session = identify(os.getsid(0))
    if session is not None:
        assert set(members(session, tmp_path)) <= {session.pid}
