"""What piecework writes on Kubernetes objects: the names, and the values made from identities.

Who writes what:

    label       RUN, ATTEMPT, INDEX, JOB, PIPELINE, TEAM, POOL     on pods, by whoever creates them
    label       ROLE                                               on followers, by their engine
    label       GANG                                               on pods of gangs that find each
                                                                   other, by whoever creates them
    label       POOL, CAPACITY                                     on nodes, by the pool's rendering
    label       RUN                                                on nodes, by Karpenter at birth,
                                                                   changed by the keeper: hand-over
    annotation  REQUEST                                            on pods, by whoever creates them
    annotation  WAITING, ADMITTED, NOTICE, RECORDED                on pods, by the keeper
    annotation  END                                                on pods, by whoever ends one
    annotation  SEEN                                               on pods, by whoever waited for it
"""

from __future__ import annotations

import hashlib
import re

PREFIX = "piecework.dev/"
#: The scheduling gate that every pod is born with; the keeper opens it.
GATE = f"{PREFIX}admission"
#: Keeps a pod's (or a NodeClaim's) object until its end is in the ledger; the keeper takes it off.
FINALIZER = f"{PREFIX}ledger"

RUN = f"{PREFIX}run"
ATTEMPT = f"{PREFIX}attempt"
#: The number of a pod within its gang, from 0.
INDEX = f"{PREFIX}index"
#: FOLLOWER: a pod that an engine makes for its attempt while it runs, like a Spark executor. The
#: attempt's own pods, which whoever submits it makes, have no role; they alone say how it ended.
ROLE = f"{PREFIX}role"
FOLLOWER = "follower"
#: "true": the pod is found by the others of its gang, by the namespace's Service `piecework`.
GANG = f"{PREFIX}gang"
#: The container in which containers of a gang wait for each other, before that of the program.
MEETING = "meeting"
JOB = f"{PREFIX}job"
PIPELINE = f"{PREFIX}pipeline"
TEAM = f"{PREFIX}team"
#: On pods and nodes, and the key of the taint that keeps others off the pool's machines.
POOL = f"{PREFIX}pool"

#: "spot" or "on-demand": on the machines of Auto Scaling groups; Karpenter has a label of its own.
CAPACITY = f"{PREFIX}capacity"

#: JSON: what the keeper needs of the attempt to admit and record it; see `manifest.request_of`.
REQUEST = f"{PREFIX}request"
#: JSON {"reason": text, "since": time, "number": n}: why the pod is not admitted, or does not run.
WAITING = f"{PREFIX}waiting"
#: JSON {"at": time, "machine": name or null}: since when its gate is open; handed over or bought.
ADMITTED = f"{PREFIX}admitted"
#: JSON {"outcome": Outcome, "cause": text, "at": time}: why the pod was ended from outside. The
#: first one written stays. Its time, not after the deletion's, remains when the pod has lost that.
END = f"{PREFIX}end"
#: JSON {"at": time}: since when its machine's seller has said that it takes the machine away.
NOTICE = f"{PREFIX}notice"
#: "true" once the pod's end and log were read by whoever waited for them.
SEEN = f"{PREFIX}seen"
#: "true" once all that happened to the pod is in the ledger, and its log is kept.
RECORDED = f"{PREFIX}recorded"
#: "TIME REASON": since when and why the machine is being given back.
RELEASED = f"{PREFIX}released"
#: Taint of a machine of a group that is being given back: nothing is scheduled there any more. By
#: its prefix the cluster-autoscaler knows that new machines of the group will not have it: it takes
#: what it knows of a group from a machine that it has seen, and would never buy there again.
LEAVING = "status-taint.cluster-autoscaler.kubernetes.io/piecework-released"

_LONGEST_LABEL = 63
_LONGEST_SLUG = 40


def run_label(run: str) -> str:
    """The value of RUN: `delays-7f3a9c1b04d2` for the run `flights.delays.7f3a9c1b04d2`.

    Equal for equal runs; different runs differ, because a run's id ends with its digest.
    """
    *names, digest = run.split(".")
    return f"{_slug(names[-1] if names else '')}-{_slug(digest, 20)}".strip("-")


def attempt_label(attempt: str) -> str:
    """The value of ATTEMPT: `delays-7f3a9c1b04d2-1` for the attempt `....7f3a9c1b04d2.1`."""
    run, _, number = attempt.rpartition(".")
    return f"{run_label(run)}-{number}"


def pod_name(attempt: str, index: int = 0, count: int = 1) -> str:
    """The pod's name, made from its identity: creating it twice finds the first one."""
    name = attempt_label(attempt)
    return name if count == 1 else f"{name}-{index}"


def label_value(text: str) -> str:
    """A name (of a job, pipeline, team) as a label's value: cut and marked where it must be."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text):
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{_slug(text, _LONGEST_LABEL - 9)}-{digest}".strip("-")


def _slug(text: str, longest: int = _LONGEST_SLUG) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:longest].strip("-")
