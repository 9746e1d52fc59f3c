"""Quantities that carry their unit: memory, CPU, durations, money.

What enters is text as people write it ("4Gi", "500m", "1h30m"); what leaves are exact values.
Nothing here is a float: money and CPU are Decimal, memory is whole bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import total_ordering

from piecework.errors import show

KIBI, MEBI, GIBI, TEBI = 2**10, 2**20, 2**30, 2**40

_MEMORY_UNITS = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": KIBI,
    "Mi": MEBI,
    "Gi": GIBI,
    "Ti": TEBI,
}
_MEMORY = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*", re.ASCII)
_CPU = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)(m?)\s*", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(ms|[smhdw])", re.ASCII)
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(604800),
}
#: Longer than any job may take; keeps sums inside what datetime can hold.
LONGEST = timedelta(days=366)
MOST_MEMORY = 2**60
MOST_CPUS = 1_000_000


@total_ordering
@dataclass(frozen=True, slots=True)
class Memory:
    """An amount of memory, in whole bytes."""

    bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.bytes <= MOST_MEMORY:
            found = f"{show(self.bytes)} bytes"
            raise ValueError(f"found {found}, which is not an amount of memory that a machine has")

    @classmethod
    def parse(cls, text: str | int | Memory) -> Memory:
        """Reads "4Gi", "512Mi", "16G", "1.5Ti" as Kubernetes writes them, or a number of bytes.

        Raises ValueError with what would be right.
        """
        if isinstance(text, Memory):
            return text
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ValueError(f"found {show(text)}; memory is written like 4Gi or 512Mi")
        if isinstance(text, int):
            return cls(text)
        match = _MEMORY.fullmatch(text)
        if not match:
            raise ValueError(f"found {show(text)}; memory is written like 4Gi or 512Mi")
        number, unit = match.groups()
        if unit not in _MEMORY_UNITS:
            likely = {"b": "", "kb": "K", "mb": "M", "gb": "G", "tb": "T", "g": "Gi", "m": "Mi"}
            guess = likely.get(unit.lower())
            hint = f"did you mean {number}{guess}?" if guess is not None else "use Ki, Mi, Gi or Ti"
            raise ValueError(f"found {show(text)}, whose unit {show(unit)} is unknown; {hint}")
        amount = Decimal(number) * _MEMORY_UNITS[unit]
        return cls(int(amount.to_integral_value(ROUND_CEILING)))  # a part of a byte needs all of it

    def __lt__(self, other: Memory) -> bool:
        return self.bytes < other.bytes

    def __str__(self) -> str:
        """The shortest exact text that `parse` reads back: 4Gi, 1536Mi, 1000."""
        for unit in ("Ti", "Gi", "Mi", "Ki"):
            factor = _MEMORY_UNITS[unit]
            if self.bytes and self.bytes % factor == 0:
                return f"{self.bytes // factor}{unit}"
        return str(self.bytes)

    def rounded(self) -> str:
        """For people, three digits at most: 3.7 GiB."""
        for unit, factor in (("TiB", TEBI), ("GiB", GIBI), ("MiB", MEBI), ("KiB", KIBI)):
            if self.bytes >= factor:
                amount = Decimal(self.bytes) / factor
                digits = amount.quantize(Decimal("0.1") if amount < 100 else Decimal(1))
                return f"{digits:f}".removesuffix(".0") + f" {unit}"
        return f"{self.bytes} B"


def parse_cpu(value: str | int | float | Decimal) -> Decimal:
    """Reads a number of vCPUs: 2, 0.5, "500m". Exact to a thousandth.

    Raises ValueError with what would be right.
    """
    wrong = f"found {show(value)}; CPUs are written like 2, 0.5 or 500m"
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(wrong)
    # Decimal and float print with an exponent at times, which people don't write.
    text = value if isinstance(value, str) else _plain_number(value)
    match = _CPU.fullmatch(text)
    if not match:
        raise ValueError(wrong)
    cpus = Decimal(match[1]) / (1000 if match[2] else 1)
    if not 0 < cpus <= MOST_CPUS:
        raise ValueError(
            f"found {show(value)}; a machine has more than 0 and at most {MOST_CPUS} CPUs"
        )
    if cpus * 1000 % 1:
        raise ValueError(f"found {show(value)}, which is finer than a thousandth of a CPU (1m)")
    return cpus.quantize(Decimal(1)) if cpus == cpus.to_integral_value() else cpus.normalize()


def _plain_number(value: int | float | Decimal) -> str:
    """The shortest decimal text that stands for the number; empty where there is none."""
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        return f"{number:f}" if abs(number.adjusted()) < 30 else ""
    except ValueError:  # infinite, or not a number
        return ""


def format_cpu(cpus: Decimal) -> str:
    """The text that `parse_cpu` reads back, without exponent: 2, 0.5."""
    return f"{cpus.normalize():f}"


def parse_duration(value: str | int | float | timedelta) -> timedelta:
    """Reads "45m", "2h", "1h30m", "90s", or a number of seconds. More than 0, at most 366 days.

    Raises ValueError with what would be right.
    """
    wrong = f"found {show(value)}; a duration is written like 45m, 2h or 1h30m"
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(wrong)
    elif isinstance(value, int | float):
        if not 0 <= value <= LONGEST.total_seconds():
            raise ValueError(f"found {show(value)}; a duration is more than 0 and at most 366 days")
        duration = timedelta(seconds=value)
    else:
        text = value.strip().replace(" ", "")
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(wrong)
        seconds = sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))
        if seconds > int(LONGEST.total_seconds()):
            raise ValueError(f"found {show(value)}; a duration is at most 366 days")
        duration = timedelta(microseconds=int(seconds * 1_000_000))
    if not timedelta(0) < duration <= LONGEST:
        raise ValueError(f"found {show(value)}; a duration is more than 0 and at most 366 days")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest exact text that `parse_duration` reads back: 1h30m, 45m, 0.25s."""
    microseconds = duration // timedelta(microseconds=1)
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        amount, seconds = divmod(seconds, size)
        text += f"{amount}{unit}" if amount else ""
    if fraction:
        text += f"{Decimal(seconds) + Decimal(fraction) / 1_000_000:f}s"
    elif seconds or not text:
        text += f"{seconds}s"
    return text


def round_duration(duration: timedelta) -> str:
    """For people, two units at most: 1h 30m, 45s, 0.3s."""
    seconds = duration.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    first = next(index for index, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount}{unit}" for amount, unit in parts[first : first + 2] if amount)


#: The ledger counts in whole billionths: the smallest amount that a machine's bill can have.
NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount in one currency. Amounts of different currencies never mix."""

    amount: Decimal
    currency: str = "USD"

    def __post_init__(self) -> None:
        if not self.amount.is_finite():
            raise ValueError(f"{self.amount} is not an amount of money")

    @classmethod
    def from_nanos(cls, nanos: int, currency: str = "USD") -> Money:
        """From whole billionths, as the ledger counts."""
        return cls(Decimal(nanos).scaleb(-9), currency)

    def nanos(self) -> int:
        """Whole billionths, rounded half to even."""
        return int((self.amount * NANOS).to_integral_value(ROUND_HALF_EVEN))

    def _same(self, other: Money) -> None:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} do not add up")

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.amount - other.amount, self.currency)

    def __mul__(self, factor: int | Decimal) -> Money:
        return Money(self.amount * factor, self.currency)

    def decimal_text(self) -> str:
        """The exact amount as a plain decimal, for JSON: 0.0123."""
        return f"{self.amount:f}"

    def __str__(self) -> str:
        """For people: two decimals, or as many as show two digits of a small amount."""
        sign = "-" if self.amount < 0 else ""
        size = abs(self.amount)
        symbol = "$" if self.currency == "USD" else f"{self.currency} "
        is_small = 0 < size < 1
        places = min(max(2, 1 - size.adjusted()), 9) if is_small else 2
        return f"{sign}{symbol}{size.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN):,f}"
