"""Testbeds don't touch each other, and leave nothing behind, however they end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import cluster, components, images, machine, place, pods, programs
from testbed.api import Api, is_ready
from testbed.place import Place
from testbed.size import size_of

_ROUNDS = 3


@pytest.fixture
def name(here: Place) -> Iterator[str]:
    """The name of a second testbed beside the session's, which is down afterwards."""
    mine = f"beside-{os.getpid()}"
    yield mine
    claimed = place.look(mine)
    cluster.down(mine)
    if claimed:
        assert cluster.leftovers(claimed) == []


def _up(name: str) -> Place:
    return cluster.up(name, lambda _: None, without=["helm"])


def _work(where: Place) -> None:
    """A machine, and a pod that runs on it to its end."""
    machine.start(where, "worker", size_of("m6a.large"))
    with Api(where.admin) as api:
        api.wait("the machine", lambda: (n := api.get("Node", "worker")) and is_ready(n))
        image = images.name_in(where, images.SHELL)
        api.create(pods.make("work", "default", image, "echo done", node="worker"))
        api.wait("the pod", lambda: pods.is_over(api.get("Pod", "work", "default")))
        assert api.logs("work", "default") == "done\n"


def test_two_testbeds_run_side_by_side(here: Place, name: str) -> None:
    other = _up(name)
    assert other.number != here.number
    _work(other)
    with Api(here.admin) as api:
        assert api.get("Node", "worker") is None
    cluster.down(name)
    assert cluster.leftovers(other) == []
    with Api(here.admin) as api:
        assert api.list("Namespace")


@pytest.mark.parametrize("seed", range(_ROUNDS))
def test_nothing_is_left_after_a_random_component_was_killed(name: str, seed: int) -> None:
    other = _up(name)
    _work(other)
    components.kill(other, random.Random(seed).choice(components.names(other)))
    cluster.down(name)
    assert cluster.leftovers(other) == []
    assert place.look(name) is None


def test_nothing_is_left_when_the_testbed_is_killed_while_it_starts(name: str) -> None:
    command = [sys.executable, "-m", "testbed", "--name", name, "up", "--machines", "1"]
    for moment in ("registry", "kube-apiserver", "kube-scheduler"):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as up:
            _wait_for(name, moment)
            up.send_signal(signal.SIGKILL)
        other = place.look(name)
        assert other
        cluster.down(name)
        assert cluster.leftovers(other) == []


def _wait_for(name: str, component: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        there = place.look(name)
        if there and components.running(there, component):
            return
        time.sleep(0.01)
    raise AssertionError(f"{component} was not started")


def test_down_works_twice_and_where_nothing_is(name: str) -> None:
    cluster.down(name)
    claimed = place.claim(name)
    cluster.down(name)
    cluster.down(name)
    assert cluster.leftovers(claimed) == []


def test_a_machines_processes_are_all_in_its_cgroup(here: Place) -> None:
    machine.start(here, "counted", size_of("m6a.large"))
    try:
        first = machine.first_process(here, "counted")
        assert first
        group = machine.group_of(here, "counted")
        namespace = Path(f"/proc/{first}/ns/pid").readlink()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "ns" / "pid").readlink() == namespace:
                    assert f"/{group}/" in (path / "cgroup").read_text()
            except OSError:  # it has ended, or is not ours to see
                continue
    finally:
        machine.stop(here, "counted")
        with Api(here.admin) as api:
            api.delete("Node", "counted")


def test_two_builds_at_once_share_one_result_and_a_killed_one_leaves_none(tmp_path: Path) -> None:
    pause = programs.groups()["pause"]
    unfinished = programs.folder_of(pause, tmp_path)
    unfinished.with_name(unfinished.name + ".unfinished").mkdir(parents=True)
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        built = [pool.submit(programs.build, pause, said.append, cache=tmp_path) for _ in range(2)]
        folders = {item.result() for item in built}
    assert folders == {programs.folder_of(pause, tmp_path)}
    assert sum(line.startswith("[1/1] building") for line in said) == 1
    assert programs.is_built(pause, tmp_path)
    assert [path.name for path in folders.pop().iterdir()] == ["pause"]
