from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.units import (
    LONGEST,
    MOST_MEMORY,
    Memory,
    Money,
    format_cpu,
    format_duration,
    parse_cpu,
    parse_duration,
    round_duration,
)


@given(st.integers(0, MOST_MEMORY).map(Memory))
def test_memory_is_read_back_as_it_was_written(memory: Memory) -> None:
    assert Memory.parse(str(memory)) == memory


@given(st.integers(1, 10**9).map(lambda milli: Decimal(milli) / 1000))
def test_cpus_are_read_back_as_they_were_written(cpus: Decimal) -> None:
    assert parse_cpu(format_cpu(cpus)) == parse_cpu(cpus) == parse_cpu(cpus.normalize()) == cpus
    assert "E" not in str(parse_cpu(cpus))


@given(st.timedeltas(timedelta(microseconds=1), LONGEST))
def test_durations_are_read_back_as_they_were_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(st.text() | st.integers() | st.floats() | st.decimals() | st.booleans() | st.none())
def test_anything_is_read_or_refused_in_one_line(value: object) -> None:
    parsers: list[Callable[[Any], object]] = [Memory.parse, parse_cpu, parse_duration]
    for parse in parsers:
        try:
            parse(value)
        except ValueError as error:
            message = str(error)
        else:
            continue
        assert message.startswith("found ")
        assert message.isprintable()
        assert len(message) < 300


@pytest.mark.parametrize(
    ("text", "size"),
    [("4Gi", 4 * 2**30), ("512Mi", 2**29), ("16G", 16 * 10**9), ("1.5Ki", 1536), (" 1 k ", 1000)],
)
def test_memory_is_written_as_kubernetes_writes_it(text: str, size: int) -> None:
    assert Memory.parse(text) == Memory(size)


@pytest.mark.parametrize(("text", "meant"), [("4GB", "4G"), ("4g", "4Gi"), ("8mb", "8M")])
def test_a_wrong_unit_of_memory_is_told_with_the_one_meant(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
        Memory.parse(text)


def test_a_part_of_a_byte_needs_all_of_it() -> None:
    assert Memory.parse("0.1Gi").bytes == 107_374_183


def test_memory_is_ordered_and_rounded_for_people() -> None:
    assert Memory.parse("1Gi") > Memory.parse("1000Mi")
    assert Memory.parse("3700Mi").rounded() == "3.6 GiB"
    assert Memory(12).rounded() == "12 B"


@pytest.mark.parametrize(
    ("value", "cpus"), [(2, "2"), (0.5, "0.5"), ("500m", "0.5"), ("10", "10"), (1e-3, "0.001")]
)
def test_cpus_are_numbers_or_thousandths(value: float | str, cpus: str) -> None:
    assert format_cpu(parse_cpu(value)) == cpus


@pytest.mark.parametrize("value", [0, -1, True, "", "0.5m", "1e3", float("nan"), 1_000_001, None])
def test_what_no_machine_has_is_refused_as_cpus(value: object) -> None:
    with pytest.raises(ValueError, match="found"):
        parse_cpu(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("45m", 2700), ("1h30m", 5400), ("1h 30m", 5400), ("90s", 90), (90, 90), ("250ms", 0.25)],
)
def test_durations_are_written_with_units_or_are_seconds(value: str | int, seconds: float) -> None:
    assert parse_duration(value).total_seconds() == seconds


@pytest.mark.parametrize("value", ["", "5", "1:30", "h", "5m3", 0, -1, True, "367d", float("inf")])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="found"):
        parse_duration(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2s"), (45, "45s"), (61, "1m 1s"), (3600, "1h"), (5430, "1h 30m"), (90_000, "1d 1h")],
)
def test_durations_are_rounded_for_people(seconds: float, text: str) -> None:
    assert round_duration(timedelta(seconds=seconds)) == text


@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18))
def test_money_adds_up_to_the_billionth(one: int, other: int) -> None:
    total = Money.from_nanos(one) + Money.from_nanos(other)
    assert total.nanos() == one + other
    assert (total - Money.from_nanos(other)).nanos() == one
    assert Money(Decimal(total.decimal_text())) == total


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("12.345", "$12.34"),
        ("1234567.891", "$1,234,567.89"),
        ("0.0123", "$0.012"),
        ("0.5", "$0.50"),
        ("-0.00001234", "-$0.000012"),
        ("0.0000000001", "$0.000000000"),
    ],
)
def test_money_shows_two_digits_of_small_amounts(amount: str, text: str) -> None:
    assert str(Money(Decimal(amount))) == text


def test_currencies_never_mix() -> None:
    with pytest.raises(ValueError, match="USD and EUR do not add up"):
        Money(Decimal(1)) + Money(Decimal(1), "EUR")
    assert str(Money(Decimal(2), "EUR") * 3) == "EUR 6.00"


def test_what_is_no_amount_is_no_money() -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        Money(Decimal("NaN"))
