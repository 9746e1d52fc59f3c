"""Whose owner is over: asks Airflow about the task instances that asked for attempts.

Enters: the owners of attempts, and Airflow's address with its key. Leaves: a sentence for each
owner that is over, and never one for any other reason: an Airflow that is restarted, away or
broken says nothing about its tasks. One question is asked for all tasks of one DAG run, and mostly
for those alone that have changed: to list hundreds of tasks is work for Airflow.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from piecework import clock
from piecework.clock import Clock
from piecework.keeper.cluster.asking import Asking
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.runners import owner as owner_facts

logger = logging.getLogger(__name__)

#: Between two rounds of questions, in seconds.
INTERVAL_SECONDS = 5.0
_PAGE = 100
#: How often all tasks of a DAG run are listed; and by how much Airflow's clock may differ.
_ALL_EACH = timedelta(seconds=60)
_CLOCKS_DIFFER = timedelta(seconds=15)
#: What an attempt's owner is: DAG, DAG run; and a task of it: its id and map index.
DagRun = tuple[str, str]
Task = tuple[str, int]
#: Answers a GET of a path with a status and JSON. Raises OSError, ValueError, HTTPException.
Ask = Callable[[str], tuple[int, Any]]


@dataclass(slots=True)
class _Known:
    """The tasks of a DAG run, when all were listed, and when it was asked last what has changed."""

    tasks: dict[Task, Any]
    listed_at: datetime
    asked_at: datetime


class Owners(Asking):
    """Asks about the owners of the attempts in the last snapshot, again and again."""

    def __init__(
        self, ask: Ask, interval_seconds: float = INTERVAL_SECONDS, now: Clock = clock.now
    ) -> None:
        super().__init__("owners", interval_seconds)
        #: Why the owner is over, by attempt. Replaced, never changed.
        self.over: Mapping[str, str] = {}
        self._ask = ask
        self._now = now
        self._known: dict[DagRun, _Known] = {}
        self._asked_for: Mapping[str, Mapping[str, Any]] = {}

    def look(self, snapshot: Snapshot) -> None:
        """Takes the owners of what is there: live attempts, and ended ones nobody has read."""
        self._asked_for = {
            attempt.id: attempt.request.owner
            for attempt in snapshot.attempts.values()
            if attempt.request is not None and attempt.request.owner.get("kind") == "airflow"
        }

    def round(self) -> None:
        """One round of questions."""
        asked_for = self._asked_for
        over = {attempt: why for attempt, why in self.over.items() if attempt in asked_for}
        runs: dict[DagRun, dict[str, Mapping[str, Any]]] = {}
        for attempt, owner in asked_for.items():
            if attempt not in over and isinstance(owner.get("dag_id"), str):
                key = (str(owner["dag_id"]), str(owner.get("dag_run_id")))
                runs.setdefault(key, {})[attempt] = owner
        self._known = {key: known for key, known in self._known.items() if key in runs}
        for key, owners in runs.items():
            if self._stopping.is_set():
                return
            try:
                over |= self._judge(key, owners)
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                logger.debug("Airflow does not tell about %s: %s", key, error)
        self.over = over

    def _judge(self, key: DagRun, owners: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """What is over of one DAG run; a single task is asked about alone where the list fails."""
        status, tasks = self._list(key)
        over: dict[str, str] = {}
        for attempt, owner in owners.items():
            task = tasks.get((str(owner.get("task_id")), int(owner.get("map_index", -1))))
            if task is not None:
                why = owner_facts.judge_owner(owner, 200, task)
            elif status == 200 or status == 404:
                # Not among those of its run: asked for by name, Airflow says whether it is gone.
                why = owner_facts.judge_owner(owner, *self._ask(owner_facts.task_path(owner)))
            else:
                why = None
            if why is not None:
                over[attempt] = why
        return over

    def _list(self, key: DagRun) -> tuple[int, dict[Task, Any]]:
        """The status of the answer, and the run's tasks as far as that is 200."""
        now, known = self._now(), self._known.pop(key, None)
        if known is None or now - known.listed_at >= _ALL_EACH:
            status, tasks = self._read(key, "")
            known = _Known(tasks, now, now)
        else:
            since = clock.to_text(known.asked_at - _CLOCKS_DIFFER)
            status, tasks = self._read(key, f"&updated_at_gte={quote(since)}")
            known = _Known(known.tasks | tasks, known.listed_at, now)
        if status != 200:
            return status, {}
        self._known[key] = known
        return status, known.tasks

    def _read(self, key: DagRun, which: str) -> tuple[int, dict[Task, Any]]:
        dag, run = (quote(part, safe="") for part in key)
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances"
        found: dict[Task, Any] = {}
        while True:
            status, answer = self._ask(f"{path}?limit={_PAGE}&offset={len(found)}{which}")
            if status != 200 or not isinstance(answer, dict):
                return status, found
            page = answer.get("task_instances", [])
            for task in page:
                told = {"state": task.get("state"), "max_tries": task.get("max_tries", 0)}
                found[task["task_id"], task.get("map_index", -1)] = told
            if len(page) < _PAGE:
                return status, found


def ask_airflow(home: Path, url: str | None = None) -> Ask:
    """Asks the Airflow of these settings, with the key in `home`/airflow/api.json.

    `url` stands instead of the address in that file.
    """
    tokens: dict[str, str] = {}

    def ask(path: str) -> tuple[int, Any]:
        access = json.loads((home / "airflow" / "api.json").read_text())
        if url is not None:
            access = {**access, "url": url}
        for _ in range(2):
            if "token" not in tokens:
                tokens["token"] = owner_facts.fetch_token(access)
            headers = {"Authorization": f"Bearer {tokens['token']}", "Accept": "application/json"}
            status, answer = owner_facts.request(access["url"], "GET", path, headers)
            if status != 401:
                return status, answer
            tokens.clear()
        return 401, None

    return ask
