"""check, plan, init and schema: the verbs that only read and write files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from piecework.cli.main import main
from piecework.spec.load import load_pipeline

GOOD = """
pipeline: good
jobs:
  small: {python: job.py, machine: {cpu: 1, memory: 1Gi}, timeout: 30m}
  big: {python: job.py, after: [small], machine: {cpu: 16, memory: 64Gi, count: 2}}
"""
BAD = """
pipeline: bad
jobs:
  a: {pyton: job.py}
  b: {python: job.py, machine: {memory: 4GB}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.py").write_text("print('hello')\n")
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_prints_each_problem_with_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "bad.yaml"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(r"bad\.yaml:\d+:\d+: jobs\.\S+: .+", line)
    assert lines[0].startswith("bad.yaml:4:7: jobs.a.pyton: ")


def test_check_of_a_good_file_prints_no_problem(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "good.yaml"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fine" in captured.err


def test_check_takes_many_files_and_tells_of_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "good.yaml", "bad.yaml", "missing.yaml", "--json"]) == 2
    files = json.loads(capsys.readouterr().out)["files"]
    assert [len(file["problems"]) for file in files] == [0, 2, 1]
    assert files[1]["problems"][0]["line"] == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"[" * 20_000,
        b"a: &a [b]\nb: [*a, *a]\n",
        b"!!python/object/apply:os.system [ls]",
        b"pipeline: p\njobs: 3\n",
        b"- just\n- a list\n",
        b"pipeline: ../../etc\njobs: {a: {python: /etc/passwd}}\n",
    ],
)
def test_check_refuses_hostile_files_without_a_traceback(
    folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd.yaml").write_bytes(content)
    assert main(["check", "odd.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("odd.yaml:")
    assert "Traceback" not in captured.out + captured.err


def test_check_shows_no_control_characters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd.yaml").write_bytes(
        b'pipeline: "p\\e[2J"\njobs: {"\\e]0;x\\a": {python: a.py}}\n'
    )
    assert main(["check", "odd.yaml"]) == 2
    assert "\x1b" not in capsys.readouterr().out


def test_plan_names_a_machine_and_a_price_for_every_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "good.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["JOB", "MACHINE"]
    small, big = lines[1], lines[2]
    assert re.search(r"^small\s+\S+\s+1 CPU.*\$", small)
    assert re.search(r"^big\s+2 x \S+\s", big)


def test_plan_for_programs_can_be_read_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from piecework.plan.plan import plan_from_json

    assert main(["plan", "good.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plans = [plan_from_json(raw) for raw in found["plans"]]
    assert [plan.job_name for plan in plans] == ["small", "big"]
    assert found["no_machine"] == []


def test_plan_says_why_other_machines_were_not_chosen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "good.yaml", "--job", "small", "--why"]) == 0
    out = capsys.readouterr().out
    assert "NOT CHOSEN" in out
    assert "costs" in out


def test_plan_exits_with_3_where_no_machine_fits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "huge.yaml").write_text(
        "pipeline: huge\njobs:\n"
        "  a: {python: job.py, machine: {cpu: 100000}}\n  b: {python: job.py}\n"
    )
    assert main(["plan", "huge.yaml"]) == 3
    captured = capsys.readouterr()
    assert "the largest" in captured.err
    assert "\nb " in captured.out


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "missing.yaml"],
        ["plan", "bad.yaml"],
        ["plan", "."],
        ["plan", "good.yaml", "--job", "smal"],
        ["plan", "good.yaml", "--pool", "lokal"],
        ["run", "missing.yaml"],
        ["run", "good.yaml", "--job", "smal"],
        ["run", "good.yaml", "--param", "x=1"],
        ["run", "good.yaml", "--param", "x"],
        ["run", "good.yaml", "--pool", "lokal"],
        ["run", "good.yaml", "--data", "."],
        ["run", "good.yaml", "--job", "small", "--pool", "lokal"],
        ["submit", "missing.yaml"],
        ["submit", "good.yaml", "--run-id", "../up"],
        ["submit", "good.yaml", "--pool", "lokal"],
        ["show", "nothing"],
        ["show", ""],
        ["why", "nothing"],
        ["logs", "nothing"],
        ["logs", "nothing", "-f", "--json"],
        ["cancel", "nothing"],
        ["ls", "--running", "--state", "ended"],
        ["cost", "--since", "2026-01-02", "--until", "2026-01-01"],
    ],
)
def test_wrong_input_exits_with_2_and_a_clear_message(
    folder: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip()
    assert "Traceback" not in captured.err
    assert "bug" not in captured.err


def test_init_writes_a_pipeline_that_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    assert main(["init", str(folder)]) == 0
    written = capsys.readouterr().out.splitlines()
    assert str(folder / "pipeline.yaml") in written
    assert load_pipeline(folder / "pipeline.yaml").name == "hello"


def test_init_never_writes_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "piecework.toml").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert "piecework.toml exists; nothing was written" in capsys.readouterr().err
    assert (tmp_path / "piecework.toml").read_text() == "mine"
    assert not (tmp_path / "pipeline.yaml").exists()


def test_the_schema_is_json_and_knows_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "$schema" in found
    assert '"spark"' in json.dumps(found)


def test_reading_verbs_work_where_nothing_has_ever_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": []}
    assert main(["machines", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"machines": []}
    assert main(["cost", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []
    assert main(["ledger", "verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["machines"], found["attempts"]) == (0, 0)


def test_a_ledger_that_cannot_be_opened_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ledger").write_text("this is no database" * 100)
    monkeypatch.setenv("PIECEWORK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger")
    assert main(["ls"]) == 1
    captured = capsys.readouterr()
    assert str(tmp_path) in captured.err
    assert "Traceback" not in captured.err
    assert "bug" not in captured.err


POOLS = """
[pools.small]
provider = "karpenter"
types = ["m6a.large"]
image = "python:3.11"
"""


@pytest.mark.parametrize("verb", ["run", "submit"])
def test_a_pipeline_is_planned_on_the_pool_that_is_named_before_anything_starts(
    verb: str, folder: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "piecework.toml").write_text(POOLS)
    assert main([verb, "good.yaml", "--pool", "small"]) == 3
    captured = capsys.readouterr()
    assert "big" in captured.err
    assert "m6a.large" in captured.err
    assert "get no PIECEWORK_DATA" in captured.err
    assert not (home / "airflow").exists()


def test_a_folder_of_this_computer_is_no_data_for_machines_of_a_cluster(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "piecework.toml").write_text(POOLS)
    asked = ["run", "good.yaml", "--job", "small", "--pool", "small", "--data", "."]
    assert main(asked) == 2
    assert "cannot look into a folder of this computer" in capsys.readouterr().err
