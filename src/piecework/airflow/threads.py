"""Threads in which triggers ask clusters and Airflow, while their event loop goes on.

Airflow's own work, a line in a task's log among it, goes through the event loop's default threads,
of which there are few (four more than the host has CPUs). Hundreds of runs that end in the same
seconds, each with questions to a busy API server, would have it wait for all of them. So piecework
has threads of its own, for waiting, not for computing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: As many as Python's own pool has at most.
MOST = 32
_threads = ThreadPoolExecutor(MOST, thread_name_prefix="piecework")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the call returns or raises, from a thread that has the caller's context variables."""
    run = partial(copy_context().run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, run)


def soon(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Has a call done by a thread, for whose end nobody waits; it must not raise."""
    _threads.submit(partial(copy_context().run, call, *args, **kwargs))
