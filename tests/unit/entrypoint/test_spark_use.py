"""Spark's event log: what its slots did, also where the log is broken, cut off, or too long."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.entrypoint.spark_use import LONGEST_LINE, MOST_REMEMBERED, read_use

Event = dict[str, Any]
START = 1_795_534_432_000


def event(name: str, **fields: Any) -> Event:
    return {"Event": f"SparkListener{name}", **{k.replace("_", " "): v for k, v in fields.items()}}


def task(number: int, stage: int, start: float, end: float, **metrics: float) -> list[Event]:
    """A task's two events; times are seconds after the application's start."""
    info = {"Task ID": number, "Launch Time": START + start * 1000, "Finish Time": 0}
    ended = {**info, "Finish Time": START + end * 1000, "Failed": False}
    return [
        event("TaskStart", Stage_ID=stage, Task_Info=info),
        event("TaskEnd", Stage_ID=stage, Task_Info=ended, Task_Metrics=metrics),
    ]


def job(number: int, at: float, *stages: tuple[int, list[int]]) -> Event:
    infos = [{"Stage ID": stage, "Parent IDs": parents} for stage, parents in stages]
    return event("JobStart", Job_ID=number, Submission_Time=START + at * 1000, Stage_Infos=infos)


def job_end(number: int, at: float) -> Event:
    return event("JobEnd", Job_ID=number, Completion_Time=START + at * 1000)


def executor(name: str, at: float, cores: int = 2) -> Event:
    info = {"Total Cores": cores}
    return event("ExecutorAdded", Timestamp=START + at * 1000, Executor_ID=name, Executor_Info=info)


BEGIN = event("ApplicationStart", Timestamp=START)


def end(at: float) -> Event:
    return event("ApplicationEnd", Timestamp=START + at * 1000)


#: Two slots for 20 s. 4 s of the driver; a stage of 4 s and 2 s; 3 s of the driver; a stage of 3 s,
#: whose child takes 1 s; 5 s of the driver.
LOG = [
    event("LogStart", Spark_Version="4.2.1"),
    BEGIN,
    executor("driver", 0),
    job(0, 4, (0, [])),
    *task(0, 0, 4, 6, **{"Executor CPU Time": 1.5e9, "JVM GC Time": 250}),
    *task(1, 0, 4, 8, **{"Executor CPU Time": 2.5e9, "Disk Bytes Spilled": 1000}),
    job_end(0, 8),
    job(1, 11, (1, []), (2, [1])),
    *task(2, 1, 11, 14),
    *task(3, 2, 14, 15),
    job_end(1, 15),
    end(20),
]


def write(folder: Path, log: list[Event], name: str = "app-1") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in log)
    (folder / name).write_text(text)
    return folder


def read(folder: Path, seconds: float = 10) -> dict[str, float]:
    found = read_use([folder], seconds)
    assert found is not None
    return found


def test_slots_are_busy_idle_or_wait_while_only_the_driver_works(tmp_path: Path) -> None:
    found = read(write(tmp_path / "log", LOG))
    assert found == {
        "wall_seconds": 20,
        "driver_seconds": 12,
        "busy_seconds": 10,
        "idle_seconds": 30,
        "critical_seconds": 8,
        "slots": 2,
        "peak_slots": 1,
        "executors": 1,
        "tasks": 4,
        "failed_tasks": 0,
        "cpu_seconds": 4,
        "gc_seconds": 0.25,
        "spilled_bytes": 1000,
    }


def test_what_is_told_fits_into_a_pods_last_message(tmp_path: Path) -> None:
    huge = [*LOG]
    memory = dict.fromkeys(
        ("JVMHeapMemory", "ProcessTreeJVMRSSMemory", "ProcessTreePythonRSSMemory"), 2**40
    )
    huge.insert(3, event("StageExecutorMetrics", Executor_Metrics=memory))
    huge += [event("JobEnd", Job_ID=7, Completion_Time=START + 1e12)]
    found = read(write(tmp_path / "log", huge))
    assert (found["heap_bytes"], found["jvm_bytes"], found["python_bytes"]) == (2**40,) * 3
    assert len(json.dumps(found, separators=(",", ":"))) < 500


def test_executors_that_come_and_go_have_slots_only_while_they_are_there(tmp_path: Path) -> None:
    gone = event("ExecutorRemoved", Timestamp=START + 10_000, Executor_ID="2")
    log = [BEGIN, executor("1", 0, 4), executor("2", 2, 4), *task(0, 0, 3, 9), gone, end(20)]
    found = read(write(tmp_path / "log", log))
    assert found["slots"] == 8
    assert found["busy_seconds"] + found["idle_seconds"] == 4 * 20 + 4 * 8


def test_a_task_that_needs_two_cores_takes_one_slot_of_two_cores(tmp_path: Path) -> None:
    properties = {"spark.task.cpus": "2", "spark.master": "spark://127.0.0.1:7077"}
    environment = event("EnvironmentUpdate", Spark_Properties=properties)
    found = read(write(tmp_path / "log", [BEGIN, environment, executor("1", 0, 8), end(10)]))
    assert (found["slots"], found["idle_seconds"]) == (4, 40)
    assert "elsewhere" not in found


def test_executors_that_kubernetes_made_had_pods_of_their_own(tmp_path: Path) -> None:
    properties = {"spark.master": "k8s://https://kubernetes.default.svc"}
    environment = event("EnvironmentUpdate", Spark_Properties=properties)
    found = read(write(tmp_path / "log", [BEGIN, environment, executor("1", 0), end(10)]))
    assert (found["executors"], found["elsewhere"]) == (1, 1)


def test_jobs_that_overlap_do_not_wait_for_each_other(tmp_path: Path) -> None:
    log = [
        BEGIN,
        executor("1", 0, 4),
        job(0, 0, (0, [])),
        job(1, 0, (1, [])),
        *task(0, 0, 0, 5),
        job_end(0, 5),
        job(2, 5, (2, [])),
        *task(1, 1, 0, 6),
        job_end(1, 6),
        *task(2, 2, 5, 8),
        job_end(2, 8),
        end(8),
    ]
    assert read(write(tmp_path / "log", log))["critical_seconds"] == 8  # job 0, then job 2


def test_a_log_that_breaks_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", LOG[:-3], "app-1.inprogress")
    file = folder / "app-1.inprogress"
    file.write_bytes(file.read_bytes()[:-40])
    found = read(folder)
    assert (found["wall_seconds"], found["tasks"]) == (14, 3)


def test_a_rolling_log_is_read_in_order(tmp_path: Path) -> None:
    rolling = tmp_path / "log" / "eventlog_v2_app-1"
    rolling.mkdir(parents=True)
    (rolling / "appstatus_app-1").write_text("")
    write(rolling, LOG[:6], "events_2_app-1")
    write(rolling, LOG[6:], "events_10_app-1")
    assert read(tmp_path / "log")["busy_seconds"] == 10


def test_several_applications_add_up(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", LOG)
    write(folder, LOG, "app-2")
    found = read(folder)
    assert (found["wall_seconds"], found["busy_seconds"], found["slots"]) == (40, 20, 2)


def test_without_a_log_nothing_is_told(tmp_path: Path) -> None:
    assert read_use([tmp_path / "none"], 1) is None
    (tmp_path / "log").mkdir()
    assert read_use([tmp_path / "log"], 1) is None
    (tmp_path / "log" / "app-1.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    (tmp_path / "log" / "app-2").write_bytes(b"not\0json\n{}\n")
    assert read_use([tmp_path / "log"], 1) is None


def test_reading_ends_when_its_time_is_over_and_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", LOG)
    write(folder, [BEGIN, *(task(n, 0, 0, 1)[1] for n in range(20_000)), end(1)], "app-2")
    found = read(folder, seconds=0.02)
    assert found["partial"] == 1
    assert found["tasks"] < 20_000


def test_a_line_without_an_end_is_left_out_and_costs_no_memory(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", LOG)
    with (folder / "app-1").open("r+b") as stream:
        text = stream.read()
        stream.seek(0)
        stream.write(b'{"Event":"SparkListenerTaskEnd","' + b"x" * (LONGEST_LINE * 2) + b'"}\n')
        stream.write(text)
    assert read(folder)["busy_seconds"] == 10


_FIELDS = (
    b"",
    b',"Task Info":{"Launch Time":NaN}',
    b',"Stage ID":1,"Task Info":{"Task ID":9,"Launch Time":1e400,"Finish Time":-4}',
    b',"Timestamp":true,"Executor ID":[],"Executor Info":4',
    b',"Job ID":{},"Stage Infos":[[]]',
    b',"Stage Info":null',
)
_NAMES = (b"TaskEnd", b"TaskStart", b"ExecutorAdded", b"JobStart", b"JobEnd", b"StageCompleted")
_rotten = st.one_of(
    st.builds(
        lambda name, fields: b'{"Event":"SparkListener' + name + b'"' + fields + b"}",
        st.sampled_from(_NAMES),
        st.sampled_from(_FIELDS),
    ),
    st.just(b'{"Event":"SparkListenerTaskEnd","":' + b"[" * 100_000),
    st.binary(max_size=80).map(lambda data: data.replace(b"\n", b"")),
)


@given(st.lists(st.tuples(st.integers(0, len(LOG)), _rotten), max_size=12))
@settings(max_examples=60, deadline=None)
def test_rotten_lines_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, rotten: list[tuple[int, bytes]]
) -> None:
    lines = [json.dumps(each, separators=(",", ":")).encode() for each in LOG]
    for place, line in rotten:
        lines.insert(place, line)
    folder = tmp_path_factory.mktemp("log")
    (folder / "app-1").write_bytes(b"\n".join(lines) + b"\n")
    assert read(folder)["busy_seconds"] == 10


_span = st.tuples(st.integers(0, 1000), st.integers(0, 200))


@given(st.lists(_span, max_size=60), st.integers(0, 300), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_numbers_fit_together_whatever_ran(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], rest: int, stages: int
) -> None:
    spans = sorted(spans, key=lambda span: span[0] + span[1])
    log = [BEGIN, job(0, 0, *((n, [n - 1] if n else []) for n in range(stages)))]
    for number, (start, span) in enumerate(spans):
        log += task(number, number % stages, start, start + span)
    last = max((start + span for start, span in spans), default=0) + rest
    log += [job_end(0, last), end(last)]
    found = read(write(tmp_path_factory.mktemp("all") / "log", log))
    ran = {second for start, span in spans for second in range(start, start + span)}
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert found["wall_seconds"] == last
    assert found["driver_seconds"] == last - len(ran)
    assert found["busy_seconds"] == sum(span for _, span in spans)
    assert found["critical_seconds"] <= len(ran)


def test_many_tasks_with_gaps_are_counted_exactly_in_little_memory(
    tmp_path: Path,
) -> None:
    count = MOST_REMEMBERED * 5
    shuffled = random.Random(7)
    ends = []
    for number in range(count):
        begin = number * 2 + shuffled.random() / 2
        ends.append(task(number, 0, begin, number * 2 + 1)[1])
    found = read(write(tmp_path / "log", [BEGIN, *ends, end(count * 2)]), seconds=60)
    assert found["tasks"] == count
    assert found["driver_seconds"] == pytest.approx(count * 2 - found["busy_seconds"], abs=1)
