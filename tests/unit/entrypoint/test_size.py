"""The size of the machine where nobody told it."""

from __future__ import annotations

import os

from piecework.entrypoint.size import cpu_limit, memory_limit, size_environment
from piecework.entrypoint.use import read_io, use_of_children


def test_what_was_told_stays() -> None:
    told = {
        "PIECEWORK_CPUS": "3",
        "PIECEWORK_MEMORY_BYTES": "1000",
        "PIECEWORK_GPUS": "1",
        "A": "b",
    }
    assert size_environment(told) == told


def test_what_was_not_told_is_what_this_process_may_use() -> None:
    sized = size_environment({})
    assert 1 <= int(sized["PIECEWORK_CPUS"]) <= len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < int(sized["PIECEWORK_MEMORY_BYTES"]) <= total
    assert sized["PIECEWORK_GPUS"] == "0"
    assert (cpu_limit(), memory_limit()) == (
        int(sized["PIECEWORK_CPUS"]),
        int(sized["PIECEWORK_MEMORY_BYTES"]),
    )


def test_use_grows_with_what_children_do() -> None:
    before = use_of_children()["cpu_seconds"]
    pid = os.fork()
    if pid == 0:
        while os.times().user < 0.05:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    after = use_of_children()["cpu_seconds"]
    assert before is not None
    assert after is not None
    assert after - before >= 0.04


def test_a_process_that_is_gone_has_no_known_io() -> None:
    assert read_io(2**22 + 1) == (None, None)
