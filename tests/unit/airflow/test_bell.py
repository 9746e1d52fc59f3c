"""What wakes a trigger: rings from any thread, kept until it waits, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

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


def test_what_can_wait_is_heard_once_for_all_of_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piecework.airflow.bell.SOON_SECONDS", 0.1)

    async def wait() -> float:
        bell = Bell()
        for _ in range(20):
            bell.ring_soon()
        await bell.wait(30)
        began = time.monotonic()
        await bell.wait(0.5)
        return time.monotonic() - began

    assert asyncio.run(wait()) >= 0.4


def test_what_cannot_wait_is_heard_before_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piecework.airflow.bell.SOON_SECONDS", 60.0)

    async def wait() -> float:
        bell = Bell()
        began = time.monotonic()
        bell.ring_soon()
        bell.ring()
        await bell.wait(50)
        return time.monotonic() - began

    assert asyncio.run(wait()) < 40


def test_ringing_when_nobody_waits_any_more_is_no_error() -> None:
    async def make() -> Bell:
        return Bell()

    bell = asyncio.run(make())
    bell.ring()
    bell.ring_soon()
