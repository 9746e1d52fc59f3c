"""What wakes a trigger: rings from any thread, kept until it waits, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time

from piecework.airflow.bell import Bell


def test_a_ring_from_another_thread_ends_the_wait() -> None:
    async def wait() -> float:
        bell = Bell()
        threading.Timer(0.05, bell.ring).start()
        began = time.monotonic()
        await bell.wait(30)
        return time.monotonic() - began

    assert asyncio.run(wait()) < 10


def test_a_ring_before_the_wait_is_kept_and_heard_once() -> None:
    async def wait() -> list[float]:
        bell = Bell()
        bell.ring()
        bell.ring()
        await asyncio.sleep(0)
        waited = []
        for seconds in (30.0, 0.05):
            began = time.monotonic()
            await bell.wait(seconds)
            waited.append(time.monotonic() - began)
        return waited

    first, second = asyncio.run(wait())
    assert first < 10
    assert second >= 0.04


def test_ringing_when_nobody_waits_any_more_is_no_error() -> None:
    async def make() -> Bell:
        return Bell()

    asyncio.run(make()).ring()
