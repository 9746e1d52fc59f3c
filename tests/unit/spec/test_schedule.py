from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.spec.schedule import PRESETS, check_schedule, check_timezone


@pytest.mark.parametrize(
    "schedule", [*PRESETS, "0 6 * * *", "*/5 * * * *", "0 0 1,15 * MON-FRI", "0 0 L * *"]
)
def test_schedules_that_airflow_knows_are_taken(schedule: str) -> None:
    assert check_schedule(schedule) == schedule


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("", "five cron fields"),
        ("0 6 * *", "five cron fields"),
        ("0 0 6 * * *", "five cron fields"),
        ("60 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("daily", "did you mean @daily?"),
        ("@dayly", "did you mean @daily?"),
        ("@reboot", "known are @continuous"),
        ("0 0 * * 5L", "not cron"),
        ("0 0 1 * 1#2", "only where the day of the month is *"),
        ("{{ x }}", "templates are rendered"),
    ],
)
def test_other_schedules_are_refused(schedule: str, message: str) -> None:
    with pytest.raises(ValueError, match="found") as raised:
        check_schedule(schedule)
    assert message in str(raised.value)


PART = st.sampled_from(["*", "1", "2-4", "*/2", "1-5/2", "L", "LW", "5L", "MON", "1#2", "JAN", "7"])
FIELD = st.lists(PART, min_size=1, max_size=2).map(",".join)


@given(st.lists(FIELD, min_size=5, max_size=5).map(" ".join))
@settings(deadline=None)
def test_what_is_taken_airflow_can_compute(schedule: str) -> None:
    croniter = pytest.importorskip("croniter")
    try:
        check_schedule(schedule)
    except ValueError:
        return
    croniter.croniter(schedule, datetime(2024, 1, 1, tzinfo=UTC)).get_next()


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/New_York"])
def test_time_zones_are_taken(name: str) -> None:
    assert check_timezone(name) == name


@pytest.mark.parametrize("name", ["", "Europe/Berln", "../UTC", "/etc/passwd", "a\0b", "America"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="which is no time zone"):
        check_timezone(name)
