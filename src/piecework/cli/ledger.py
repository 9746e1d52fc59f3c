"""`piecework ledger`: verify, rebuild or print the record that all money is computed from."""

from __future__ import annotations

from datetime import datetime

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Verify, rebuild or print the ledger."""


@command.command()
@options.json_option
def verify(as_json: bool) -> int:
    """Check that all machine bills are charged to the last billionth.

    Computes every bill and every charge from the events alone. Exits 1 where something is wrong.
    """
    from piecework import config
    from piecework.cli.reading import read_ledger

    with read_ledger(config.load()) as ledger:
        found = ledger.verify()
    if as_json:
        terminal.result_json(found.to_json())
        return 0 if found.ok else 1
    facts = found.to_json()
    rows = [
        ["Machines", str(found.machines)],
        ["Attempts", str(found.attempts)],
        ["Bills of machines", facts["bills"]],
        ["Charges and waste", facts["charges"]],
        ["Difference", facts["difference"]],
    ]
    for name, value in rows:
        terminal.result(f"{name.ljust(17)}  {value}")
    for problem in found.problems:
        terminal.error(problem)
    if found.ok:
        terminal.say(terminal.style("The ledger is right.", fg="green"))
    else:
        terminal.error("the ledger is wrong; `piecework ledger rebuild` computes its answers anew")
    return 0 if found.ok else 1


@command.command()
@options.json_option
def rebuild(as_json: bool) -> None:
    """Compute all answers anew from the events.

    Changes nothing where the ledger is right.
    """
    from piecework import config
    from piecework.cli.reading import read_ledger

    with read_ledger(config.load()) as ledger:
        terminal.step("computing all bills and charges anew")
        ledger.rebuild()
        found = ledger.verify()
    if as_json:
        terminal.result_json(found.to_json())
    else:
        terminal.result(f"Rebuilt: {found.machines} machines, {found.attempts} attempts.")


@command.command()
@click.argument("subjects", nargs=-1, metavar="[SUBJECT]...")
@click.option("--since", type=options.Moment(), help="Only events from this time on.")
@options.json_option
def events(subjects: tuple[str, ...], since: datetime | None, as_json: bool) -> None:
    """Print events, oldest first.

    SUBJECT is the id of a machine or an attempt; without one, all events are printed. With --json,
    one object a line.
    """
    from piecework import config
    from piecework.cli.reading import read_ledger

    with read_ledger(config.load()) as ledger:
        found = ledger.events(subjects or None, since)
    found.sort(key=lambda event: (event.at, event.learned_at))
    if as_json:
        for event in found:
            terminal.result(event.to_json())
        return
    import json

    columns = [Column("AT"), Column("SUBJECT"), Column("EVENT"), Column("DATA", shrinks=True)]
    rows = [
        [
            f"{event.at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
            event.subject,
            str(event.kind),
            json.dumps(dict(event.data), ensure_ascii=False),
        ]
        for event in found
    ]
    terminal.result(table(columns, rows, terminal.width()))
    terminal.say("Times are in UTC.")
