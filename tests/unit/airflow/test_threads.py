"""Triggers' threads: with their caller's context, and none of the event loop's own."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from piecework.airflow.threads import in_thread, soon

_task: ContextVar[str] = ContextVar("_task", default="")


def test_a_call_has_its_callers_context_and_what_it_raises_is_raised() -> None:
    def fail() -> None:
        raise ValueError(_task.get())

    async def scene() -> str:
        _task.set("one")
        with pytest.raises(ValueError, match="one"):
            await in_thread(fail)
        return await in_thread(_task.get)

    assert asyncio.run(scene()) == "one"


def test_calls_that_wait_keep_nobody_from_the_loops_own_threads() -> None:
    go, told = threading.Event(), threading.Event()

    async def scene() -> str:
        waiting = [asyncio.ensure_future(in_thread(go.wait, 30)) for _ in range(100)]
        await asyncio.sleep(0)
        answer = await asyncio.wait_for(asyncio.to_thread(lambda: "there"), 10)
        go.set()
        await asyncio.gather(*waiting)
        soon(told.set)
        return answer

    assert asyncio.run(scene()) == "there"
    assert told.wait(10)
