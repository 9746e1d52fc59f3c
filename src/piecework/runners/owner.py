"""Whether an attempt's owner, a task instance of Airflow, is over; asked by the supervisor.

Enters: who the owner is, and the platform's address and key in `$PIECEWORK_HOME/airflow/api.json`
(readable by its user only). Leaves: a sentence once the owner is over, and never one for any other
reason: an Airflow that is restarted, away or broken says nothing about its tasks.
Standard library only: supervisors do not import Airflow.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

#: Time between two questions, in seconds.
INTERVAL_SECONDS = 5.0
#: How long one question may take.
TIMEOUT_SECONDS = 10.0
#: States of a task instance in which nobody waits for its job any more.
OVER = ("failed", "success", "skipped", "removed", "upstream_failed")


class OwnerWatch(threading.Thread):
    """Asks now and then; `over` says why the owner is over, once it is."""

    def __init__(self, owner: Mapping[str, Any], home: Path) -> None:
        super().__init__(daemon=True)
        self.owner = owner
        self.file = home / "airflow" / "api.json"
        self.over: str | None = None
        self._token: str | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until the owner is over, or the process ends."""
        while not self._stopping.wait(INTERVAL_SECONDS):
            try:
                self.over = self._ask()
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                continue  # unreachable is not over
            if self.over is not None:
                return

    def _ask(self) -> str | None:
        access = json.loads(self.file.read_text())
        status, task = self._get(access)
        if status == 401:
            self._token = None
            status, task = self._get(access)
        return judge_owner(self.owner, status, task)

    def _get(self, access: Mapping[str, Any]) -> tuple[int, Any]:
        if self._token is None:
            self._token = fetch_token(access)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        return request(access["url"], "GET", task_path(self.owner), headers)


def judge_owner(owner: Mapping[str, Any], status: int, task: Any) -> str | None:
    """Why the owner is over, from what Airflow answered; None where it is not.

    `status` is the answer's HTTP status, `task` its JSON.
    """
    name = f"{owner['dag_id']}.{owner['task_id']}"
    if status == 404 and isinstance(task, Mapping) and "not found" in str(task).lower():
        return f"the Airflow task {name} of run {owner['dag_run_id']} is gone"
    if status != 200 or not isinstance(task, Mapping):
        return None
    if task.get("max_tries", 0) > owner.get("max_tries", 0):
        return f"the Airflow task {name} was cleared"
    state = task.get("state")
    if state in OVER:
        return f"the Airflow task {name} is {state}"
    return None


def task_path(owner: Mapping[str, Any]) -> str:
    """The path of the owner's task instance in Airflow's REST API."""
    dag, run, task = (
        quote(str(owner[key]), safe="") for key in ("dag_id", "dag_run_id", "task_id")
    )
    path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}"
    index = owner.get("map_index", -1)
    return path if index < 0 else f"{path}/{index}"


def fetch_token(access: Mapping[str, Any]) -> str:
    """A token for the address and key in `access`. Raises ValueError where there is none."""
    if access.get("username"):
        body = {"username": access["username"], "password": access["password"]}
        headers = {"Content-Type": "application/json"}
        status, answer = request(access["url"], "POST", "/auth/token", headers, json.dumps(body))
    else:
        status, answer = request(access["url"], "GET", "/auth/token", {})
    if status not in (200, 201):
        raise ValueError(f"no token: HTTP {status}")
    return str(answer["access_token"])


def request(
    url: str, method: str, path: str, headers: Mapping[str, str], body: str | None = None
) -> tuple[int, Any]:
    """One request: the answer's status and JSON, None where it is none."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "localhost", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, parts.path.rstrip("/") + path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, None
    finally:
        connection.close()
