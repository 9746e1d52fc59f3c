"""`piecework orphans`: what has outlived its purpose on a cluster, and its removal."""

from __future__ import annotations

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table


@click.command()
@click.option("--pool", "pools", multiple=True, metavar="NAME", help="Look at this pool only.")
@click.option("--delete", is_flag=True, help="End them now.")
@options.json_option
def command(pools: tuple[str, ...], delete: bool, as_json: bool) -> int:
    """List pods whose purpose is over and machines that do no work.

    The keeper removes them by itself; this is for looking, and for when no keeper runs. What is
    removed is recorded by the keeper. Exits 1 where something could not be removed.
    """
    from piecework import config
    from piecework.keeper.cluster import start
    from piecework.keeper.cluster.orphans import find_orphans

    settings = config.load()
    with start.tending(settings, start.choose_pools(settings, pools), writes=False) as keeper:
        found = find_orphans(keeper.look_around())
        failed = []
        if delete:
            keeper.executor.longest_seconds = 300.0
            done = keeper.executor.apply(action for item in found for action in item.actions)
            failed = [result.error for result in done if result.error is not None]
    if as_json:
        terminal.result_json(
            {
                "orphans": [{"subject": item.subject, "reason": item.reason} for item in found],
                "deleted": delete and not failed,
                "failed": failed,
            }
        )
        return 1 if failed else 0
    if not found:
        terminal.say("There are no orphans.")
        return 0
    columns = [Column("ORPHAN"), Column("WHY", shrinks=True)]
    rows: list[list[str | None]] = [[item.subject, item.reason] for item in found]
    terminal.result(table(columns, rows, terminal.width()))
    for error in failed:
        terminal.error(error)
    if not delete:
        terminal.say("`piecework orphans --delete` ends them.")
    return 1 if failed else 0
