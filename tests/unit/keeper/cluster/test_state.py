from __future__ import annotations

from decimal import Decimal
from typing import Any

from piecework.keeper.cluster.snapshot import read_pod
from piecework.keeper.cluster.state import State
from piecework.machines.provider import MachineSeen
from piecework.runners.pods import ending_of
from tests.unit.keeper.cluster.worlds import NOW, at, machine, pod_json, text


def _state(*pods: dict[str, Any]) -> State:
    state = State(["spot"])
    for each in pods:
        state.take_pod(each, now=NOW)
    return state


def _forget(state: State) -> None:
    """As the keeper does once it has recorded the attempt, and its end is in the ledger."""
    state.changed_attempts.clear()
    state.forget_attempts({"run.abc.1"})


def _node_json(name: str, version: int = 1) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "resourceVersion": str(version),
            "creationTimestamp": text(-30),
            "labels": {"piecework.dev/pool": "spot"},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def _price(_: MachineSeen) -> Decimal | None:
    return Decimal("0.1")


def test_pods_of_one_attempt_are_put_together_in_order() -> None:
    state = _state(pod_json("gang", 1, count=2), pod_json("gang", 0, count=2))
    (found,) = state.attempts.values()
    assert [pod.key[1] for pod in found.pods] == ["gang-0", "gang-1"]
    assert state.changed_attempts == {"gang.abc.1"}


def test_what_is_older_than_what_is_known_is_not_taken() -> None:
    old, new = pod_json("run"), pod_json("run", node="node-m")
    state = _state(new)
    state.changed_attempts.clear()
    state.take_pod(old)
    assert state.attempts["run.abc.1"].first.node == "node-m"
    assert state.changed_attempts == set()


def test_pods_of_other_pools_are_nobody_elses_business() -> None:
    assert _state(pod_json("run", pool="other")).attempts == {}


def test_a_pod_that_vanishes_unrecorded_is_kept_as_interrupted() -> None:
    running = pod_json("run", node="node-m", started=-20)
    state = _state(running)
    state.take_pod(running, deleted=True, now=NOW)
    kept = state.attempts["run.abc.1"].first
    assert kept.over is not None
    ending = ending_of(kept.raw)
    assert ending is not None
    assert ending.outcome == "interrupted"
    _forget(state)
    assert state.attempts == {}
    assert state.dropped == {"run.abc.1"}


def test_a_program_that_has_started_has_started_whatever_its_kubelet_forgets() -> None:
    state = _state(pod_json("run", node="node-m", started=-20), pod_json("run", node="node-m"))
    assert state.attempts["run.abc.1"].first.started_at == at(-20)
    another = pod_json("run", node="node-m")
    another["metadata"]["uid"] = "another"
    state.take_pod(another)
    assert state.attempts["run.abc.1"].first.started_at is None


def test_a_recorded_pod_that_vanishes_is_forgotten() -> None:
    done = pod_json("run", node="node-m", started=-20, ended=-10)
    state = _state(done)
    _forget(state)
    assert "run.abc.1" in state.attempts
    state.take_pod(done, deleted=True)
    assert state.attempts == {}


def test_what_a_watch_tells_of_a_pod_that_was_dropped_brings_nothing_back() -> None:
    done = pod_json("run", node="node-m", started=-20, ended=-10)
    state = _state(done)
    _forget(state)
    state.take_pod(done, deleted=True)
    state.take_pod(pod_json("run", node="node-m", started=-20, ended=-10, deleting=-5))
    assert state.attempts == {}


def test_the_deletion_of_an_earlier_pod_of_that_name_changes_nothing() -> None:
    earlier = pod_json("run")
    later = pod_json("run", node="node-m")
    later["metadata"]["uid"] = "another"
    state = _state(later)
    state.take_pod(earlier, deleted=True)
    assert state.attempts["run.abc.1"].first.is_live


def test_the_last_end_on_a_node_is_remembered_when_its_pods_are_gone() -> None:
    done = pod_json("run", node="node-m", started=-20, ended=-10)
    state = _state(done)
    state.take_machines([machine("m")], _price)
    _forget(state)
    state.take_pod(done, deleted=True)
    assert state.idle_since == {"m": at(-10)}


def test_a_pod_whose_program_never_started_has_not_used_its_machine() -> None:
    never = pod_json("run", node="node-m", status={"phase": "Failed"})
    state = _state(never)
    state.take_machines([machine("m")], _price)
    assert not state.attempts["run.abc.1"].is_live
    assert state.idle_since == {}


def test_only_machines_that_changed_are_to_be_recorded() -> None:
    state = _state()
    state.take_machines([machine("a"), machine("b")], _price)
    state.changed_machines.clear()
    state.take_machines([machine("a"), machine("b", gone_at=NOW)], _price)
    assert state.changed_machines == {"b"}
    state.take_machines([machine("a")], _price)
    assert state.dropped == {"b"}
    assert state.prices == {"a": Decimal("0.1")}


def test_a_machine_that_becomes_known_touches_the_attempts_on_it() -> None:
    state = _state(pod_json("run", node="node-m", started=-20))
    state.changed_attempts.clear()
    state.take_machines([machine("m")], _price)
    assert state.changed_attempts == {"run.abc.1"}


def test_nodes_come_and_go() -> None:
    state = _state()
    state.take_node(_node_json("node-m"))
    assert state.nodes["node-m"].ready_at is not None
    state.take_node(_node_json("node-m"), deleted=True)
    assert state.nodes == {}


def test_a_pod_that_says_nothing_sensible_is_read_without_a_request() -> None:
    raw = pod_json("run", request=False, annotations={"piecework.dev/request": "{torn"})
    seen = read_pod(raw)
    assert seen is not None
    assert seen.request is None
    assert seen.attempt == "run-0"
