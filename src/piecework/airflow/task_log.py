"""The task's log in Airflow: what the program wrote, each line once and in order, and why it waits.

In: one Progress after another. Out: log records of the trigger, which Airflow writes to the task's
log file. A triggerer that is restarted continues where the last one stopped: what was written
before is counted in the log files of this try, because nothing else is written with it in one
step.
"""

from __future__ import annotations

import glob
import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.airflow.assignment import Assignment
from piecework.airflow.client import AirflowClient, TaskState
from piecework.airflow.following import Ending, Progress
from piecework.airflow.threads import soon
from piecework.config import Settings
from piecework.errors import PieceworkError, PlatformError
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptStatus, Runner
from piecework.units import format_duration, round_duration

#: The logger of what the program wrote; its records are what a restarted triggerer counts.
PROGRAM = "piecework.program"
_log = logging.getLogger("piecework.task")
_program = logging.getLogger(PROGRAM)
#: Airflow's log is for reading; all of it is in the attempt's own.
MOST_BYTES = 20 << 20
_CHUNK = 256 << 10
_LONGEST_LINE = 16 << 10
#: Between two reasons that differ in their numbers alone; doubled each time.
_REASON_SECONDS = 30.0
_LONGEST_REASON_SECONDS = 600.0
_WORTH_TELLING = timedelta(seconds=1)
#: After each try to say that an end was read.
_PAUSES = (1.0, 3.0, 0.0)
#: Notes are for those who wonder; each is two questions to Airflow, and two more take it away.
_WORTH_A_NOTE_SECONDS = 60.0


class TaskLog:
    """Writes one try's log. Used by one thread at a time."""

    def __init__(
        self, task_instance: Any, assignment: Assignment, settings: Settings, runner: Runner
    ) -> None:
        self._ti = task_instance
        self._assignment = assignment
        self._settings = settings
        self._runner = runner
        self._skip = count_program_lines(task_instance)
        self._restarted = self._skip > 0
        self._shown: list[str] | None = None
        self._readers: dict[str, _LogReader] = {}
        self._acknowledged: set[str] = set()
        self._left = MOST_BYTES
        self._state: tuple[str, str] = ("", "")
        self._reasons = _Reasons()
        self._deadline = _Deadline(assignment, settings)
        self._noted = ""

    def tell(self, progress: Progress) -> None:
        """Writes what is new since the last look."""
        for line in progress.said:
            _log.info("%s", line)
        for attempt in self._select(progress.attempts):
            self._tell_log(attempt)
            if attempt.state != "ended":
                break  # a later attempt's lines come after all of this one's
        if progress.latest is not None:
            self._tell_state(progress.latest)
            self._deadline.watch(progress)
        for attempt in progress.attempts:
            if attempt.state == "ended" and attempt.attempt not in self._acknowledged:
                self._acknowledged.add(attempt.attempt)
                soon(_acknowledge, self._runner, attempt.attempt)

    def _select(self, attempts: tuple[AttemptStatus, ...]) -> list[AttemptStatus]:
        """The attempts of this try, and one of an earlier try that it found alive."""
        own = self._assignment.owner.try_number
        mine = [found for found in attempts if found.owner is None or found.owner.try_number >= own]
        if self._shown is None and attempts:
            earlier = [found for found in attempts if found not in mine]
            alive = bool(earlier) and earlier[-1].state != "ended"
            adopted = bool(earlier) and (alive or (self._restarted and not mine))
            self._shown = [earlier[-1].attempt] if adopted else []
        shown = self._shown or []
        return [found for found in attempts if found in mine or found.attempt in shown]

    def _tell_log(self, attempt: AttemptStatus) -> None:
        reader = self._readers.get(attempt.attempt)
        if reader is None:
            reader = _LogReader(attempt.attempt, self._runner)
            self._readers[attempt.attempt] = reader
        for line in reader.lines(ended=attempt.state == "ended"):
            if self._skip:
                self._skip -= 1
            elif self._left > 0:
                _program.info("%s", line)
            elif self._left != _TOLD:
                self._left = _TOLD
                _log.warning(
                    "the program wrote more than %d MiB; all of it: piecework logs %s",
                    MOST_BYTES >> 20,
                    self._assignment.run,
                )
            if self._left > 0:
                self._left = max(0, self._left - len(line) - 1)

    def _tell_state(self, attempt: AttemptStatus) -> None:
        what = self._reasons.latest(attempt) if attempt.state == "waiting" else ""
        if attempt.state == "waiting" and self._reasons.waited_seconds >= _WORTH_A_NOTE_SECONDS:
            self._note(f"{_WAITING}{what}")
        state = (f"{attempt.attempt} {attempt.state}", what)
        if state == self._state:
            return
        self._state = state
        if attempt.state == "waiting":
            _log.info("%s%s", _WAITING, what)
        elif attempt.state == "running":
            _log.info("running on %s%s", ", ".join(attempt.machines), _waited(attempt))
            self._note("")
        elif attempt.cause:
            _log.info("%s: %s", attempt.outcome, attempt.cause)
            self._note("")

    def _note(self, note: str) -> None:
        if note != self._noted:
            self._noted = note
            _write_note(self._ti, self._settings, note)


def _acknowledge(runner: Runner, attempt: str) -> None:
    """So that its machine can go; where that fails the keeper hears of it from Airflow, later."""
    for pause in _PAUSES:
        try:
            runner.acknowledge(attempt)
        except PieceworkError as error:
            _log.debug("that %s was read could not be said: %s", attempt, error)
            time.sleep(pause)
        else:
            return


class _Reasons:
    """Why an attempt waits, without telling every step: numbers in a reason change all the time.

    "3 runs are before it" becomes "2 runs are before it" for everybody whenever one starts; told at
    once to thousands of tasks, each with a note, that would be the platform's main work.
    """

    def __init__(self) -> None:
        self._attempt = ""
        self._reason = ""
        self._next_at = 0.0
        self._pause_seconds = _REASON_SECONDS
        self._since = time.monotonic()

    @property
    def waited_seconds(self) -> float:
        """How long the attempt is seen to wait."""
        return time.monotonic() - self._since

    def latest(self, attempt: AttemptStatus) -> str:
        """The reason that is to be told now: the newest, or the one that was told last."""
        reason = (attempt.reason or "it is queued").removeprefix("waits for a machine: ")
        now = time.monotonic()
        if attempt.attempt != self._attempt:
            self._since = now
        if attempt.attempt != self._attempt or _shape(reason) != _shape(self._reason):
            self._attempt, self._reason, self._pause_seconds = (
                attempt.attempt,
                reason,
                _REASON_SECONDS,
            )
            self._next_at = now + self._pause_seconds
        elif reason != self._reason and now >= self._next_at:
            self._reason = reason
            self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_REASON_SECONDS)
            self._next_at = now + self._pause_seconds
        return self._reason


def _shape(reason: str) -> str:
    return re.sub(r"\d+", "#", reason)


def _waited(attempt: AttemptStatus) -> str:
    """How long it waited for its machine; nothing where that was no time."""
    if attempt.queued_at is None or attempt.started_at is None:
        return ""
    waited = attempt.started_at - attempt.queued_at
    return f" after waiting for {round_duration(waited)}" if waited >= _WORTH_TELLING else ""


def write_failure(task_instance: Any, settings: Settings, ending: Ending) -> None:
    """Shows why a task failed where Airflow shows notes: its log may be far away."""
    _write_note(task_instance, settings, f"{ending.outcome}: {ending.cause}")


def _write_note(ti: Any, settings: Settings, note: str) -> None:
    """Notes are a service: a note of the user's is left alone, and no answer is no failure."""
    index = ti.map_index if ti.map_index is not None else -1
    try:
        client = AirflowClient.from_settings(settings)
        client.pauses = ()
        found: TaskState | None = client.task(ti.dag_id, ti.run_id, ti.task_id, index)
        if found is None or found.instance != str(ti.id):
            return
        if found.note and not found.note.startswith(_OURS):
            return
        client.write_note(ti.dag_id, ti.run_id, ti.task_id, index, note[:1000])
    except PlatformError as error:
        _log.debug("the note was not written: %s", error)


_WAITING = "waiting for a machine: "
#: Begins the notes that piecework writes, and may write over.
_OURS = (_WAITING, *(f"{outcome}: " for outcome in Outcome))
#: Stands for "no bytes are left, and that was told".
_TOLD = -1


class _LogReader:
    """An attempt's log as lines; a line is given out when it has ended."""

    def __init__(self, attempt: str, runner: Runner) -> None:
        self._attempt = attempt
        self._runner = runner
        self._offset = 0
        self._rest = b""

    def lines(self, *, ended: bool) -> Iterator[str]:
        while chunk := self._runner.read_log(self._attempt, self._offset, _CHUNK):
            self._offset += len(chunk)
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for line in whole:
                yield _decode(line)
            if len(self._rest) > _LONGEST_LINE:
                yield _decode(self._rest)
                self._rest = b""
        if ended and self._rest:
            yield _decode(self._rest)
            self._rest = b""


class _Deadline:
    """Warns once when the deadline comes near and once when it has passed."""

    def __init__(self, assignment: Assignment, settings: Settings) -> None:
        self._allowed = assignment.job.deadline or settings.deadline
        self._action = assignment.job.on_deadline
        self._told = 0

    def watch(self, progress: Progress, now: datetime | None = None) -> None:
        queued = next((found.queued_at for found in progress.attempts if found.queued_at), None)
        if queued is None or progress.ending is not None:
            return
        waited = (now or clock.now()) - queued
        if waited >= self._allowed and self._told < _PASSED:
            self._told = _PASSED
            after = "the run is cancelled" if self._action == "cancel" else "the run goes on"
            _log.warning(
                "the deadline of %s after being queued has passed; %s",
                format_duration(self._allowed),
                after,
            )
        elif waited >= self._allowed * 0.8 and self._told < _NEAR:
            self._told = _NEAR
            _log.warning(
                "80%% of the deadline of %s is used up, and the run is not over",
                format_duration(self._allowed),
            )


_NEAR, _PASSED = 1, 2


def count_program_lines(task_instance: Any) -> int:
    """How many lines of the program this try's log files hold, whichever triggerer wrote them."""
    return sum(_count(path) for path in _log_files(task_instance))


def _log_files(task_instance: Any) -> list[Path]:
    from airflow.configuration import conf
    from airflow.utils.helpers import log_filename_template_renderer

    name = log_filename_template_renderer()(ti=task_instance, try_number=task_instance.try_number)
    folder = conf.get_mandatory_value("logging", "base_log_folder")
    first = Path(folder) / name
    return sorted(first.parent.glob(f"{glob.escape(first.name)}*"))


def _count(path: Path) -> int:
    count = 0
    try:
        with path.open("rb") as stream:
            for line in stream:
                if PROGRAM.encode() in line:
                    try:
                        count += json.loads(line).get("logger") == PROGRAM
                    except ValueError:
                        continue  # the triggerer died within this line
    except OSError:
        return 0
    return count


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode(errors="replace")
