"""A plan in sentences, for people; programs read `plan_to_json`."""

from __future__ import annotations

from piecework.plan.plan import InstanceType, Plan
from piecework.plan.rejection import format_hourly
from piecework.units import Money, format_cpu, round_duration


def explain(plan: Plan) -> list[str]:
    """What is bought and why, at what price, what it will cost, and why nothing else."""
    sentences = [_say_choice(plan), _say_price(plan)]
    if plan.count > 1 or _is_capped(plan):
        sentences.append(_say_usable(plan))
    sentences.append(say_estimate(plan))
    sentences += [f"Note: {warning}." for warning in plan.warnings]
    sentences += [f"Not {no.instance_type}: {no.reason}." for no in plan.rejected]
    return sentences


def _say_choice(plan: Plan) -> str:
    machines = "" if plan.count == 1 else f"{plan.count} x "
    size = _say_size(plan.instance_type)
    bought = f"{machines}{plan.instance_type.name} ({size}) of pool {plan.pool}"
    return f"{plan.job_name}: {bought}, {plan.reason}."


def _say_size(machine: InstanceType) -> str:
    gpus = f", {_count_of(machine.gpus, 'GPU')}" if machine.gpus else ""
    return f"{_count_of(machine.vcpus, 'vCPU')}, {machine.memory.rounded()}{gpus}"


def _count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _say_price(plan: Plan) -> str:
    machine = plan.instance_type
    if plan.price_per_hour is None:
        return f"Unpriced ({machine.source}): its cost will be unknown."
    price = format_hourly(plan.price_per_hour.amount)
    each = " each" if plan.count > 1 else ""
    dated = f", {machine.as_of.isoformat()}" if machine.as_of else ""
    as_if = ", as if it were bought there" if plan.as_if else ""
    least = round_duration(plan.minimum)
    return f"{price}{each} ({machine.source}{dated}){as_if}; at least {least} are paid."


def _is_capped(plan: Plan) -> bool:
    whole = plan.instance_type
    return plan.cpus < whole.vcpus or plan.memory < whole.memory or plan.gpus < whole.gpus


def _say_usable(plan: Plan) -> str:
    gpus = f", {_count_of(plan.gpus, 'GPU')}" if plan.instance_type.gpus else ""
    each = " of each machine" if plan.count > 1 else ""
    cores = f"{format_cpu(plan.cpus)} vCPU{'' if plan.cpus == 1 else 's'}"
    return f"Usable{each}: {cores}, {plan.memory.rounded()}{gpus}."


def say_estimate(plan: Plan) -> str:
    """What one run will cost, in one sentence."""
    estimate = plan.estimate
    if estimate.low is None or estimate.high is None:
        if plan.price_per_hour is None:
            return "Estimate: none without a price."
        hour: Money = plan.price_per_hour * plan.count
        return f"Estimate: {format_hourly(hour.amount)}; it has neither past runs nor a timeout."
    if estimate.basis == "history":
        runs = "its last run" if estimate.runs == 1 else f"its last {estimate.runs} runs"
        if estimate.low == estimate.high:
            return f"Estimate: {estimate.high}, as {runs}."
        return f"Estimate: {estimate.low} to {estimate.high}, as {runs}."
    longest = round_duration(plan.timeout)
    return f"Estimate: {estimate.low} to {estimate.high}, were it to use its timeout of {longest}."
