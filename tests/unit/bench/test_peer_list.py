"""What a peer's run of the list cost, computed from what was seen of it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench.data.derive_jobs import derive
from bench.peer_list import Job, PeerRun, percentile, read_jobs
from bench.pod_watch import PodTimes, PodWatch, read_pod
from piecework.plan import labels
from testbed.record import Life

_BEGIN = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return _BEGIN + timedelta(seconds=seconds)


def _pod(number: int, node: str, started: float, ended: float) -> PodTimes:
    return PodTimes(
        "ours", f"pod-{number}", f"job-{number}", "job", -1, _BEGIN, node, _at(started), _at(ended)
    )


def _run(machines: tuple[Life, ...], *pods: PodTimes) -> PeerRun:
    jobs = tuple(Job(n, 0, int((p.ended - p.started).total_seconds())) for n, p in enumerate(pods))  # type: ignore[operator]  # these have times
    return PeerRun(jobs, {job.number: _BEGIN for job in jobs}, dict(enumerate(pods)), machines, 0)


def test_the_list_has_forty_jobs_in_order_and_a_quick_one_ten() -> None:
    jobs = read_jobs(quick=False)
    assert len(jobs) == 40
    assert [job.arrival for job in jobs] == sorted(job.arrival for job in jobs)
    assert all(1 <= job.seconds <= 180 for job in jobs)
    assert len(read_jobs(quick=True)) == 10


def test_the_run_of_pods_is_taken_whose_lengths_are_like_the_whole_trace() -> None:
    odd = [(float(n), n + 9000.0) for n in range(10)]
    usual = [(100.0 + n, 100.0 + n + 30 * (1 + n % 20)) for n in range(4000)]
    found = derive(odd + usual)
    assert len(found) == 40
    assert (found[0][0], found[-1][0]) == (0, 480)
    assert sum(seconds > 20 for _, seconds in found) <= 1


def test_a_machine_costs_from_its_purchase_to_its_return_and_at_least_a_minute() -> None:
    short = Life("a", bought=_at(0), joined=_at(3), returned=_at(20))
    long = Life("b", bought=_at(0), joined=_at(10), returned=_at(100))
    run = _run((short, long), _pod(0, "a", 3, 10), _pod(1, "b", 10, 95))
    assert run.paid_seconds() == 60 + 100
    assert run.paid_seconds(boot=False) == 60 + 90
    assert run.least_seconds(minimum=True) == 60 + 85
    assert run.least_seconds(minimum=False) == 7 + 85


def test_giving_back_takes_from_the_last_end_or_from_the_end_of_the_minimum() -> None:
    early = Life("a", bought=_at(0), joined=_at(3), returned=_at(62))
    late = Life("b", bought=_at(0), joined=_at(3), returned=_at(101))
    unused = Life("c", bought=_at(0), joined=_at(3), returned=_at(59))
    run = _run(
        (early, late, unused), _pod(0, "a", 3, 10), _pod(1, "b", 3, 20), _pod(2, "b", 30, 95)
    )
    assert run.give_back_seconds() == [2, 6, 0]


def test_the_boot_of_a_machine_that_was_bought_for_the_job_is_no_wait() -> None:
    bought = Life("a", bought=_at(1), joined=_at(31), returned=_at(100))
    before = Life("b", bought=_at(-50), joined=_at(-20), returned=_at(100))
    run = _run((bought, before), _pod(0, "a", 33, 40), _pod(1, "b", 2, 40))
    assert run.waits() == [(True, 3), (False, 2)]


def test_what_is_added_compares_bought_machines_with_bought_ones() -> None:
    new = Life("a", bought=_at(1), joined=_at(2), returned=_at(100))
    old = Life("b", bought=_at(-50), joined=_at(-20), returned=_at(100))
    theirs = _run((new, old), _pod(0, "a", 8, 40), _pod(1, "b", 1, 40))
    ours = _run((new, old), _pod(0, "a", 9, 40), _pod(1, "a", 9, 40), _pod(2, "b", 2, 40))
    assert ours.added_seconds(theirs) == 1
    assert math.isnan(ours.added_seconds(_run(())))


@pytest.mark.parametrize(("share", "value"), [(0.95, 95), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def _object(**metadata: Any) -> dict[str, Any]:
    told = {
        "name": "pod",
        "namespace": "ours",
        "uid": "1",
        "creationTimestamp": "2026-11-24T12:00:00Z",
    }
    return {"metadata": {**told, **metadata}, "spec": {}}


def test_a_pod_is_known_by_what_either_operator_writes_on_it() -> None:
    theirs = read_pod(_object(labels={"run_id": "job-03", "task_id": "job", "map_index": "7"}))
    request = {"pipeline_run": "job-03", "owner": {"task_id": "job", "map_index": 7}}
    ours = read_pod(_object(annotations={labels.REQUEST: json.dumps(request)}))
    assert (theirs.pipeline_run, theirs.task, theirs.map_index) == ("job-03", "job", 7)
    assert (ours.pipeline_run, ours.task, ours.map_index) == ("job-03", "job", 7)


def test_what_was_seen_of_a_pod_is_kept_when_it_is_gone() -> None:
    watch = PodWatch()
    pod = _object()
    pod["spec"]["nodeName"] = "a"
    ended = {"startedAt": "2026-11-24T12:00:01Z", "finishedAt": "2026-11-24T12:00:05Z"}
    pod["status"] = {"containerStatuses": [{"state": {"terminated": ended}}]}
    watch.take("MODIFIED", pod)
    watch.take("DELETED", _object())
    watch.take("SYNCED", {})
    (seen,) = watch.of("ours")
    assert (seen.node, seen.started, seen.ended) == ("a", _at(1), _at(5))
