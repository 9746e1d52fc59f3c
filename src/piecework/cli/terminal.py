"""How the command line talks: results to stdout, everything else to stderr.

Text that comes from jobs or files is made harmless before it reaches a terminal; colours appear
only on one, and never where NO_COLOR is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def prepare() -> None:
    """Makes stdout and stderr take any text, whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """The text without control characters but tab and newline; each is shown as its escape."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The text as one harmless line."""
    return printable(" ".join(text.split()))


def result(text: str = "") -> None:
    """Prints a result."""
    click.echo(text, color=coloured(sys.stdout))


def result_paragraph(text: str) -> None:
    """Prints a result of some sentences, broken between words where a terminal ends."""
    columns = width()
    if columns is not None:
        text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    result(text)


def result_json(value: Any) -> None:
    """Prints a result as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str = "") -> None:
    """Prints progress or a remark."""
    click.echo(text, err=True, color=coloured(sys.stderr))


def step(text: str) -> None:
    """Prints what is being done now."""
    say(style("> ", fg="cyan") + printable(text))


def warn(text: str) -> None:
    """Prints a warning."""
    say(style("warning: ", fg="yellow") + printable(text))


def error(text: str) -> None:
    """Prints an error."""
    say(style("error: ", fg="red", bold=True) + printable(text))


def style(text: str, **how: Any) -> str:
    """The text in colour; where colours are not wanted they are stripped at printing."""
    return click.style(text, **how)


def coloured(stream: TextIO) -> bool:
    """Whether colours are wanted on this stream."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and not is_dumb()


def is_dumb() -> bool:
    """Whether the terminal can only print lines."""
    return os.environ.get("TERM", "dumb") == "dumb"


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at this stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def width() -> int | None:
    """Columns of the terminal that results go to; None where they don't go to one."""
    if not is_terminal(sys.stdout):
        return None
    return shutil.get_terminal_size().columns


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: cleaned up, and with exit code 130.

    Where they are ignored (nohup) they stay so.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
