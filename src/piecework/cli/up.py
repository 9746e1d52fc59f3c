"""`piecework up`: start the platform of this computer."""

from __future__ import annotations

import click

from piecework.cli import options, terminal


@click.command()
@options.json_option
def command(as_json: bool) -> None:
    """Start Airflow and all that belongs to it.

    Does nothing where it is up. It stays up until `piecework down`.
    """
    from piecework import config
    from piecework.airflow import platform
    from piecework.cli.platform_users import PlatformUsers
    from piecework.cli.status import show

    settings = config.load()
    users = PlatformUsers(settings)
    with users.deciding():
        users.enter()
    try:
        found = platform.up(settings, terminal.step)
        with users.deciding():
            # Not before: a `run` may have found it down meanwhile, and marked it as its own.
            users.keep()
    except KeyboardInterrupt:
        terminal.say("\nThe platform may be coming up; `piecework down` stops it.")
        raise
    finally:
        users.leave()
    show(settings, found, as_json)
