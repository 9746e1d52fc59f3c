from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from testbed import record, runtimes
from testbed.place import Place

_START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def _line(seconds: float, said: str, more: str = "") -> str:
    at = (_START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    return f'time="{at}" level=info msg={json.dumps(said)}{more}'


def _container(number: int, pod: str, started: float, ended: float | None) -> list[str]:
    """A pod's life as containerd 1.6 logs it."""
    sandbox, container = f"a{number}", f"b{number}"
    metadata = f"&PodSandboxMetadata{{Name:{pod},Uid:9fea,Namespace:jobs,Attempt:0,}}"
    inside = f'CreateContainer within sandbox "{sandbox}" for &ContainerMetadata{{Name:main,'
    lines = [
        _line(started, f'RunPodSandbox for {metadata} returns sandbox id "{sandbox}"'),
        _line(started, f'{inside}Attempt:0,}} returns container id "{container}"'),
        _line(started, f'StartContainer for "{container}"'),
        _line(started, f'StartContainer for "{container}" returns successfully'),
    ]
    if ended is not None:
        lines.append(_line(ended, "shim disconnected", f" id={container}"))
        lines.append(_line(ended + 1, "shim disconnected", f" id={sandbox}"))
    return lines


def _at(seconds: float) -> datetime:
    return _START + timedelta(seconds=seconds)


def test_a_container_is_read_with_its_pod_its_start_and_its_end() -> None:
    lines = ["", "not a line of a log", *_container(1, "one", 1.5, 4), _line(9, "cleaning up")]
    assert runtimes.parse("m1", lines) == [
        runtimes.Run("m1", "jobs", "one", "main", _at(1.5), _at(4))
    ]


def test_what_ran_when_its_machine_died_ended_with_it(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    gone = place.logs / "machines" / "machine-1-1795523066836"
    gone.mkdir(parents=True)
    (gone / "containerd.log").write_text("\n".join(_container(1, "one", 0, None)))
    record.write(place, "machine-1", "stopped", at=_at(7))
    assert [(run.machine, run.ended) for run in runtimes.runs(place)] == [("machine-1", _at(7))]


def test_only_containers_of_different_pods_on_one_machine_at_one_time_overlap() -> None:
    after = runtimes.parse("m1", [*_container(1, "one", 0, 5), *_container(2, "two", 5, 9)])
    assert runtimes.overlapping(after) == []
    elsewhere = runtimes.parse("m2", _container(3, "three", 1, 2))
    same_pod = runtimes.parse("m3", [*_container(4, "four", 0, 9), *_container(5, "four", 1, 2)])
    assert runtimes.overlapping([*after, *elsewhere, *same_pod]) == []
    during = runtimes.parse("m1", _container(6, "six", 4, None))
    pairs = runtimes.overlapping([*after, *during])
    assert [(first.pod, second.pod) for first, second in pairs] == [("one", "six"), ("six", "two")]
