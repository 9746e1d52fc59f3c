"""What templates know, completed: Airflow leaves out the dates of runs that somebody asked for.

A run that was requested has no logical date, so `{{ ds }}` would be undefined and fail; here it
stands for the time at which the run was to start.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def complete_context(context: MutableMapping[str, Any]) -> None:
    """Adds ds, ts and the like to a context that lacks them, from the time of the request."""
    if "ds" in context:
        return
    dag_run = context.get("dag_run")
    at = getattr(dag_run, "run_after", None) or getattr(dag_run, "start_date", None)
    if at is None:
        return
    ds, ts = at.strftime("%Y-%m-%d"), at.isoformat()
    dates = {
        "ds": ds,
        "ds_nodash": ds.replace("-", ""),
        "ts": ts,
        "ts_nodash": at.strftime("%Y%m%dT%H%M%S"),
        "ts_nodash_with_tz": ts.replace("-", "").replace(":", ""),
        "logical_date": at,
        "data_interval_start": at,
        "data_interval_end": at,
    }
    for name, value in dates.items():
        if context.get(name) is None:
            context[name] = value
