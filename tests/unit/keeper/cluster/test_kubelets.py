"""What containers used, as kubelets count it; the real kubelet is asked in tests/cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.errors import ClusterError
from piecework.keeper.cluster.kubelets import Counted, Kubelets, read_counts
from piecework.keeper.cluster.record import events_of_attempt
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, read_pod
from piecework.ledger.events import Kind
from tests.unit.keeper.cluster.worlds import NOW, at, attempt, pod_json, world


def _container(index: int = 0, ended: float | None = None, **more: Any) -> PodSeen:
    """A container's pod that started 100 seconds ago on the machine 10.0.0.INDEX."""
    raw = pod_json(
        "train", index, node=f"node-{index}", started=-100, ended=ended, engine="container", **more
    )
    raw["status"]["hostIP"] = f"10.0.0.{index}"
    seen = read_pod(raw)
    assert seen is not None
    return seen


def _text(pod: PodSeen, cpu: float, memory: float, at_seconds: float) -> str:
    """As a kubelet writes it: with another container beside, and timestamps in milliseconds."""
    stamp = round(at(at_seconds).timestamp() * 1000)
    named = [f'container="{c}",namespace="{pod.key[0]}",pod="{pod.key[1]}"' for c in ("job", "x")]
    lines = ["# TYPE container_cpu_usage_seconds_total counter"]
    lines += [f"container_cpu_usage_seconds_total{{{each}}} {cpu} {stamp}" for each in named]
    lines += ["# TYPE container_memory_working_set_bytes gauge"]
    lines += [f"container_memory_working_set_bytes{{{each}}} {memory} {stamp}" for each in named]
    lines += ["# TYPE node_cpu_usage_seconds_total counter"]
    lines += [f"node_cpu_usage_seconds_total 99.5 {stamp}", ""]
    return "\n".join(lines)


class _Machine:
    """Kubelets that say what they are told to say."""

    def __init__(self) -> None:
        self.says: str | Exception = ""
        self.asked: list[str] = []

    def __call__(self, address: str) -> str:
        self.asked.append(address)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def _use(seen: AttemptSeen, counted: dict[str, Any]) -> dict[str, Any]:
    (ended,) = [
        each
        for each in events_of_attempt(seen, {}, NOW, counted)
        if each.kind is Kind.ATTEMPT_ENDED
    ]
    use: dict[str, Any] = ended.data["use"]
    return use


@given(
    st.lists(st.tuples(st.floats(0, 1e6, allow_subnormal=False), st.integers(0, 2**40)), min_size=1)
)
def test_cpu_is_the_last_count_and_memory_the_highest_of_all(
    looks: list[tuple[float, int]],
) -> None:
    machine, pod = _Machine(), _container()
    kubelets = Kubelets(machine)
    kubelets.look(world([attempt(pod)]))
    for cpu, memory in looks:
        machine.says = _text(pod, cpu, memory, -10)
        kubelets.round()
    use = kubelets.found[pod.uid]
    assert use["cpu_seconds"] == round(looks[-1][0], 3)
    assert use["peak_memory_bytes"] == max(memory for _, memory in looks)
    assert use["counted_seconds"] == 90


def test_only_containers_that_run_are_asked_about_and_what_is_gone_is_forgotten() -> None:
    machine, pod = _Machine(), _container()
    machine.says = _text(pod, 1, 2, -1)
    kubelets = Kubelets(machine)
    measured = read_pod(pod_json("other", node="node-7", started=-9, engine="python"))
    assert measured is not None
    kubelets.look(world([attempt(pod), attempt(measured)]))
    kubelets.round()
    assert machine.asked == ["10.0.0.0"]
    kubelets.look(world([attempt(_container(ended=-1))]))
    kubelets.round()
    assert machine.asked == ["10.0.0.0"]
    assert list(kubelets.found) == [pod.uid]  # until its end is recorded
    kubelets.look(world([]))
    kubelets.round()
    assert not kubelets.found


@pytest.mark.parametrize(
    "failure", [TimeoutError("timed out"), ClusterError("forbidden"), "not { metrics"]
)
def test_a_machine_that_does_not_answer_is_left_alone_for_a_while(
    failure: str | Exception,
) -> None:
    machine, pod = _Machine(), _container()
    machine.says = failure
    kubelets = Kubelets(machine)
    kubelets.look(world([attempt(pod)]))
    for _ in range(3):
        kubelets.round()
    assert machine.asked == ["10.0.0.0"]
    assert not kubelets.found


def test_a_count_needs_its_time_and_its_memory() -> None:
    pod = _container()
    whole = _text(pod, 1.5, 4096, -5)
    key = (*pod.key, "job")
    assert read_counts(whole)[key] == Counted(1.5, 4096, at(-5).timestamp())
    without_memory = "\n".join(line for line in whole.splitlines() if "memory" not in line)
    assert read_counts(without_memory + "\n") == {}
    stamp = str(round(at(-5).timestamp() * 1000))
    assert read_counts(whole.replace(f" {stamp}", "")) == {}


def test_what_a_kubelet_saw_most_of_is_the_attempts_use() -> None:
    pod = _container(ended=0)
    counted = {
        "cpu_seconds": 42.0, "peak_memory_bytes": 5, "read_bytes": None, "written_bytes": None,
        "counted_seconds": 90.0,
    }  # fmt: skip
    use = _use(attempt(pod), {pod.uid: counted})
    assert use == counted
    seen_too_little = {**counted, "counted_seconds": 60.0}
    assert _use(attempt(pod), {pod.uid: seen_too_little})["cpu_seconds"] is None


def test_a_gang_whose_use_is_known_in_part_is_unknown() -> None:
    pods = [_container(index, ended=0, count=2) for index in range(2)]
    counted = {"cpu_seconds": 40.0, "peak_memory_bytes": 5, "counted_seconds": 95.0}
    whole = _use(attempt(*pods), {pod.uid: counted for pod in pods})
    assert (whole["cpu_seconds"], whole["counted_seconds"]) == (80.0, 190.0)
    assert _use(attempt(*pods), {pods[0].uid: counted})["cpu_seconds"] is None
