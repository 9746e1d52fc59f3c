"""Attempts whose driver's pod the Spark operator makes: what they are while there is no such pod.

Enters: a SparkApplication as the API server has it, whose driver's pod is nowhere to be seen.
Leaves: that pod as it would be, gated, with what the application waits for or why it has ended
written on it, so that whoever judges pods (piecework.runners.pods) judges it, too. Pure.

As soon as there is a pod, it alone says how the attempt is. What the operator says counts only
without one, and is never taken for a success: a driver that nobody saw end may have done anything
(apache/airflow#41212).
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.pod_fields import Object, one_line, read_time
from piecework.runners.pods import End, end_of

#: States in which a driver's pod was made: where it cannot be seen, it is gone.
_DRIVEN = ("RUNNING", "SUCCEEDING", "COMPLETED", "FAILING", "FAILED", "UNKNOWN")
_REFUSED = "SUBMISSION_FAILED"
#: The operator would run it once more; it may also stay so for ever (kubeflow/spark-operator#2905).
_RERUN = ("PENDING_RERUN", "INVALIDATING")
#: spark-submit's error holds a whole log; this is what the API server said, or Java.
_SAID = (
    re.compile(r"Message: (.+?)(?:\. Received status| Received status|$)"),
    re.compile(r'Exception in thread "[^"]*" (.+)'),
)
_KIND = "SparkApplication"
#: The operator's label on a driver's pod: whose driver it is.
_OWNER = "sparkoperator.k8s.io/app-name"


def is_stand_in(pod: Object) -> bool:
    """Whether it stands for a pod that the operator has still to make, or never made."""
    return pod.get("kind") == _KIND


def knows_better(instead: Object, pod: Object) -> bool:
    """Whether the operator says why a pod went that was made and never got a machine.

    spark-submit deletes the pod where what goes with it (a Service, a ConfigMap) is refused.
    """
    if pod["spec"].get("nodeName") or not pod["metadata"].get("deletionTimestamp"):
        return False
    end = end_of(instead)
    return end is not None and end.outcome is Outcome.NEVER_STARTED


def application_name(pod: Object) -> str | None:
    """The name of the SparkApplication that a driver's pod, or what stands for it, belongs to."""
    name: str | None = (pod["metadata"].get("labels") or {}).get(_OWNER)
    return name


def ended(pod: Object, end: End) -> dict[str, Any]:
    """What stands for a pod, ended by somebody."""
    metadata = pod["metadata"]
    annotations = {labels.END: end.to_json(), **metadata["annotations"]}
    annotations.pop(labels.WAITING, None)
    over = {"deletionTimestamp": clock.to_text(end.at), "deletionGracePeriodSeconds": 0}
    return {**pod, "metadata": {**metadata, "annotations": annotations, **over}}


def stand_in(application: Object) -> dict[str, Any]:
    """The pod that the application stands for, as long as there is none."""
    own, template = application["metadata"], application["spec"]["driver"]["template"]
    identity = ("namespace", "uid", "resourceVersion", "creationTimestamp")
    found = {
        **template["metadata"],
        **{key: own[key] for key in identity if key in own},
        "name": application["spec"]["driver"]["podName"],
        "labels": {**template["metadata"].get("labels", {}), _OWNER: own["name"]},
        "annotations": {**template["metadata"].get("annotations", {}), **_notes(application)},
    }
    end = end_of({"metadata": found})
    deleted = own.get("deletionTimestamp") or (clock.to_text(end.at) if end else None)
    if deleted:  # nothing of it is on a machine, so nothing has to be waited for
        found |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 0}
    return {"kind": _KIND, "metadata": found, "spec": template["spec"], "status": {}}


def is_over(application: Object) -> bool:
    """Whether no driver will come of it any more."""
    return end_of(application) is not None or _end(application) is not None


def was_submitted(application: Object) -> bool:
    """Whether there was a driver's pod: it tells by itself what became of it."""
    attempts = (application.get("status") or {}).get("executionAttempts")
    return bool(attempts) or state_of(application) in _RERUN


def would_rerun(application: Object) -> bool:
    """Whether the operator would make a second driver, and so run the same attempt once more."""
    return state_of(application) in _RERUN


def state_of(application: Object) -> str:
    """The operator's word for how it is; empty where it has not looked at it yet."""
    status = application.get("status") or {}
    state = str((status.get("applicationState") or {}).get("state") or "")
    return "" if state == "NEW" else state


def waits_since(application: Object) -> datetime:
    """Since when the operator has made no driver of it."""
    status, created = application.get("status") or {}, application["metadata"]["creationTimestamp"]
    submitted = read_time(status.get("lastSubmissionAttemptTime"))
    return submitted or clock.from_text(created)


def waits_for(application: Object) -> str:
    """What it waits for, in words for its user."""
    state = state_of(application)
    if not state:
        return "waits for the Spark operator, which has not taken its SparkApplication yet"
    if state == "SUBMITTED":
        return "waits for its driver, which the Spark operator has just submitted"
    return f"waits for the Spark operator, which says {state} of its SparkApplication"


def _notes(application: Object) -> dict[str, str]:
    """What is written on the stand-in: by somebody, or here, from the operator's state."""
    own = application["metadata"].get("annotations") or {}
    notes = {name: own[name] for name in (labels.END, labels.SEEN) if name in own}
    end = _end(application)
    if labels.END not in notes and end is not None:
        notes[labels.END] = end.to_json()
    if labels.END not in notes:
        since = clock.to_text(waits_since(application))
        told = {"reason": waits_for(application), "since": since, "number": 0}
        notes[labels.WAITING] = json.dumps(told)
    return notes


def _end(application: Object) -> End | None:
    """Why it is over, by what the operator says; None while a driver may still come."""
    status, state = application.get("status") or {}, state_of(application)
    at = read_time(status.get("terminationTime")) or waits_since(application)
    said = _said(application)
    submitted = bool(status.get("executionAttempts"))
    if state == _REFUSED or (state == "FAILED" and not submitted):
        why = f"the Spark operator could not submit it: {said or 'no reason given'}"
        return End(Outcome.NEVER_STARTED, why, at)
    if state in _RERUN:
        why = f"the Spark operator would run it again ({state}), and retries are piecework's"
        return End(Outcome.INTERRUPTED, why, at)
    if state in _DRIVEN:
        why = f"its driver's pod is gone, and nobody saw it end (the Spark operator says {state}"
        return End(Outcome.INTERRUPTED, f"{why}{f': {said}' if said else ''})", at)
    return None


def _said(application: Object) -> str:
    """The operator's error, in one line: of spark-submit's log what matters."""
    status = application.get("status") or {}
    text = str((status.get("applicationState") or {}).get("errorMessage") or "")
    for pattern in _SAID:
        found = pattern.search(text)
        if found:
            return one_line(found[1])
    return one_line(text)
