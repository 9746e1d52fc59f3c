"""Admission policies: what the API server itself sees to, whoever creates an object.

Leave: objects for clusters from Kubernetes 1.36 on (admissionregistration.k8s.io/v1). Without them
piecework works as well, but for three things: a NodeClaim that came and went while no keeper looked
leaves no trace; a pod of somebody else that carries the pool's label is not gated; and nobody is
kept from writing the pool's toleration into a pod of his own.
"""

from __future__ import annotations

from typing import Any

from piecework.plan import labels

Object = dict[str, Any]

_API = "admissionregistration.k8s.io/v1"
PODS = "piecework-pods"
NODE_CLAIMS = "piecework-nodeclaims"
MACHINES = "piecework-machines"

_FINALIZED = f'Object{{metadata: Object.metadata{{finalizers: ["{labels.FINALIZER}"]}}}}'
_GATED = f"""\
Object{{
  metadata: Object.metadata{{finalizers: ["{labels.FINALIZER}"]}},
  spec: Object.spec{{
    schedulingGates: [Object.spec.schedulingGates{{name: "{labels.GATE}"}}]
  }}
}}"""
_TOLERATES = f"""\
!has(object.spec.tolerations)
|| !object.spec.tolerations.exists(t, has(t.key) && t.key == "{labels.POOL}")
|| (has(object.metadata.labels) && "{labels.RUN}" in object.metadata.labels)
|| (has(object.metadata.ownerReferences)
    && object.metadata.ownerReferences.exists(o, o.kind == "DaemonSet"))"""


def render_policies() -> list[Object]:
    """The policies, each with its binding."""
    return [
        *_mutating(PODS, "", "v1", "pods", _GATED, "!has(object.spec.nodeName)"),
        *_mutating(NODE_CLAIMS, "karpenter.sh", "v1", "nodeclaims", _FINALIZED),
        *_validating(),
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


def _validating() -> list[Object]:
    """Only pods of runs may tolerate the pools' taint; daemons may, for they serve the machine."""
    return [
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": MACHINES},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [_rule("", "v1", "pods", ["CREATE", "UPDATE"])],
                },
                "validations": [
                    {
                        "expression": _TOLERATES,
                        "message": (
                            f"the pod tolerates {labels.POOL} without the label {labels.RUN}: the "
                            "machines of a piecework pool belong to one run alone"
                        ),
                    }
                ],
            },
        },
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": MACHINES},
            "spec": {"policyName": MACHINES, "validationActions": ["Deny"]},
        },
    ]


def _rule(group: str, version: str, resource: str, operations: list[str]) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": operations,
        "resources": [resource],
    }
