"""When an owner is over, from what Airflow answers about it."""

from __future__ import annotations

from typing import Any

import pytest

from piecework.runners.owner import judge_owner

OWNER = {
    "kind": "airflow",
    "dag_id": "flights",
    "dag_run_id": "monday",
    "task_id": "delays",
    "map_index": -1,
    "max_tries": 1,
}
GONE = {"detail": "The Task Instance with dag_id: `flights` was not found"}


@pytest.mark.parametrize(
    ("status", "answer", "part"),
    [
        (200, {"state": "failed", "max_tries": 1}, "is failed"),
        (200, {"state": "removed", "max_tries": 1}, "is removed"),
        (200, {"state": "success", "max_tries": 1}, "is success"),
        (200, {"state": "skipped", "max_tries": 1}, "is skipped"),
        (200, {"state": "running", "max_tries": 3}, "was cleared"),
        (404, GONE, "is gone"),
    ],
)
def test_an_owner_that_is_over_is_named(status: int, answer: Any, part: str) -> None:
    found = judge_owner(OWNER, status, answer)
    assert found is not None
    assert part in found
    assert "flights.delays" in found


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"state": "running", "max_tries": 1}),
        (200, {"state": "deferred", "max_tries": 1}),
        (200, {"state": "up_for_retry", "max_tries": 1}),
        (200, {"state": None, "max_tries": 1}),
        (200, None),
        (401, {"detail": "not authenticated"}),
        (404, None),
        (404, "<html>a proxy that knows no Airflow</html>"),
        (500, {"detail": "not found: the database"}),
        (503, None),
    ],
)
def test_silence_and_trouble_never_end_a_job(status: int, answer: Any) -> None:
    assert judge_owner(OWNER, status, answer) is None
