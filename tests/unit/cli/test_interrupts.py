from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from piecework.cli.interrupts import cleaning_up


def test_one_interrupt_lets_the_cleaning_finish_and_is_raised_after_it() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _clean_interrupted(steps)
    assert steps == ["begun", "done"]


def _clean_interrupted(steps: list[str]) -> None:
    with cleaning_up("nothing"):
        steps.append("begun")
        signal.raise_signal(signal.SIGINT)
        steps.append("done")


def test_cleaning_without_an_interrupt_raises_nothing_and_restores_the_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    with cleaning_up("nothing"):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_while_cleaning_after_one_leaves_at_once_and_says_what_is_left(
    name: str,
) -> None:
    code = (
        "import signal\n"
        "from piecework.cli.interrupts import cleaning_up\n"
        "try:\n"
        "    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n"
        "    with cleaning_up('a job may run'):\n"
        f"        signal.raise_signal(signal.{name})\n"
        "        print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert "a job may run" in done.stderr
    assert done.stdout == ""
