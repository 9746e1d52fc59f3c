"""What Spark did with its slots, from its event log: busy, idle, and only the driver at work.

Enters: folders with event logs, a file or (where they roll) a folder for each application, not
compressed. Leaves: a few numbers, small enough for a pod's last message:

    wall_seconds      the applications' time, from the first sign to the last
    driver_seconds    of it, no task ran anywhere: the driver worked, or waited
    busy_seconds      of all slots, with a task in them; idle_seconds: without one
    critical_seconds  the longest chain of tasks that had to wait for each other: no number of slots
                      makes it shorter
    slots             tasks that could run at the same time, at most; peak_slots: that did
    executors         at most at the same time; elsewhere: 1 where they had pods of their own
    tasks, failed_tasks, cpu_seconds (of JVMs alone, without Python's), gc_seconds, spilled_bytes
    heap_bytes, jvm_bytes, python_bytes     the largest of one executor, where Spark told
    partial           1 where the time for reading did not suffice

A log is read line by line and may be of any length; what a line does not say right is left out, and
a log that breaks off counts as far as it goes. Memory stays below some megabytes. Standard library
only.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: No line that matters is longer; those of jobs with thousands of stages have some megabytes.
LONGEST_LINE = 8 << 20
#: So many gaps between tasks, and ends of jobs, are remembered for what is told out of order.
MOST_REMEMBERED = 4096
#: Lines between two looks at the clock.
_LOOK_LINES = 256
_COMPRESSED = (".zstd", ".lz4", ".lzf", ".snappy")
_PREFIX = b'{"Event":"SparkListener'
#: Where an event's name begins.
_NAME = len('{"Event":"')
#: Name in the log -> name of ours, of one executor's peaks.
_MEMORY = {
    "JVMHeapMemory": "heap_bytes",
    "ProcessTreeJVMRSSMemory": "jvm_bytes",
    "ProcessTreePythonRSSMemory": "python_bytes",
}
Numbers = dict[str, float]


def read_use(folders: Iterable[Path], seconds: float) -> Numbers | None:
    """What all applications in these folders did; None where there was none.

    Takes at most about so many seconds.
    """
    until = time.monotonic() + seconds
    told = []
    for folder in folders:
        for files in _applications(folder):
            application = Application()
            complete = all(_read(file, application, until) for file in files)
            found = application.use()
            if found is not None:
                told.append(found | ({} if complete else {"partial": 1}))
    return _together(told) if told else None


def _applications(folder: Path) -> list[list[Path]]:
    """The files of each application, in the order in which they were written."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    found = [
        sorted(entry.glob("events_*"), key=_roll) if entry.is_dir() else [entry]
        for entry in entries
        if not entry.name.startswith(".")
    ]
    return [files for files in found if files]


def _roll(file: Path) -> tuple[int, str]:
    number = file.name.split("_")[1]
    return int(number) if number.isdigit() else 0, file.name


def _read(file: Path, application: Application, until: float) -> bool:
    """Tells the application every line; False where the time was over before."""
    if file.name.removesuffix(".inprogress").endswith(_COMPRESSED):
        return True
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(_lines(stream)):
                if number % _LOOK_LINES == 0 and time.monotonic() > until:
                    return False
                if line.startswith(_PREFIX):
                    application.take(line)
    except OSError:
        return True  # what was read counts
    return True


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines, without those that are too long; every piece of these counts as an empty one."""
    whole = True
    while line := stream.readline(LONGEST_LINE):
        ends = line.endswith(b"\n")
        yield line if whole and (ends or len(line) < LONGEST_LINE) else b""
        whole = ends


class Application:
    """One application of Spark; `take` is told every line of its log. Times are milliseconds."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        self.busy = _Union()
        self.chain = _Chain()
        self.cores_a_task = 1.0
        self.elsewhere = False
        self.most_executors = 0
        self.executors: dict[str, tuple[float, float]] = {}
        self.running: dict[float, object] = {}
        self.core_milliseconds = self.cores = self.most_cores = 0.0
        self.peak = 0
        self.sums = dict.fromkeys(("busy", "tasks", "failed", "cpu", "gc", "spilled"), 0.0)
        self.memory: Numbers = {}
        self._of_event = {
            "SparkListenerApplicationStart": self._tick,
            "SparkListenerApplicationEnd": self._tick,
            "SparkListenerEnvironmentUpdate": self._set_up,
            "SparkListenerExecutorAdded": self._add_executor,
            "SparkListenerExecutorRemoved": self._remove_executor,
            "SparkListenerJobStart": self._start_job,
            "SparkListenerJobEnd": self._end_job,
            "SparkListenerStageCompleted": self._end_stage,
            "SparkListenerStageExecutorMetrics": self._see_memory,
            "SparkListenerTaskStart": self._start_task,
            "SparkListenerTaskEnd": self._end_task,
        }

    def take(self, line: bytes) -> None:
        """One line; what cannot be understood is left out."""
        name = line[_NAME : line.find(b'"', _NAME)].decode("ascii", "replace")
        of_event = self._of_event.get(name)
        if of_event is None:
            return
        try:
            event = json.loads(line)
            of_event(event)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return

    def use(self) -> Numbers | None:
        """The numbers; None where nothing of an application was told."""
        if self.first is None:
            return None
        for name in list(self.executors):
            self._remove(name, self.last)
        wall = self.last - self.first
        ran, sums = min(wall, self.busy.total()), self.sums
        slots = self.most_cores // self.cores_a_task or self.peak
        slot_milliseconds = max(self.core_milliseconds / self.cores_a_task, sums["busy"])
        return {
            "wall_seconds": wall / 1000,
            "driver_seconds": (wall - ran) / 1000,
            "busy_seconds": sums["busy"] / 1000,
            "idle_seconds": (slot_milliseconds - sums["busy"]) / 1000,
            "critical_seconds": min(self.chain.longest(), ran) / 1000,
            "slots": slots,
            # The end of a task is told after the start of the one that got its slot.
            "peak_slots": min(self.peak, slots),
            "executors": self.most_executors,
            "tasks": sums["tasks"],
            "failed_tasks": sums["failed"],
            "cpu_seconds": sums["cpu"] / 1e9,
            "gc_seconds": sums["gc"] / 1000,
            "spilled_bytes": sums["spilled"],
            **({"elsewhere": 1} if self.elsewhere else {}),
            **self.memory,
        }

    def _seen(self, at: float) -> float:
        self.first = at if self.first is None else min(self.first, at)
        self.last = max(self.last, at)
        return at

    def _tick(self, event: dict[str, Any]) -> None:
        self._seen(_number(event["Timestamp"]))

    def _set_up(self, event: dict[str, Any]) -> None:
        cores = float(event["Spark Properties"].get("spark.task.cpus", 1))
        self.cores_a_task = cores if 1 <= cores < 10_000 else 1.0
        self.elsewhere = str(event["Spark Properties"].get("spark.master", "")).startswith("k8s")

    def _add_executor(self, event: dict[str, Any]) -> None:
        at, name = self._seen(_number(event["Timestamp"])), str(event["Executor ID"])
        cores = _number(event["Executor Info"]["Total Cores"])
        self._remove(name, at)
        self.executors[name] = (at, cores)
        self.most_executors = max(self.most_executors, len(self.executors))
        self.cores += cores
        self.most_cores = max(self.most_cores, self.cores)

    def _remove_executor(self, event: dict[str, Any]) -> None:
        self._remove(str(event["Executor ID"]), self._seen(_number(event["Timestamp"])))

    def _remove(self, name: str, at: float) -> None:
        since, cores = self.executors.pop(name, (at, 0.0))
        self.cores -= cores
        self.core_milliseconds += cores * max(0.0, at - since)

    def _start_job(self, event: dict[str, Any]) -> None:
        stages = [
            (int(_number(stage["Stage ID"])), [int(_number(each)) for each in stage["Parent IDs"]])
            for stage in event["Stage Infos"]
        ]
        at = self._seen(_number(event["Submission Time"]))
        self.chain.start_job(_number(event["Job ID"]), at, stages)

    def _end_job(self, event: dict[str, Any]) -> None:
        at = self._seen(_number(event["Completion Time"]))
        self.chain.end_job(_number(event["Job ID"]), at)

    def _end_stage(self, event: dict[str, Any]) -> None:
        """Tasks whose ends were not told must have ended by now."""
        stage = event["Stage Info"]["Stage ID"]
        self.running = {task: of for task, of in self.running.items() if of != stage}

    def _start_task(self, event: dict[str, Any]) -> None:
        self.running[_number(event["Task Info"]["Task ID"])] = event["Stage ID"]
        self.peak = max(self.peak, len(self.running))

    def _end_task(self, event: dict[str, Any]) -> None:
        info = event["Task Info"]
        start, end = _number(info["Launch Time"]), _number(info["Finish Time"])
        self.running.pop(_number(info["Task ID"]), None)
        self.peak = max(self.peak, 1)
        self._seen(start)
        self._seen(end)
        span = max(0.0, end - start)
        self.busy.add(start, max(start, end))
        self.chain.end_task(int(_number(event["Stage ID"])), span)
        self.sums["busy"] += span
        self.sums["tasks"] += 1
        self.sums["failed"] += info.get("Failed") is True
        metrics = event.get("Task Metrics") or {}
        for name, key in (
            ("cpu", "Executor CPU Time"),
            ("cpu", "Executor Deserialize CPU Time"),
            ("gc", "JVM GC Time"),
            ("spilled", "Disk Bytes Spilled"),
        ):
            self.sums[name] += _number(metrics.get(key, 0))
        self._peaks(event.get("Task Executor Metrics") or {})

    def _see_memory(self, event: dict[str, Any]) -> None:
        self._peaks(event["Executor Metrics"])

    def _peaks(self, metrics: dict[str, Any]) -> None:
        for key, name in _MEMORY.items():
            size = _number(metrics.get(key, 0))
            if size:
                self.memory[name] = max(size, self.memory.get(name, 0))


class _Union:
    """The length of the union of intervals that come about in the order of their ends."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, float]] = []
        self.settled = 0.0
        self.settled_until = 0.0

    def add(self, start: float, end: float) -> None:
        start, end = max(start, self.settled_until), max(end, self.settled_until)
        later = []
        while self.intervals and self.intervals[-1][1] >= start:
            last = self.intervals.pop()
            if last[0] > end:
                later.append(last)
            else:
                start, end = min(start, last[0]), max(end, last[1])
        self.intervals.append((start, end))
        self.intervals += reversed(later)
        if len(self.intervals) > MOST_REMEMBERED:
            half = MOST_REMEMBERED // 2
            self.settled_until = self.intervals[half - 1][1]
            self.settled += _length(self.intervals[:half])
            del self.intervals[:half]

    def total(self) -> float:
        return self.settled + _length(self.intervals)


class _Chain:
    """The longest chain of tasks in which each had to wait for the one before.

    Within a job a stage waits for its parents; of two jobs the later one may have waited for the
    earlier one unless they overlapped.
    """

    def __init__(self) -> None:
        self.jobs: dict[float, tuple[float, list[tuple[int, list[int]]]]] = {}
        self.longest_task: dict[int, float] = {}
        self.ends: list[float] = []
        self.chains: list[float] = []

    def start_job(self, job: float, at: float, stages: list[tuple[int, list[int]]]) -> None:
        self.jobs[job] = (at, stages)

    def end_task(self, stage: int, span: float) -> None:
        self.longest_task[stage] = max(span, self.longest_task.get(stage, 0.0))

    def end_job(self, job: float, at: float) -> None:
        if job not in self.jobs:
            return
        since, stages = self.jobs.pop(job)
        paths: dict[int, float] = {}
        for stage, parents in sorted(stages):  # parents were numbered before their children
            before = max((paths.get(parent, 0.0) for parent in parents), default=0.0)
            paths[stage] = before + self.longest_task.pop(stage, 0.0)
        self._append(since, at, max(paths.values(), default=0.0))

    def _append(self, since: float, at: float, weight: float) -> None:
        index = bisect_right(self.ends, since)
        chain = weight + (self.chains[index - 1] if index else 0.0)
        self.ends.append(max([at, *self.ends[-1:]]))
        self.chains.append(max([chain, *self.chains[-1:]]))
        if len(self.ends) > MOST_REMEMBERED:
            del self.ends[: MOST_REMEMBERED // 2], self.chains[: MOST_REMEMBERED // 2]

    def longest(self) -> float:
        """With the stages of jobs whose ends, or starts, were not told: each adds its own."""
        return sum(self.longest_task.values(), max(self.chains, default=0.0))


def _length(intervals: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)


def _number(value: Any) -> float:
    """A number that can be counted with. Raises ValueError or TypeError where it is none."""
    number = float(value)
    if isinstance(value, bool) or not 0 <= number < 2**62:
        raise ValueError(f"{value!r} is no time, size or count")
    return number


def _together(told: list[Numbers]) -> Numbers:
    """Of several applications, one after the other: sums, and the largest of what are peaks."""
    names = list(dict.fromkeys(name for each in told for name in each))
    largest = ("slots", "peak_slots", "executors", "elsewhere", "partial", *_MEMORY.values())
    together: Numbers = {}
    for name in names:
        values = [each[name] for each in told if name in each]
        value = max(values) if name in largest else sum(values)
        together[name] = round(value, 3) if name.endswith("_seconds") else int(value)
    return together
