"""Showing how the jobs of a pipeline run are: a live table on a terminal, else a line a change.

All of it goes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from piecework.cli import terminal
from piecework.cli.follow import JobView
from piecework.units import round_duration

if TYPE_CHECKING:
    from rich.table import Table

#: Shows the jobs as they are now.
Show = Callable[[Sequence[JobView]], None]

_MARKS = {
    "to come": ("·", "dim"),
    "queued": ("·", ""),
    "starting": ("·", ""),
    "waiting": ("…", "yellow"),
    "running": ("▶", "cyan"),
    "trying again": ("↻", "yellow"),
    "success": ("✓", "green"),
    "not run": ("-", "dim"),
}


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Inside, the yielded function shows the jobs whenever it is called."""
    if terminal.is_terminal(sys.stderr) and not terminal.is_dumb():
        with _live() as show:
            yield show
    else:
        yield Lines()


class Lines:
    """A line for each change, with its time."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, str, int]] = {}

    def __call__(self, views: Sequence[JobView]) -> None:
        for view in views:
            now = (view.state, view.detail, view.number)
            if self._told.get(view.job) == now or view.state == "to come":
                continue
            self._told[view.job] = now
            detail = f": {terminal.one_line(view.detail)}" if view.detail else ""
            again = f" (attempt {view.number})" if view.number > 1 else ""
            terminal.say(
                f"{datetime.now():%H:%M:%S}  {view.job}: {view.state}{again}{detail}"  # noqa: DTZ005  the user's own clock
            )


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        shown: list[JobView] = []

        def show(views: Sequence[JobView]) -> None:
            shown[:] = views
            live.update(draw(views, datetime.now(UTC)))

        yield show


def draw(views: Sequence[JobView], now: datetime) -> Table:
    """The jobs as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, expand=True)
    for justify in ("left", "left", "left", "right"):
        table.add_column(no_wrap=True, justify=justify)
    # Only what explains is cut to fit.
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for view in views:
        mark, colour = _MARKS.get(view.state, ("✗", "red"))
        again = f" ({view.number})" if view.number > 1 else ""
        table.add_row(
            Text(mark, style=colour),
            Text(view.job),
            Text(view.state + again, style=colour),
            Text(elapsed(view, now)),
            Text(terminal.one_line(view.detail), style="dim"),
        )
    return table


def elapsed(view: JobView, now: datetime) -> str:
    """How long the job has been in its state; of an ended one, how long it ran."""
    if view.state == "waiting":
        start, end = view.queued_at, now
    else:
        start, end = view.started_at, view.ended_at or now
    if start is None:
        return ""
    seconds = end - start
    return round_duration(max(seconds, seconds * 0))
