"""The command line as a whole: help, wrong input, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from piecework.cli import main


def call(*args: str) -> int:
    return main.main(list(args))


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    for verbs in main.VERBS.values():
        for name, (_, words) in verbs.items():
            assert f"  {name} " in out
            assert words in out


@pytest.mark.parametrize("verb", [name for verbs in main.VERBS.values() for name in verbs])
def test_every_verb_has_help_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: piecework {verb}")
    if verb not in ("ledger", "pools"):  # groups: their own verbs have it
        assert "--json" in out


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for code in ("0 success", "1 a job failed", "2 wrong input", "3 could not", "130 interrupted"):
        assert code in out


def test_a_misspelt_verb_is_answered_with_the_right_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("chekc") == 2
    assert "Did you mean 'check'?" in capsys.readouterr().err


def test_a_misspelt_option_is_answered_with_the_right_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("cost", "--sinse", "1d") == 2
    assert "--since" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["check"],
        ["plan"],
        ["plan", "a.yaml", "b.yaml"],
        ["run"],
        ["show"],
        ["logs"],
        ["why"],
        ["cancel"],
        ["cost", "--by", "colour"],
        ["cost", "--since", "yesterday-ish"],
        ["ls", "--state", "odd"],
        ["ledger", "burn"],
        ["logs", "x", "--attempt", "zero"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_how_it_is_right(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_a_wrong_settings_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "piecework.toml").write_text('timeuot = "1h"\n')
    monkeypatch.chdir(tmp_path)
    assert call("cost") == 2
    err = capsys.readouterr().err
    assert "piecework.toml" in err
    assert "did you mean timeout?" in err


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "piecework", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("piecework ")


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys\n"
        "from piecework.cli.main import main\n"
        "main(['--help'])\n"
        "heavy = {'airflow', 'sqlalchemy', 'alembic', 'httpx', 'jinja2', 'rich', 'pydantic',"
        " 'yaml', 'psutil', 'pandas', 'asyncio'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_stops_reading_is_no_error() -> None:
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m piecework schema | head -c 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_commands_can_be_called_by_clicks_own_runner() -> None:
    assert CliRunner().invoke(main.group, ["--version"]).exit_code == 0
