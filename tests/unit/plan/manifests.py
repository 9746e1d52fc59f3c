"""Pools, plans and pods for the tests of what pods look like."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from piecework.config import Settings
from piecework.plan.choose import plan_job
from piecework.plan.manifest import (
    Launcher,
    Object,
    PodRequest,
    pods_of,
)
from piecework.plan.plan import Plan
from piecework.plan.price import load_price_book
from piecework.spec.job import Job
from piecework.spec.pool import Group, Pool

SETTINGS = Settings(home=Path("/nowhere"), ledger_url="sqlite://")
QUEUED = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
KARPENTER = Pool(name="burst", provider="karpenter", image="registry.example.com/python:3.11")
GROUPS = Pool(
    name="groups",
    provider="asg",
    namespace="jobs",
    image="registry.example.com/python:3.11",
    groups=(Group(name="a", type="m6a.large"), Group(name="b", type="m6a.large", spot=True)),
)
CONTAINER = {"container": {"image": "registry.example.com/score:3"}}
RUN = "flights.delays.7f3a9c1b04d2"
LAUNCHER = Launcher("piecework-launcher-0123456789abcdef", {"launch": {}}, "piecework-code-0123")


def plan_of(pool: Pool, job: dict[str, Any], **machine: Any) -> Plan:
    return plan_job(
        "delays",
        Job.model_validate({**job, "machine": {"cpu": 2, **machine}}),
        pool=pool,
        prices=load_price_book(pool),
        settings=SETTINGS,
    )


def request_for(plan: Plan, **more: Any) -> PodRequest:
    given = {"run": RUN, "number": 1, "owner": {"kind": "cli"}, "pipeline": "flights", **more}
    return PodRequest(plan=plan, **given)


def launch_of(job: Job) -> dict[str, Any]:
    """As the engines write it."""
    if job.container is None:
        return {"engine": job.engine, "starter": job.engine, "program": {}}
    command = job.container.command
    return {
        "engine": "container",
        "starter": "container",
        "program": {
            "image": job.container.image,
            "command": None if command is None else list(command),
        },
        "args": list(job.args),
        "env": dict(job.env),
    }


def pods_for(
    pool: Pool = KARPENTER, job: dict[str, Any] = CONTAINER, **machine: Any
) -> list[Object]:
    plan = plan_of(pool, job, **machine)
    return pods_of(request_for(plan), pool, launch_of(plan.job), QUEUED, LAUNCHER)


def pod_for(pool: Pool = KARPENTER, job: dict[str, Any] = CONTAINER, **machine: Any) -> Object:
    (pod,) = pods_for(pool, job, **machine)
    return pod


def container_of(pod: Object) -> Object:
    (container,) = pod["spec"]["containers"]
    found: Object = container
    return found


PLAN = plan_of(KARPENTER, CONTAINER)


def expressions_of(pod: Object) -> dict[str, list[str]]:
    """What the pod's machine must be, by label."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return {each["key"]: each["values"] for each in term["matchExpressions"]}
