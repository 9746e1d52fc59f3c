"""An attempt's pod, made from one that somebody wrote: a KubernetesPodOperator's.

What enters is that pod, as JSON values, and the pod that piecework would make for a plain container
(`manifest.pods_of`); what leaves is one pod with everything that both want. Images, commands,
volumes, secrets, init containers, sidecars and whatever else was written stay; the gate, the
finalizer, the machine, who may share it (nobody) and the time limit are piecework's. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from piecework.plan.manifest import RESULT_FILE, Object
from piecework.units import Memory, parse_cpu

#: Says which of a pod's containers is the program; kubectl reads it, too.
MAIN_CONTAINER = "kubectl.kubernetes.io/default-container"
#: Where images that were made for KubernetesPodOperator write their result.
AIRFLOW_RESULT_FILE = "/airflow/xcom/return.json"

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
#: What the pod says itself where it does; else what piecework's pods say.
_KEPT = (
    "priorityClassName",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "enableServiceLinks",
)


@dataclass(frozen=True, slots=True)
class WrittenPod:
    """A pod as somebody wrote it; JSON values.

    `restricted`: fill in what a namespace of Pod Security's level "restricted" asks for, where the
    pod does not say. `airflow_result`: the program writes its result to AIRFLOW_RESULT_FILE (at
    most 4 KiB), which the kubelet then reads: no sidecar has to wait for that.
    """

    manifest: Mapping[str, Any]
    restricted: bool = True
    airflow_result: bool = False


def merge_pod(source: WrittenPod, own: Mapping[str, Any]) -> Object:
    """The pod of both. Raises ValueError where the written one leaves no room for its program."""
    written = source.manifest
    pod = copy.deepcopy(dict(written))
    theirs, ours = pod.setdefault("metadata", {}), own["metadata"]
    spec, needed = pod.setdefault("spec", {}), own["spec"]
    main = _main_container(spec)
    pod["metadata"] = {
        **theirs,
        **ours,
        "labels": {**theirs.get("labels", {}), **ours["labels"]},
        "annotations": {
            **theirs.get("annotations", {}),
            **ours["annotations"],
            MAIN_CONTAINER: main["name"],
        },
        "finalizers": _union(theirs.get("finalizers", []), ours["finalizers"]),
    }
    for name in ("restartPolicy", "activeDeadlineSeconds"):
        spec[name] = needed[name]
    for name in _KEPT:
        if name in needed:
            spec.setdefault(name, needed[name])
    if "serviceAccountName" not in written.get("spec", {}):
        # Whoever names an account needs its token; nobody else does.
        spec.setdefault("automountServiceAccountToken", needed["automountServiceAccountToken"])
    spec["schedulingGates"] = _union(spec.get("schedulingGates", []), needed["schedulingGates"])
    place(spec, needed)
    _fill_main(spec, main, needed["containers"][0], airflow_result=source.airflow_result)
    if source.restricted:
        _restrict(spec, needed)
    return pod


def place(spec: Object, placement: Mapping[str, Any]) -> None:
    """Adds where a pod may run (`placement.placement_of`) to what its spec says already."""
    spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **placement["nodeSelector"]}
    spec["tolerations"] = _union(spec.get("tolerations", []), placement["tolerations"])
    spec["affinity"] = merge_affinity(spec.get("affinity") or {}, placement["affinity"])


def merge_affinity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Object:
    """Both affinities at once: every machine that either refuses is refused."""
    merged: Object = copy.deepcopy(dict(theirs))
    nodes = merged.setdefault("nodeAffinity", {})
    needed = ours["nodeAffinity"][_REQUIRED]["nodeSelectorTerms"]
    terms = nodes.get(_REQUIRED, {}).get("nodeSelectorTerms") or [{}]
    # One of the terms must hold; so ours belong into each of them.
    nodes[_REQUIRED] = {
        "nodeSelectorTerms": [
            {
                **term,
                "matchExpressions": [
                    *term.get("matchExpressions", []),
                    *mine.get("matchExpressions", []),
                ],
            }
            for term in terms
            for mine in needed
        ]
    }
    apart = ours.get("podAntiAffinity", {}).get(_REQUIRED, [])
    if apart:
        pods = merged.setdefault("podAntiAffinity", {})
        pods[_REQUIRED] = [*pods.get(_REQUIRED, []), *apart]
    return merged


def _main_container(spec: Object) -> Object:
    """The program's: KubernetesPodOperator has it first."""
    containers = spec.get("containers") or []
    if not containers:
        raise ValueError("found a pod without containers; its first one is the program")
    main: Object = containers[0]
    return main


def _fill_main(spec: Object, main: Object, own: Mapping[str, Any], *, airflow_result: bool) -> None:
    """Gives the program all of the machine that its sidecars leave, and tells it who it is."""
    if airflow_result:
        main["terminationMessagePath"] = AIRFLOW_RESULT_FILE
    result = main.get("terminationMessagePath") or RESULT_FILE
    written = main.get("env") or []
    names = {variable["name"] for variable in written}
    told = [
        {**variable, "value": result} if variable["name"] == "PIECEWORK_RESULT" else variable
        for variable in own["env"]
        if variable["name"].startswith("PIECEWORK_") and variable["name"] not in names
    ]
    main["env"] = [*told, *written]
    main["resources"] = leave_room(main.get("resources") or {}, own["resources"], _others(spec))


def _others(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The containers that run beside the program: the rest, and init containers that go on."""
    beside = [one for one in spec.get("initContainers") or [] if one.get("restartPolicy")]
    return [*spec["containers"][1:], *beside]


def leave_room(
    written: Mapping[str, Any], own: Mapping[str, Any], others: Iterable[Mapping[str, Any]]
) -> Object:
    """The program's resources: the machine's less what others ask for.

    Raises ValueError where nothing is left.
    """
    cpus, memory = parse_cpu(own["requests"]["cpu"]), Memory.parse(own["requests"]["memory"])
    for other in others:
        asked = (other.get("resources") or {}).get("requests") or {}
        if asked.get("cpu") not in (None, "0", 0):
            cpus -= parse_cpu(asked["cpu"])
        memory = Memory(max(0, memory.bytes - Memory.parse(asked.get("memory", 0)).bytes))
    if cpus <= 0 or not memory.bytes:
        raise ValueError(
            "the pod's other containers ask for all of the machine; ask for a larger machine"
        )
    found: Object = {}
    for part in ("requests", "limits"):
        # Of other things, like scratch space, as much as was asked for.
        kept = {k: v for k, v in (written.get(part) or {}).items() if k not in ("cpu", "memory")}
        found[part] = {**kept, **own[part], "memory": str(memory)}
    found["requests"]["cpu"] = f"{int(cpus * 1000)}m"
    return found


def _restrict(spec: Object, own: Mapping[str, Any]) -> None:
    spec["securityContext"] = {**own["securityContext"], **(spec.get("securityContext") or {})}
    needed = own["containers"][0]["securityContext"]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        container["securityContext"] = {**needed, **(container.get("securityContext") or {})}


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(each for each in second if each not in first)]
