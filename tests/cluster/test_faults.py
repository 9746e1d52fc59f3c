"""What goes wrong in clouds and clusters can be made to go wrong here, and mended."""

from __future__ import annotations

import json

import pytest

from testbed import (
    command,
    components,
    control_plane,
    faults,
    images,
    kubectl,
    machine,
    pods,
    record,
    registry,
    wishes,
)
from testbed.api import Object, is_ready
from testbed.errors import TestbedError
from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine


def _runs(one: Cluster, namespace: str, name: str) -> Object:
    running: Object = one.api.wait(
        f"pod {name} to run",
        lambda: (p := one.api.get("Pod", name, namespace)) and pods.phase(p) == "Running" and p,
    )
    return running


def test_a_machine_dies_at_once_and_its_node_object_stays(
    one: Cluster, here: Place, start_machine: StartMachine
) -> None:
    name = start_machine()
    faults.kill_machine(here, name)
    assert not machine.is_alive(here, name)
    assert record.read(here)[name].stopped
    assert one.api.get("Node", name) is not None


def test_a_spot_interruption_gives_notice_and_then_takes_the_machine(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    one.api.create(pods.make("runs", namespace, one.shell, "sleep 1000", node=name))
    _runs(one, namespace, "runs")
    faults.give_notice(here, name, 30)
    node = one.api.get("Node", name)
    assert node is not None
    assert faults.INTERRUPTION_TAINT in {taint["key"] for taint in node["spec"]["taints"]}
    assert faults.INTERRUPTION_ANNOTATION in node["metadata"]["annotations"]
    _runs(one, namespace, "runs")
    faults.kill_machine(here, name, gone_from_cloud=True)
    assert one.api.get("Node", name) is None
    life = record.read(here)[name]
    assert life.interrupted
    assert life.stopped
    assert life.interrupted < life.stopped


def test_a_slow_boot_delays_joining_by_as_long_as_it_was_wished(
    one: Cluster, here: Place, start_machine: StartMachine
) -> None:
    name = start_machine(boot_seconds=4)
    life = record.read(here)[name]
    assert life.started
    node = one.api.get("Node", name)
    assert node is not None
    from piecework.clock import from_text

    # A Node's time is in whole seconds.
    joined = from_text(node["metadata"]["creationTimestamp"])
    assert (joined - life.started).total_seconds() > 2.5


def test_a_machine_that_is_cut_off_runs_on_and_comes_back(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    one.api.create(pods.make("runs", namespace, one.shell, "sleep 1000", node=name))
    _runs(one, namespace, "runs")
    faults.cut_network(here, name)
    try:
        with pytest.raises(TestbedError):
            kubectl.run(
                one.kubeconfig, "exec", f"--namespace={namespace}", "runs", "--", "true",
                timeout_seconds=5,
            )  # fmt: skip
        assert machine.program_runs(here, name, "kubelet")
    finally:
        faults.mend_network(here, name)
    one.api.wait(
        "exec to work again",
        lambda: _works(one, namespace),
        90,
    )


def _works(one: Cluster, namespace: str) -> bool:
    try:
        return kubectl.execute(one.kubeconfig, namespace, "runs", "echo", "yes") == "yes\n"
    except TestbedError:
        return False


def test_pulls_can_be_slow_and_can_fail(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    # The pod's sandbox needs its own image: have that here before pulls become slow.
    one.api.create(pods.make("first", namespace, images.name_in(here, "missing:1"), "", node=name))
    one.api.wait(
        "the failed pull",
        lambda: (
            (p := one.api.get("Pod", "first", namespace))
            and pods.waiting_reason(p) in ("ErrImagePull", "ImagePullBackOff")
        ),
    )
    faults.slow_pulls(here, name, 64)
    one.api.create(pods.make("slow", namespace, one.shell, "true", node=name))

    def pulls() -> bool:
        events = one.api.list("Event", namespace)
        return any(
            e["reason"] == "Pulling" and e["involvedObject"]["name"] == "slow" for e in events
        )

    one.api.wait("the pull", pulls)
    shown = one.api.get("Pod", "slow", namespace)
    assert pods.phase(shown) == "Pending"
    # At 64 kbit/s two megabytes take minutes: it ends only because it is fast again.
    faults.fast_pulls(here, name)
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "slow", namespace)), 120)


def test_the_registry_can_be_away(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    faults.kill(here, registry.NAME)
    try:
        one.api.create(pods.make("waits", namespace, one.shell, "true", node=name))
        one.api.wait(
            "the failure",
            lambda: any(
                "FailedCreatePodSandBox" in e["reason"] or "Failed" in e["reason"]
                for e in one.api.list("Event", namespace)
            ),
        )
    finally:
        faults.restart(here, registry.NAME)
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "waits", namespace)), 120)


@pytest.mark.parametrize("component", control_plane.NAMES)
def test_a_component_is_killed_and_started_again(
    one: Cluster, here: Place, component: str, namespace: str
) -> None:
    faults.kill(here, component)
    assert not components.running(here, component)
    faults.restart(here, component)
    assert control_plane.is_ready(here, component)
    one.api.wait("the API server", lambda: one.api.get("Namespace", namespace))


def test_a_frozen_scheduler_places_no_pod_until_it_thaws(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine(labels={"test/frozen": namespace})
    faults.freeze(here, "kube-scheduler")
    try:
        one.api.create(
            pods.make("waits", namespace, one.shell, "true", select={"test/frozen": namespace})
        )
        # Whoever else could place it has had the time to.
        one.api.wait(
            "another machine", lambda: is_ready(one.api.get("Node", start_machine()) or {})
        )
        waiting = one.api.get("Pod", "waits", namespace)
        assert waiting is not None
        assert "nodeName" not in waiting["spec"]
    finally:
        faults.thaw(here, "kube-scheduler")
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "waits", namespace)))
    placed = one.api.get("Pod", "waits", namespace)
    assert placed is not None
    assert placed["spec"]["nodeName"] == name


def test_faults_are_commands_too(
    here: Place, start_machine: StartMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> None:
        assert command.main(["--name", here.name, *arguments]) == 0

    run("fault", "slow-boot", "some-pool", "30")
    run("fault", "never-join", "some-pool", "2")
    wished = wishes.read(here, "some-pool")
    assert (wished.boot_seconds, wished.never_join) == (30, 2)
    run("fault", "kill", "kube-scheduler")
    assert not components.running(here, "kube-scheduler")
    run("start", "kube-scheduler")
    assert control_plane.is_ready(here, "kube-scheduler")
    name = start_machine()
    run("fault", "kill-machine", name)
    capsys.readouterr()
    run("machines", "--json")
    told = {life["machine"]: life for life in json.loads(capsys.readouterr().out)}
    assert told[name]["why"] == "died"
    assert told[name]["stopped"]


def test_an_unknown_component_is_named_with_those_there_are(here: Place) -> None:
    with pytest.raises(TestbedError, match=r"no component 'etdc'; there are: .*etcd"):
        faults.kill(here, "etdc")
