"""How a testbed's programs are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import cgroups, components


def test_what_cannot_enter_all_of_its_cgroups_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine was killed meanwhile, and would not be found dead by whoever looks in one."""
    there, gone, log = (
        tmp_path / "cgroup.procs",
        tmp_path / "gone" / "cgroup.procs",
        tmp_path / "log",
    )
    there.touch()
    monkeypatch.setattr(cgroups, "make", lambda group: None)
    monkeypatch.setattr(cgroups, "entry_files", lambda group: [str(gone), str(there)])
    components.spawn("group", ["true"], log)
    assert there.read_text() == ""
    assert not log.exists()

    monkeypatch.setattr(cgroups, "entry_files", lambda group: [str(there)])
    components.spawn("group", ["true"], log)
    assert there.read_text() == "0\n"
    assert log.exists()
