"""What a pod's own control group tells, in both versions, and what is made of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from piecework.entrypoint.measure import Container, merge
from piecework.entrypoint.use import UNKNOWN, Use

VERSION_2 = {
    "cgroup.controllers": "cpu memory",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "memory.stat": "anon 1000\nfile 900000\nshmem 20\nkernel 3\n",
    "memory.events": "low 0\noom_kill 0\n",
    "memory.max": "max\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n",
}
VERSION_1 = {
    "cpuacct/cpuacct.usage": "2500000000\n",
    "memory/memory.stat": "cache 900000\nrss 5\ntotal_rss 1000\ntotal_shmem 23\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "blkio/blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\nTotal 30\n",
}


def lay_out(root: Path, files: dict[str, str]) -> Container:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Container(root)


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_a_control_group_tells_cpu_memory_and_devices(
    tmp_path: Path, files: dict[str, str]
) -> None:
    container = lay_out(tmp_path, files)
    assert container.use() == {
        "cpu_seconds": 2.5,
        "peak_memory_bytes": 1023,
        "read_bytes": 10,
        "written_bytes": 20,
    }
    assert container.out_of_memory_kills() == 0


@pytest.mark.parametrize(
    ("files", "events", "limit"),
    [
        (VERSION_1, "memory/memory.oom_control", "memory/memory.limit_in_bytes"),
        (VERSION_2, "memory.events", "memory.max"),
    ],
    ids=["version 1", "version 2"],
)
def test_where_memory_ran_out_the_peak_is_the_limit(
    tmp_path: Path, files: dict[str, str], events: str, limit: str
) -> None:
    container = lay_out(tmp_path, {**files, events: "oom_kill 1\n", limit: "4096\n"})
    assert container.use()["peak_memory_bytes"] == 4096


def test_the_peak_is_the_highest_of_all_looks(tmp_path: Path) -> None:
    container = lay_out(tmp_path, VERSION_2)
    container.start()
    time.sleep(0.4)  # it looks at once
    (tmp_path / "memory.stat").write_text("anon 1\nshmem 0\nkernel 0\n")
    assert container.use()["peak_memory_bytes"] == 1023


def test_without_a_control_group_nothing_is_known(tmp_path: Path) -> None:
    assert lay_out(tmp_path, {}).use() == UNKNOWN


def test_the_larger_figure_counts_and_the_engine_keeps_its_own() -> None:
    group: Use = {**UNKNOWN, "cpu_seconds": 4.0, "peak_memory_bytes": 10}
    spark = {"wall_seconds": 3.0}
    processes: Use = {**UNKNOWN, "cpu_seconds": 5.0, "written_bytes": 7, "spark": spark}
    assert merge(group, processes) == {
        "cpu_seconds": 5.0,
        "peak_memory_bytes": 10,
        "read_bytes": None,
        "written_bytes": 7,
        "spark": spark,
    }
