"""The command `piecework`: finds the verb, runs it, and turns every end into an exit code.

What enters is the command line; what leaves is an exit code, with results on stdout and everything
else on stderr. A verb's module is imported only when that verb is called, so that `--help` costs
little more than starting Python.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from piecework.cli import terminal
from piecework.errors import PieceworkError

#: Verb -> (the module that holds it as `command`, what it does, in a few words), by topic.
VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Write": {
        "init": ("init", "Write a first pipeline to start from."),
        "check": ("check", "Check pipeline files and tell all that is wrong."),
        "plan": ("plan", "Show the machine of every job and what it will cost."),
        "schema": ("schema", "Print the JSON Schema of pipeline files, for editors."),
    },
    "Run": {
        "run": ("run", "Run a pipeline, follow it to its end, print the bill."),
        "submit": ("submit", "Queue a pipeline run and return."),
        "cancel": ("cancel", "End a run or a pipeline run."),
        "demo": ("demo", "Run the example on real flights, with its bill."),
    },
    "Look": {
        "ls": ("ls", "List runs."),
        "show": ("show", "Show a run or a pipeline run with all attempts."),
        "logs": ("logs", "Print or follow what a run wrote."),
        "why": ("why", "Say why a run waits, or why it ended."),
        "machines": ("machines", "List machines, live and past."),
        "cost": ("cost", "Sum up what was spent and what was wasted."),
        "advise": ("advise", "Say which machine size would have been cheaper, and by how much."),
        "ledger": ("ledger", "Verify, rebuild or print the ledger."),
    },
    "The machines of a cluster": {
        "pools": ("pools", "List, render and check machine pools."),
        "keeper": ("keeper", "Admit runs, record, give machines back."),
        "orphans": ("orphans", "List what has outlived its purpose, and remove it."),
    },
    "The platform of this computer": {
        "up": ("up", "Start Airflow and all that belongs to it."),
        "down": ("down", "Stop the platform."),
        "status": ("status", "Say whether the platform is up, and where."),
    },
}
_MODULES = {name: entry for verbs in VERBS.values() for name, entry in verbs.items()}

EXIT_CODES = """\
Exit codes: 0 success, 1 a job failed or the command could not do its work, 2 wrong input,
3 could not get a machine, 130 interrupted. Results go to stdout, all else to stderr."""


class Verbs(click.Group):
    """The verbs by name, imported when called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"piecework.cli.{_MODULES[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _MODULES and not name.startswith("-"):
            close = get_close_matches(name, _MODULES, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else "`piecework --help` lists them."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for topic, verbs in VERBS.items():
            with formatter.section(topic):
                formatter.write_dl([(name, entry[1]) for name, entry in verbs.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    terminal.result(f"piecework {version('piecework')}")
    ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def group() -> None:
    """Pay for the piece of work, not for the cluster.

    Each job of a pipeline runs on a machine of its own, which is given back when the job ends;
    Airflow queues the jobs, and every machine is billed to the cent.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Prints every error as one clear message."""
    if args is not None:
        return _run(args)
    # This process is the command. What is imported stays, so looking through it for garbage, again
    # and again and once more at the end, only costs time: a fifth of `plan`.
    gc.set_threshold(100_000)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()


def _run(args: Sequence[str]) -> int:
    terminal.prepare()
    try:
        with terminal.terminate_as_interrupt():
            value: Any = group.main(list(args), prog_name="piecework", standalone_mode=False)
        code = value if isinstance(value, int) else 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has all it wants. Python would complain again at its own end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.UsageError as error:
        code = _tell_usage(error)
    except click.ClickException as error:
        terminal.error(error.format_message())
        code = 2
    except (click.Abort, KeyboardInterrupt):
        terminal.say("Interrupted.")
        code = 130
    except PieceworkError as error:
        code = _tell(error)
    except Exception as error:
        code = _tell_unexpected(error)
    return code


def _tell_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        terminal.say(error.format_message())
        return 2
    terminal.error(error.format_message())
    if error.ctx is not None:
        terminal.say(f"Try '{error.ctx.command_path} --help'.")
    return 2


def _tell(error: PieceworkError) -> int:
    if os.environ.get("PIECEWORK_DEBUG"):
        raise error
    from piecework.errors import SpecError

    if isinstance(error, SpecError):
        for problem in error.problems:
            terminal.say(terminal.printable(str(problem)))
    else:
        terminal.error(str(error))
    return error.exit_code


def _tell_unexpected(error: Exception) -> int:
    if os.environ.get("PIECEWORK_DEBUG"):
        raise error
    from piecework.cli.crash import describe

    terminal.error(describe(error))
    return 1
