"""Admission policies: what the API server itself sees to, whoever creates an object.

Leave: objects for clusters from Kubernetes 1.36 on (admissionregistration.k8s.io/v1). Without them
piecework works as well, but for four things: a NodeClaim that came and went while no keeper looked
leaves no trace; a pod of somebody else that carries the pool's label is not gated; nobody is kept
from writing the pool's toleration into a pod of his own; and a job of Spark's that makes its own
executors could make other pods as well, with the rights of other accounts of its namespace.
"""

from __future__ import annotations

from typing import Any

from piecework.plan import labels
from piecework.plan.followers import DRIVER_ACCOUNT

Object = dict[str, Any]

_API = "admissionregistration.k8s.io/v1"
PODS = "piecework-pods"
NODE_CLAIMS = "piecework-nodeclaims"
MACHINES = "piecework-machines"
DRIVERS = "piecework-drivers"

_FINALIZED = f'Object{{metadata: Object.metadata{{finalizers: ["{labels.FINALIZER}"]}}}}'
_GATED = f"""\
Object{{
  metadata: Object.metadata{{finalizers: ["{labels.FINALIZER}"]}},
  spec: Object.spec{{
    schedulingGates: [Object.spec.schedulingGates{{name: "{labels.GATE}"}}]
  }}
}}"""
#: Only pods of runs may tolerate the pools' taint; daemons may, for they serve the machine.
_TOLERATES = f"""\
!has(object.spec.tolerations)
|| !object.spec.tolerations.exists(t, has(t.key) && t.key == "{labels.POOL}")
|| (has(object.metadata.labels) && "{labels.RUN}" in object.metadata.labels)
|| (has(object.metadata.ownerReferences)
    && object.metadata.ownerReferences.exists(o, o.kind == "DaemonSet"))"""


#: Whoever is a driver: the account's name, in whichever namespace.
_IS_DRIVER = f"""\
request.userInfo.username.startsWith("system:serviceaccount:")
&& request.userInfo.username.endsWith(":{DRIVER_ACCOUNT}")"""
_IS_EXECUTOR = f"""\
has(object.metadata.labels)
&& "{labels.POOL}" in object.metadata.labels && "{labels.RUN}" in object.metadata.labels
&& "{labels.ROLE}" in object.metadata.labels
&& object.metadata.labels["{labels.ROLE}"] == "{labels.FOLLOWER}"
&& has(object.spec.schedulingGates)
&& object.spec.schedulingGates.exists(g, g.name == "{labels.GATE}")
&& has(object.spec.automountServiceAccountToken) && !object.spec.automountServiceAccountToken
&& (!has(object.spec.serviceAccountName) || object.spec.serviceAccountName in ["", "default"])
&& !has(object.spec.nodeName)"""


def render_policies() -> list[Object]:
    """The policies, each with its binding."""
    return [
        *_mutating(PODS, "", "v1", "pods", _GATED, "!has(object.spec.nodeName)"),
        *_mutating(NODE_CLAIMS, "karpenter.sh", "v1", "nodeclaims", _FINALIZED),
        *_validating(
            MACHINES,
            ["CREATE", "UPDATE"],
            _TOLERATES,
            f"the pod tolerates {labels.POOL} without the label {labels.RUN}: the machines of a "
            "piecework pool belong to one run alone",
        ),
        *_validating(
            DRIVERS,
            ["CREATE"],
            _IS_EXECUTOR,
            f"{DRIVER_ACCOUNT} makes executors alone: pods of a run, gated, with "
            f"{labels.ROLE}={labels.FOLLOWER}, without a service account's token",
            _IS_DRIVER,
        ),
    ]


def _mutating(
    name: str, group: str, version: str, resource: str, change: str, condition: str | None = None
) -> list[Object]:
    spec: Object = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {
            "objectSelector": {"matchExpressions": [{"key": labels.POOL, "operator": "Exists"}]},
            "resourceRules": [_rule(group, version, resource, ["CREATE"])],
        },
        "mutations": [
            {
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": change},
            }
        ],
    }
    if condition is not None:
        # A pod that names its node passes no scheduler, so it can't be gated.
        spec["matchConditions"] = [{"name": "is-scheduled", "expression": condition}]
    return [
        {
            "apiVersion": _API,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": spec,
        },
        {
            "apiVersion": _API,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]


def _validating(
    name: str, operations: list[str], expression: str, message: str, condition: str | None = None
) -> list[Object]:
    """Refuses pods of which the expression does not hold, where the condition does."""
    spec: Object = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [_rule("", "v1", "pods", operations)]},
        "validations": [{"expression": expression, "message": message}],
    }
    if condition is not None:
        spec["matchConditions"] = [{"name": "is-meant", "expression": condition}]
    return [
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": spec,
        },
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


def _rule(group: str, version: str, resource: str, operations: list[str]) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": operations,
        "resources": [resource],
    }
