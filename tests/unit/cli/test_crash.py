from __future__ import annotations

import errno
from pathlib import Path

from piecework.cli.crash import describe


def test_an_unexpected_error_is_one_sentence_and_a_file(home: Path) -> None:
    try:
        raise RuntimeError("what nobody foresaw")
    except RuntimeError as error:
        message = describe(error)
    assert "\n" not in message
    assert "RuntimeError: what nobody foresaw" in message
    (report,) = (home / "crashes").iterdir()
    assert str(report) in message
    assert "Traceback" in report.read_text()


def test_a_report_that_cannot_be_written_does_not_hide_the_error(home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("a file where the folder should be")
    assert "what nobody foresaw" in describe(RuntimeError("what nobody foresaw"))


def test_a_full_disk_is_no_bug() -> None:
    message = describe(OSError(errno.ENOSPC, "No space left on device", "/data/ledger.sqlite"))
    assert "/data/ledger.sqlite" in message
    assert "bug" not in message


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    message = describe(ModuleNotFoundError("No module named 'airflow'", name="airflow.sdk"))
    assert "pip install 'piecework[airflow]'" in message
