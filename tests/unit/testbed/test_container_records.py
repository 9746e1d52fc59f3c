"""What containerd's log says ran, and what is wrong with it."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from piecework.clock import from_text
from tests.cluster.container_records import Ran, find_faults, only_once, read_log

BEGIN = from_text("2026-11-24T12:00:00Z")
LOG = r"""
time="2026-11-24T12:21:39.563162377Z" level=info msg="RunPodSandbox for &PodSandboxMetadata{Name:job-0a1b2c-1,Uid:2cb6ce61-f535,Namespace:work,Attempt:0,} returns sandbox id \"5a0d\""
time="2026-11-24T12:21:44.529840018Z" level=info msg="CreateContainer within sandbox \"5a0d\" for container &ContainerMetadata{Name:job,Attempt:0,}"
time="2026-11-24T12:21:44.544385582Z" level=info msg="CreateContainer within sandbox \"5a0d\" for &ContainerMetadata{Name:job,Attempt:0,} returns container id \"c0de\""
time="2026-11-24T12:21:44.546118030Z" level=info msg="StartContainer for \"c0de\""
time="2026-11-24T12:21:44.621465845Z" level=info msg="StartContainer for \"c0de\" returns successfully"
time="2026-11-24T12:21:46.843156254Z" level=info msg="shim disconnected" id=c0de
time="2026-11-24T12:21:46.843235271Z" level=warning msg="cleaning up after shim disconnected" id=c0de namespace=k8s.io
time="2026-11-24T12:21:47.197534324Z" level=info msg="shim disconnected" id=5a0d
"""  # noqa: E501  # as it is written


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def ran(machine: str, pod: str, start: float, end: float) -> Ran:
    return Ran(machine, "work", pod, at(start), at(start), at(end))


def test_a_container_ran_from_its_start_to_the_end_of_its_shim() -> None:
    (found,) = read_log("machine", LOG.splitlines(), at(0))
    assert (found.machine, found.namespace, found.pod) == ("machine", "work", "job-0a1b2c-1")
    assert (found.end - found.start).total_seconds() == 2.221691
    assert (found.start - found.asked).total_seconds() == 0.075347


def test_a_container_that_did_not_end_ended_with_its_machine() -> None:
    begun = [line for line in LOG.splitlines() if "shim" not in line]
    died = from_text("2026-11-24T12:22:00Z")
    (found,) = read_log("machine", begun, died)
    assert found.end == died


def test_one_after_the_other_is_right() -> None:
    assert find_faults([ran("a", "x-1", 0, 5), ran("a", "y-1", 5, 6), ran("b", "z-1", 1, 9)]) == []
    assert find_faults([ran("a", "x-1", 0, 5), ran("b", "x-2", 6, 9)]) == []


def test_two_at_once_on_a_machine_are_found_wherever_they_are_in_the_list() -> None:
    (fault,) = find_faults([ran("a", "y-1", 4, 6), ran("a", "x-1", 0, 5)])
    assert fault == "y-1 began on a 1.0 s before x-1 ended"


def test_a_run_that_runs_twice_at_once_is_found_and_a_pod_that_ran_twice() -> None:
    (fault,) = find_faults([ran("a", "x-1", 0, 5), ran("b", "x-2", 3, 6)])
    assert fault == "x-2 began 2.0 s before x-1 of its run ended"
    (fault,) = find_faults([ran("a", "x-1", 0, 1), ran("b", "x-1", 3, 6)])
    assert fault == "x-1 ran 2 times"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)), min_size=2, max_size=6))
def test_overlaps_are_found_however_long_the_earlier_one_lasts(
    times: list[tuple[int, int]],
) -> None:
    runs = [ran("a", f"job{n}-1", start, start + more) for n, (start, more) in enumerate(times)]
    overlap = any(
        first.start <= second.start < first.end
        for first in runs
        for second in runs
        if first is not second
    )
    assert bool(find_faults(runs)) == overlap


def test_a_log_that_is_moved_away_while_all_are_read_counts_once() -> None:
    there = [("a", "one\ntwo\n"), ("b", "three\n")]
    gone = [("a", "one\ntwo\nmore\n"), ("b", "of the try before\n"), ("c", "three\n")]
    assert sorted(only_once(there, gone)) == sorted([*gone, ("b", "three\n")])
