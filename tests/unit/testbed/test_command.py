from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from testbed import command

_GUIDE = Path(__file__).parents[3] / "docs" / "testbed.md"


def test_the_guide_has_every_command_and_every_fault() -> None:
    text = _GUIDE.read_text(encoding="utf-8")
    parser = command.make_parser()
    (verbs,) = (
        action.choices
        for action in parser._actions  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction)
    )
    missing = [name for name in verbs if f"`{name}" not in text]
    missing += [name for name in command.FAULTS if f"`{name}`" not in text]
    assert missing == []


def test_a_testbed_that_is_not_up_is_said_to_be_so_with_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_TESTBED_CACHE", str(tmp_path))
    assert command.main(["--name", "nowhere", "machines"]) == 1
    assert "testbed nowhere is not up; run: python -m testbed --name nowhere up" in (
        capsys.readouterr().err
    )


def test_a_name_that_would_not_do_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_TESTBED_CACHE", str(tmp_path))
    assert command.main(["--name", "../etc", "machines"]) == 1
    assert "'../etc'; a testbed's name is made of a-z, 0-9 and -" in capsys.readouterr().err
