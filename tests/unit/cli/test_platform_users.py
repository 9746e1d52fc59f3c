from __future__ import annotations

import json
import os

from piecework import config
from piecework.airflow.processes import identify
from piecework.cli.platform_users import PlatformUsers


def users() -> PlatformUsers:
    return PlatformUsers(config.load())


def test_one_does_not_count_oneself() -> None:
    found = users()
    with found.deciding():
        found.enter()
        assert found.others() == []


def test_another_living_process_is_a_user_until_it_leaves() -> None:
    found = users()
    parent = identify(os.getppid())
    assert parent is not None
    with found.deciding():
        file = config.load().home / "platform-users" / f"{parent.pid}.json"
        file.write_text(json.dumps(parent.to_json()))
        assert found.others() == [parent.pid]
        file.unlink()
        assert found.others() == []


def test_a_process_that_died_is_no_user_even_where_its_id_lives_on() -> None:
    found = users()
    parent = identify(os.getppid())
    assert parent is not None
    with found.deciding():
        file = config.load().home / "platform-users" / f"{parent.pid}.json"
        file.write_text(json.dumps(parent.to_json() | {"start": parent.start - 1}))
        assert found.others() == []
        assert not file.exists()


def test_a_file_that_is_being_written_is_left_alone() -> None:
    found = users()
    with found.deciding():
        file = config.load().home / "platform-users" / "1.json"
        file.write_text('{"pid"')
        assert found.others() == []
        assert file.exists()


def test_what_was_borrowed_goes_unless_somebody_keeps_it() -> None:
    found = users()
    with found.deciding():
        assert not found.borrowed
        found.borrow()
        assert found.borrowed
        found.keep()
        found.keep()
        assert not found.borrowed
