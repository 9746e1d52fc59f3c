from __future__ import annotations

from piecework.keeper.cluster.actions import EndAttempt, GiveBack, Release
from piecework.keeper.cluster.orphans import Finding, find_orphans
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.pods import End
from tests.unit.keeper.cluster.worlds import (
    at,
    attempt,
    machine,
    node,
    pod,
    pool,
    waiting,
    world,
)


def _only(snapshot: Snapshot) -> Finding:
    (finding,) = find_orphans(snapshot)
    return finding


def _end(snapshot: Snapshot) -> EndAttempt:
    (action,) = _only(snapshot).actions
    assert isinstance(action, EndAttempt)
    return action


def test_nothing_is_an_orphan_that_has_a_purpose() -> None:
    running = attempt(pod("run", node="node-m", started=-20, admitted=-60))
    assert find_orphans(world([running, waiting("next")], [machine("m")])) == []


def test_an_attempt_whose_owner_is_over_ends_wherever_it_is() -> None:
    why = "the Airflow task dag.task is failed"
    for found in (
        waiting("run"),
        attempt(pod("run", admitted=-5)),
        attempt(pod("run", node="node-m", started=-20, admitted=-60)),
    ):
        end = _end(world([found], owners_over={"run.abc.1": why}))
        assert (end.outcome, end.cause, end.force) == (Outcome.CANCELLED, why, False)


def test_one_that_is_being_deleted_already_is_left_alone() -> None:
    leaving = attempt(pod("run", node="node-m", started=-20, deleting=20))
    assert find_orphans(world([leaving], [machine("m")], owners_over={"run.abc.1": "over"})) == []


def test_an_end_that_was_written_and_not_carried_out_is_carried_out() -> None:
    end = '{"outcome": "cancelled", "cause": "by a person", "at": "2026-11-24T11:59:00Z"}'
    found = attempt(pod("run", gated=True, annotations={"piecework.dev/end": end}))
    action = _end(world([found]))
    assert (action.outcome, action.cause) == (Outcome.CANCELLED, "by a person")


def test_an_admitted_run_waits_for_a_machine_only_so_long() -> None:
    patient = pool(start_timeout="1m")
    early = attempt(pod("run", admitted=-60))
    late = attempt(pod("run", admitted=-61))
    assert find_orphans(world([early], pools=[patient])) == []
    end = _end(world([late], pools=[patient]))
    assert end.outcome is Outcome.NEVER_STARTED
    assert "no machine within 1m of its admission" in end.cause


def test_waiting_for_admission_has_no_such_limit() -> None:
    assert find_orphans(world([waiting("run")], pools=[pool(start_timeout="1s")])) == []


def test_an_image_that_cannot_be_pulled_ends_the_attempt_after_a_while() -> None:
    failing = {
        "name": "job",
        "image": "registry/no:1",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "manifest not found"}},
    }
    status = {"containerStatuses": [failing]}
    found = attempt(pod("run", node="node-m", bound=-301, admitted=-400, status=status))
    end = _end(world([found], [machine("m")], pools=[pool(pull_timeout="5m")]))
    assert end.outcome is Outcome.NEVER_STARTED
    assert end.cause == "it did not start within 5m: image pull: not found: registry/no:1"


def test_a_deadline_ends_an_attempt_only_where_that_was_asked_for() -> None:
    late = {"deadline_seconds": 60, "queued_at": "2026-11-24T11:58:00Z"}
    assert find_orphans(world([waiting("run", **late, on_deadline="notify")])) == []
    end = _end(world([waiting("run", **late, on_deadline="cancel")]))
    assert end.outcome is Outcome.CANCELLED
    assert end.cause.startswith("its deadline, 2026-11-24T11:59:00")


def test_an_attempt_that_its_kubelet_does_not_end_is_ended() -> None:
    asked = {"timeout_seconds": 100}
    fine = attempt(pod("run", node="node-m", bound=-150, started=-149, **asked))
    late = attempt(pod("run", node="node-m", bound=-161, started=-160, **asked))
    assert find_orphans(world([fine], [machine("m")])) == []
    assert _end(world([late], [machine("m")])).outcome is Outcome.TIMEOUT


def test_what_is_to_end_on_a_machine_that_never_spoke_is_ended_by_force_at_once() -> None:
    end = {labels.END: End(Outcome.CANCELLED, "its task failed", at(-1)).to_json()}
    run = attempt(pod("run", node="node-m", admitted=-60, deleting=29, annotations=end))
    mute = machine("m", ready_at=None, launched_at=at(-40), joined_at=at(-35))
    silent = node(mute, ready_at=None, silent_since=at(-35))
    action = _end(world([run], [mute], nodes=[silent]))
    assert (action.outcome, action.cause, action.force) == (
        Outcome.CANCELLED, "its task failed", True
    )  # fmt: skip
    speaking = node(mute, ready_at=None, silent_since=at(-35), speaks=True)
    assert find_orphans(world([run], [mute], nodes=[speaking])) == []


def test_a_silent_machine_is_lost_after_its_pools_patience_and_its_pod_ended_by_force() -> None:
    running = attempt(pod("run", node="node-m", bound=-500, started=-490))
    quiet = machine("m", joined_at=at(-600), ready_at=at(-590))
    patient = [pool(lost_after="2m")]
    silent = node(quiet, ready_at=None, silent_since=at(-120))
    assert find_orphans(world([running], [quiet], nodes=[silent], pools=patient)) == []
    lost = node(quiet, ready_at=None, silent_since=at(-121))
    ending, giving = find_orphans(world([running], [quiet], nodes=[lost], pools=patient))
    (end,) = ending.actions
    assert isinstance(end, EndAttempt)
    assert (end.outcome, end.force) == (Outcome.INTERRUPTED, True)
    assert [type(action) for action in giving.actions] == [Release, GiveBack]


def test_a_machine_that_still_boots_is_not_silent_but_late() -> None:
    bound = attempt(pod("run", node="node-m", bound=-300))
    booting = machine("m", joined_at=at(-300), ready_at=None)
    quiet = node(booting, ready_at=None, silent_since=at(-300))
    patient = pool(lost_after="5s", join_timeout="10m")
    assert find_orphans(world([bound], [booting], nodes=[quiet], pools=[patient])) == []
    hasty = pool(lost_after="5s", join_timeout="1m")
    ending, giving = find_orphans(world([bound], [booting], nodes=[quiet], pools=[hasty]))
    (end,) = ending.actions
    assert isinstance(end, EndAttempt)
    assert end.outcome is Outcome.NEVER_STARTED
    assert giving.reason == "it did not join the cluster within 1m"


def test_a_machine_that_says_that_it_is_not_ready_lives() -> None:
    running = attempt(pod("run", node="node-m", bound=-40, started=-30))
    young = machine("m", joined_at=at(-60), ready_at=None)
    speaking = node(young, ready_at=None, silent_since=at(-60), speaks=True)
    hasty = pool(lost_after="15s")
    assert find_orphans(world([running], [young], nodes=[speaking], pools=[hasty])) == []


def test_silence_counts_only_while_the_api_server_could_be_spoken_to() -> None:
    running = attempt(pod("run", node="node-m", bound=-500, started=-490))
    quiet = machine("m", joined_at=at(-600), ready_at=at(-590))
    silent = node(quiet, ready_at=None, silent_since=at(-400))
    snapshot = world([running], [quiet], nodes=[silent], reachable_since=at(-60))
    assert find_orphans(snapshot) == []


def test_a_machine_that_its_seller_took_away_ends_its_pod_at_once() -> None:
    running = attempt(pod("run", node="node-m", bound=-500, started=-490))
    end = _end(world([running], [machine("m", gone_at=at(-1))], nodes=[]))
    assert (end.outcome, end.force) == (Outcome.INTERRUPTED, True)
    assert "machine m is gone" in end.cause


def test_a_gang_of_which_one_has_failed_is_ended() -> None:
    gang = attempt(
        pod("gang", 0, count=2, node="node-a", started=-20, ended=-5, exit_code=3),
        pod("gang", 1, count=2, node="node-b", started=-20),
    )
    end = _end(world([gang], [machine("a"), machine("b")]))
    assert end.outcome is Outcome.INTERRUPTED
    assert "of its gang has ended" in end.cause


def test_a_gang_of_which_one_has_succeeded_goes_on() -> None:
    gang = attempt(
        pod("gang", 0, count=2, node="node-a", started=-20, ended=-5),
        pod("gang", 1, count=2, node="node-b", started=-20),
    )
    assert find_orphans(world([gang], [machine("a"), machine("b")])) == []


def test_an_executor_without_its_driver_is_ended() -> None:
    raw = pod("executor", node="node-m", started=-20, pod_labels={"spark-role": "executor"}).raw
    raw["metadata"]["ownerReferences"] = [{"kind": "Pod", "name": "driver-0"}]
    from piecework.keeper.cluster.snapshot import read_pod

    executor = read_pod(raw)
    assert executor is not None
    driver = attempt(pod("driver", node="node-d", started=-20))
    machines = [machine("m"), machine("d")]
    assert find_orphans(world([attempt(executor), driver], machines)) == []
    assert "driver" in _end(world([attempt(executor)], machines)).cause


def test_a_machine_that_does_not_join_is_given_back() -> None:
    patient = [pool(join_timeout="1m")]
    booting = machine("m", node=None, joined_at=None, ready_at=None, launched_at=at(-60))
    assert find_orphans(world(machines=[booting], pools=patient)) == []
    late = machine("m", node=None, joined_at=None, ready_at=None, launched_at=at(-61))
    finding = _only(world(machines=[late], pools=patient))
    assert finding.reason == "it did not join the cluster within 1m"
    assert [type(action) for action in finding.actions] == [Release, GiveBack]


def test_a_machine_that_left_the_cluster_and_not_the_cloud_is_given_back() -> None:
    lost = machine("m", ready_at=at(-500), joined_at=at(-510))
    assert "not in the cluster" in _only(world(machines=[lost], nodes=[])).reason


def test_a_machine_whose_gpus_do_not_appear_is_given_back() -> None:
    bare = machine("m", instance_type="g4dn.xlarge", ready_at=at(-301))
    snapshot = world(
        machines=[bare],
        nodes=[node(bare, ready_at=at(-301))],
        expected_gpus={"g4dn.xlarge": 1},
    )
    assert _only(snapshot).reason == "its GPUs did not appear within 5m"
    fine = world(machines=[bare], nodes=[node(bare, gpus=1)], expected_gpus={"g4dn.xlarge": 1})
    assert find_orphans(fine) == []
