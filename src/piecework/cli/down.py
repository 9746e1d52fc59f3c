"""`piecework down`: stop the platform of this computer."""

from __future__ import annotations

import click

from piecework.cli import options, terminal


@click.command()
@options.json_option
def command(as_json: bool) -> None:
    """Stop the platform.

    Jobs that run are not ended by this: they go on, are recorded, and the next `piecework up`
    finds them. `piecework cancel` ends a job.
    """
    from piecework import config
    from piecework.airflow import platform
    from piecework.cli.platform_users import PlatformUsers

    settings = config.load()
    users = PlatformUsers(settings)
    with users.deciding():
        followers = users.others()
        if followers:
            terminal.warn(
                f"{len(followers)} other piecework "
                f"{'command uses' if len(followers) == 1 else 'commands use'} it (process "
                f"{', '.join(str(pid) for pid in followers)}) and will end with an error"
            )
        was = platform.status(settings).state
        if was != "down":
            terminal.step("taking the platform down")
        platform.down(settings)
        users.keep()
    if as_json:
        terminal.result_json({"state": "down", "was": was})
    else:
        terminal.result("The platform is down." if was != "down" else "The platform was down.")
