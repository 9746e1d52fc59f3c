"""The client of Airflow's API, against answers as Airflow gives them."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest

from piecework.airflow.client import AirflowClient
from piecework.airflow.configuration import PlatformFolder
from piecework.airflow.publication import error_of_content, publish, published_content
from piecework.airflow.rest import RefusedError
from piecework.config import load
from piecework.errors import PlatformError


class Wire(urllib.request.BaseHandler):
    """Answers instead of a network: by method and path, one answer after the other."""

    def __init__(self, answers: dict[str, list[tuple[int, Any]]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    def http_open(self, request: urllib.request.Request) -> Any:
        what = f"{request.get_method()} {request.selector}"
        data = request.data
        self.asked.append((what, json.loads(data) if isinstance(data, bytes) else None))
        if what not in self.answers:
            raise urllib.error.URLError("connection refused")
        left = self.answers[what]
        status, body = left.pop(0) if len(left) > 1 else left[0]
        if status == 0:
            raise urllib.error.URLError("connection refused")
        text = io.BytesIO(json.dumps(body).encode())
        headers = HTTPMessage()
        if status >= 400:
            raise urllib.error.HTTPError(request.full_url, status, "no", headers, text)
        answer = urllib.response.addinfourl(text, Message(), request.full_url, status)
        answer.msg = "OK"  # type: ignore[attr-defined]
        return answer


TOKEN = {"POST /auth/token": [(201, {"access_token": "t"})]}
RUN = {
    "dag_run_id": "r",
    "state": "running",
    "queued_at": "2026-11-23T01:02:03Z",
    "start_date": None,
    "end_date": None,
}


def client(answers: dict[str, list[tuple[int, Any]]], url: str) -> tuple[AirflowClient, Wire]:
    wire = Wire({**TOKEN, **answers})
    opener = urllib.request.OpenerDirector()
    opener.add_handler(wire)
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    pauses = (0.0, 0.0)
    return AirflowClient(f"http://{url}", "u", "p", pauses=pauses, opener=opener), wire


def test_a_run_is_read_with_its_times_and_a_missing_one_is_none() -> None:
    airflow, _ = client({"GET /api/v2/dags/d/dagRuns/r": [(200, RUN), (404, {})]}, "read")
    found = airflow.pipeline_run("d", "r")
    assert found is not None
    assert (found.state, found.over, found.started_at) == ("running", False, None)
    assert found.queued_at is not None
    assert airflow.pipeline_run("d", "r") is None


def test_a_named_request_may_be_sent_twice_and_another_is_not_repeated() -> None:
    path = "POST /api/v2/dags/d/dagRuns"
    airflow, wire = client({path: [(0, None), (409, {"detail": "exists"})]}, "twice")
    assert airflow.trigger("d", {"a": 1}, "r") == "r"
    body = {"logical_date": None, "conf": {"a": 1}, "dag_run_id": "r"}
    assert [asked for what, asked in wire.asked if what == path] == [body, body]
    airflow, wire = client({path: [(0, None)]}, "once")
    with pytest.raises(PlatformError, match="does not answer"):
        airflow.trigger("d", {})
    assert [what for what, _ in wire.asked].count(path) == 1


def test_a_token_that_has_expired_is_renewed_once() -> None:
    path = "GET /api/v2/dags/d/dagRuns/r"
    airflow, wire = client({path: [(401, {}), (200, RUN)]}, "expired")
    assert airflow.pipeline_run("d", "r") is not None
    assert [what for what, _ in wire.asked].count("POST /auth/token") == 2
    airflow, wire = client({path: [(401, {"detail": "Invalid"})]}, "locked")
    with pytest.raises(RefusedError, match="Invalid"):
        airflow.pipeline_run("d", "r")


def test_a_refusal_says_what_was_asked_and_is_not_repeated() -> None:
    path = "PATCH /api/v2/dags/d"
    airflow, wire = client({path: [(400, {"detail": "not so"})]}, "refused")
    with pytest.raises(RefusedError, match="400 Bad Request: not so") as caught:
        airflow.unpause("d")
    assert not caught.value.retryable
    assert [what for what, _ in wire.asked].count(path) == 1


def test_no_answer_and_a_broken_server_are_tried_again() -> None:
    path = "GET /api/v2/dags/d"
    airflow, _ = client({path: [(0, None), (503, {}), (200, {"dag_id": "d"})]}, "broken")
    assert airflow.dag("d") == {"dag_id": "d"}


def test_long_lists_are_read_to_their_end() -> None:
    def task(number: int) -> dict[str, Any]:
        return {
            "task_id": f"t{number:03}",
            "map_index": -1,
            "state": "success",
            "try_number": 1,
            "max_tries": 0,
            "id": str(number),
        }

    path = "GET /api/v2/dags/d/dagRuns/r/taskInstances?limit=100&offset="
    first = {"task_instances": [task(n) for n in range(100)], "total_entries": 101}
    second = {"task_instances": [task(100)], "total_entries": 101}
    airflow, _ = client({f"{path}0": [(200, first)], f"{path}100": [(200, second)]}, "long")
    found = airflow.tasks("d", "r")
    assert len(found) == 101
    assert all(task.over for task in found)


def test_an_old_import_error_is_no_answer_to_what_is_published_now(home: Path) -> None:
    code = home / "code"
    code.mkdir(parents=True)
    (code / "a.py").touch()
    (code / "p.yaml").write_text("job: p\npython: a.py\n")
    settings = load()
    publish(code / "p.yaml", settings)
    copy = PlatformFolder(home).published / "p.yaml"
    os.utime(copy, (0, 0))
    content = published_content("p", settings)

    def answer(text: str, at: str) -> tuple[int, Any]:
        error = {"filename": "p.yaml", "stack_trace": text, "timestamp": at}
        return 200, {"import_errors": [error], "total_entries": 1}

    then, later = "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    errors = "GET /api/v2/importErrors?limit=100&offset=0"
    airflow, wire = client(
        {
            "GET /api/v2/dags/p": [(404, {})],
            errors: [
                answer(error_of_content("of another file", "0"), later),
                answer(error_of_content("from before", content), then),
                answer(error_of_content("wrong now", content), later),
            ],
        },
        "old-errors",
    )
    airflow.settings = settings
    with pytest.raises(RefusedError, match="wrong now"):
        airflow.wait_for_dag("p")
    assert [what for what, _ in wire.asked].count(errors) == 3
    assert copy.stat().st_mtime > 0  # Airflow was made to read it again


def test_who_asks_without_a_name_is_told_how_to_give_one() -> None:
    with pytest.raises(RefusedError, match="PIECEWORK_AIRFLOW_TOKEN"):
        AirflowClient("http://nobody").dag("d")
