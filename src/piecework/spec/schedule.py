"""When a pipeline runs: cron expressions, presets and time zones, as Airflow understands them."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

from piecework.errors import show
from piecework.spec.wording import TEMPLATE_RULE, suggest

PRESETS = (
    "@once",
    "@continuous",
    "@hourly",
    "@daily",
    "@weekly",
    "@monthly",
    "@quarterly",
    "@yearly",
)
_MOST_CHARACTERS = 200


def check_schedule(schedule: str) -> str:
    """The schedule as it was, spaces made one; raises ValueError with what would be right."""
    right = "a schedule is five cron fields like '0 6 * * *', or a preset like @daily"
    if "{{" in schedule or "{%" in schedule:
        raise ValueError(f"found {show(schedule)}; {TEMPLATE_RULE}")
    if schedule.startswith("@"):
        if schedule not in PRESETS:
            hint = suggest(schedule, PRESETS)
            raise ValueError(f"found {show(schedule)}, which is no preset; {hint}")
        return schedule
    fields = schedule.split()
    if len(fields) != 5 or len(schedule) > _MOST_CHARACTERS:
        hint = suggest(f"@{schedule}", PRESETS, "")
        raise ValueError(f"found {show(schedule)}; {hint or right}")
    text = " ".join(fields)
    from cronsim import CronSim

    try:
        _refuse_foreign(fields[2].upper(), fields[4].upper())
        next(CronSim(text, datetime(2024, 1, 1)))  # noqa: DTZ001 - cron fields have no zone
    except StopIteration:
        raise ValueError(f"found {show(schedule)}, which never comes; {right}") from None
    except Exception as error:  # cronsim's own error, and what int() and assert raise in it
        reason = f" ({error})" if str(error) else ""
        raise ValueError(f"found {show(schedule)}, which is not cron{reason}; {right}") from None
    return text


def _refuse_foreign(days: str, weekdays: str) -> None:
    """What cronsim reads, but not the library that Airflow has for it."""
    if "W" in days or "L" in weekdays:
        raise ValueError("Airflow knows neither W nor a weekday with L")
    if "L" in days and days != "L":
        raise ValueError("Airflow knows L only alone")
    if "#" in weekdays and not all("#" in part for part in weekdays.split(",")):
        raise ValueError("Airflow takes weekdays with # only by themselves")
    if "#" in weekdays and days != "*":
        # Airflow's library wants both to be right, which some pairs never are.
        raise ValueError("Airflow takes weekdays with # only where the day of the month is *")


def check_timezone(name: str) -> str:
    """The name as it was; raises ValueError where there is no such time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        hint = suggest(name, available_timezones(), "a time zone is written like Europe/Berlin")
        raise ValueError(f"found {show(name)}, which is no time zone; {hint}") from None
    return name
