from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework import clock

TIMES = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis wants bounds without a zone
    datetime(9999, 12, 29),  # noqa: DTZ001 - as above
    timezones=st.timezones() | st.just(UTC),
)


@given(TIMES)
def test_a_time_is_read_back_as_it_was_written(at: datetime) -> None:
    assert clock.from_text(clock.to_text(at)) == at.astimezone(UTC)


@given(TIMES, TIMES)
def test_texts_sort_as_times_do(one: datetime, other: datetime) -> None:
    one, other = one.astimezone(UTC), other.astimezone(UTC)
    assert (clock.to_text(one) < clock.to_text(other)) == (one < other)


def test_times_are_in_utc() -> None:
    at = datetime(2024, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    assert clock.to_text(at) == "2024-01-31T10:00:00.000000Z"
    assert clock.from_text("2024-01-31T12:00:00+02:00").utcoffset() == timedelta(0)
    assert clock.now().utcoffset() == timedelta(0)


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="add Z for UTC"):
        clock.from_text("2024-01-31T12:00:00")
    with pytest.raises(ValueError, match="does not say its zone"):
        clock.to_text(datetime(2024, 1, 31))  # noqa: DTZ001 - what is tested


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00+23:00", "2024-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        clock.from_text(text)
