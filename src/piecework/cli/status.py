"""`piecework status`: whether the platform of this computer is up, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table

if TYPE_CHECKING:
    from piecework.airflow.platform import PlatformStatus
    from piecework.config import Settings


@click.command()
@options.json_option
def command(as_json: bool) -> int:
    """Say whether the platform is up, and where.

    Exits 0 where it is up, else 1.
    """
    from piecework import config
    from piecework.airflow import platform

    settings = config.load()
    found = platform.status(settings)
    show(settings, found, as_json)
    return 0 if found.state == "up" else 1


def show(settings: Settings, found: PlatformStatus, as_json: bool) -> None:
    """Prints how the platform is."""
    from piecework.cli.platform_users import PlatformUsers

    borrowed = found.state != "down" and PlatformUsers(settings).borrowed
    if as_json:
        terminal.result_json(
            {
                "home": str(settings.home),
                "stops_with_last_run": borrowed,
                **found.to_json(),
            }
        )
        return
    terminal.result(f"The platform is {found.state}. Its state is in {settings.home}.")
    if found.state == "down":
        return
    from piecework.units import Memory

    rows = [
        [
            component.name,
            component.state,
            None if component.pid is None else str(component.pid),
            str(component.restarts),
            Memory(component.memory_bytes).rounded(),
        ]
        for component in found.components
    ]
    columns = [
        Column("COMPONENT"),
        Column("STATE"),
        Column("PROCESS", right=True),
        Column("RESTARTS", right=True),
        Column("MEMORY", right=True),
    ]
    terminal.result()
    terminal.result(table(columns, rows, terminal.width()))
    terminal.result()
    if found.url:
        terminal.result(f"Airflow     {found.url} (user {found.user})")
        terminal.result(f"Password    in {found.password_file}")
    terminal.result(f"Logs        {found.logs}")
    if borrowed:
        terminal.result("It was started by a `piecework run` and stops with the last one.")
