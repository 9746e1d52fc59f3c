"""The reference of the command line, made from the commands themselves: docs/reference/cli.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from piecework.cli.main import VERBS, group

_INTRODUCTION = """\
# Command line

`piecework VERB --help` prints the same as this page.

Results go to stdout; progress, warnings and errors go to stderr. Every verb takes `--json`: then
stdout holds JSON and nothing else. Amounts of money are decimal strings there, times are ISO 8601
in UTC. Colours appear on terminals only, and not where `NO_COLOR` is set.

| exit code | meaning |
| --- | --- |
| 0 | success |
| 1 | a job failed, or the command could not do its work |
| 2 | wrong input: a file, an option, a name |
| 3 | could not get a machine |
| 130 | interrupted, by Ctrl-C or SIGTERM |

| variable | meaning |
| --- | --- |
| `PIECEWORK_HOME` | where state lives: the ledger, runs, the platform; default `~/.piecework` |
| `PIECEWORK_CONFIG` | the settings file to read (see [settings](settings.md)) |
| `PIECEWORK_DEBUG` | set: an error shows its traceback |
| `NO_COLOR` | set: no colours |

A RUN is named by its id (`flights.delays.7f3a9c1b04d2`), the beginning or the end of it, the id of
one of its attempts, or its job's name: then the newest run is meant.
"""


def render() -> str:
    """The page, in Markdown."""
    parts = [_INTRODUCTION]
    context = click.Context(group, info_name="piecework")
    for topic, verbs in VERBS.items():
        parts.append(f"## {topic}\n")
        for name in verbs:
            command = group.get_command(context, name)
            assert command is not None
            parts += _describe(command, click.Context(command, context, info_name=name))
    return "\n".join(parts)


def _describe(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### `{context.command_path}`\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```\n{usage}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from (
                part.replace("### ", "#### ", 1)
                for part in _describe(inner, click.Context(inner, context, info_name=name))
            )
        return
    rows = [_option(param, context) for param in command.get_params(context)]
    options = [row for row in rows if row is not None]
    if options:
        yield "\n".join(["| option | meaning |", "| --- | --- |", *options]) + "\n"


def _option(param: click.Parameter, context: click.Context) -> str | None:
    record = param.get_help_record(context)
    if record is None or not record[1] or "--help" in param.opts:
        return None
    names, meaning = (text.replace("|", "\\|") for text in record)
    return f"| `{names}` | {meaning} |"
