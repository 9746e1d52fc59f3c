"""The lock that tells the living from the dead."""

from __future__ import annotations

import os
from pathlib import Path

from piecework.machines import lock


def test_only_one_holds_it(tmp_path: Path) -> None:
    first = lock.hold(tmp_path / "lock")
    assert first is not None
    assert lock.hold(tmp_path / "lock") is None
    os.close(first)
    second = lock.hold(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_looking_does_not_take_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not lock.is_held(file)
    assert not file.exists()
    held = lock.hold(file)
    assert held is not None
    assert lock.is_held(file)
    assert lock.is_held(file)
    os.close(held)
    assert not lock.is_held(file)


def test_it_lives_as_long_as_any_copy_of_it(tmp_path: Path) -> None:
    held = lock.hold(tmp_path / "lock")
    assert held is not None
    copy = os.dup(held)
    os.close(held)
    assert lock.is_held(tmp_path / "lock")
    os.close(copy)
    assert not lock.is_held(tmp_path / "lock")


def test_waiting_for_a_free_lock_takes_it(tmp_path: Path) -> None:
    held = lock.wait_and_hold(tmp_path / "lock")
    assert lock.is_held(tmp_path / "lock")
    os.close(held)
