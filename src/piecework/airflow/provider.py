"""What Airflow is told about this package (entry point `apache_airflow_provider`)."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description, in Airflow's provider schema."""
    return {
        "package-name": "piecework",
        "name": "piecework",
        "description": "Each job on a machine of its own, given back when it ends.",
        "task-decorators": [
            {
                "name": "piecework",
                "class-name": "piecework.airflow.decorator.piecework_task",
            }
        ],
    }
