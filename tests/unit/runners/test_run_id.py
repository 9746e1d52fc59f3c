"""The names of runs: for people, for folders, and different for different runs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.config import Settings
from piecework.errors import RunnerError
from piecework.runners.runner import run_id, runner_for

TEXT = st.one_of(st.none(), st.text(max_size=20))


@given(TEXT, st.text(min_size=1, max_size=20), TEXT, st.integers(-1, 5))
def test_a_name_is_safe_as_a_folder_whatever_it_is_made_from(
    pipeline: str | None, job: str, pipeline_run: str | None, map_index: int
) -> None:
    name = run_id(pipeline, job, pipeline_run, map_index)
    assert re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", name)
    assert name == run_id(pipeline, job, pipeline_run, map_index)


def test_runs_that_differ_have_names_that_differ() -> None:
    names = {
        run_id("flights", "delays", "monday"),
        run_id("flights", "delays", "tuesday"),
        run_id("flights", "delays", "monday", 0),
        run_id("flights", "clean", "monday"),
        run_id(None, "delays", "monday"),
    }
    assert len(names) == 5
    assert all(name.startswith(("flights.", "delays.")) for name in names)


def test_a_provider_without_a_runner_is_named(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(RunnerError, match="'moon'"):
        runner_for("moon", Settings(home=Path("/nowhere"), ledger_url="sqlite://"))
