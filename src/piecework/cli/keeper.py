"""`piecework keeper`: admits, records and gives back on a cluster, until it is told to end."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import click

from piecework.cli import terminal

if TYPE_CHECKING:
    from piecework.config import Settings
    from piecework.spec.pool import Pool


@click.command()
@click.option("--pool", "pools", multiple=True, metavar="NAME", help="Keep this pool; repeat it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done now, and do nothing.")
@click.option("--uninstall", is_flag=True, help="Take all of piecework's finalizers off, and end.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), help="Serve Prometheus metrics on this port."
)
@click.option("--identity", metavar="ID", help="A name that no other keeper has.")
@click.option("--json-logs", is_flag=True, help="Write the log as JSON, a line an entry.")
def command(
    pools: tuple[str, ...],
    dry_run: bool,
    uninstall: bool,
    metrics_port: int | None,
    identity: str | None,
    json_logs: bool,
) -> None:
    """Keep the machines of a cluster: admit runs, record, give machines back.

    It never buys. Of several keepers one acts; another takes over within 15 seconds.
    Without --pool it keeps all pools of piecework.toml that are on a cluster.
    """
    from piecework import config
    from piecework.keeper.cluster import start

    settings = config.load()
    chosen = start.choose_pools(settings, pools)
    prepare_logs(json_logs)
    if dry_run:
        _print_plan(settings, chosen)
    elif uninstall:
        _uninstall(chosen)
    else:
        start.keep(settings, chosen, start.Options(identity or "", metrics_port))


def prepare_logs(as_json: bool) -> None:
    """What the keeper logs goes to stderr, for people or for programs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(_LINE))
    logger = logging.getLogger("piecework")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


_LINE = "%(asctime)s %(levelname)-7s %(message)s"


class JsonLines(logging.Formatter):
    """An entry as one line of JSON: time, level, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        for name in ("action", "subject"):
            if hasattr(record, name):
                entry[name] = getattr(record, name)
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _print_plan(settings: Settings, pools: dict[str, Pool]) -> None:
    from piecework.keeper.cluster import start

    with start.tending(settings, pools, writes=False) as keeper:
        actions = keeper.plan()
    for action in actions:
        terminal.result(terminal.one_line(str(action)))
    if not actions:
        terminal.say("There is nothing to do.")


def _uninstall(pools: dict[str, Pool]) -> None:
    from piecework.keeper.cluster import start, uninstall

    left = uninstall.uninstall(start.connect(pools), set(pools))
    terminal.say(f"Finalizers were taken off {left.pods} pods and {left.machines} machines.")
    for pod in left.gated:
        terminal.warn(f"pod {pod} waits for admission, and nobody will admit it: delete it")
    for pod in left.running:
        terminal.warn(f"pod {pod} still runs; its machine will not be given back by piecework")
