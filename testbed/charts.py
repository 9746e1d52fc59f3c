"""Other people's operators, installed as people install them: by Helm, from their own charts.

What enters is a Place; what leaves is the spark-operator or Kueue, ready on a machine of the
cluster. Their images are made here, of nothing but the program that `found.py` found, because no
image of theirs can be pulled; everything else is as their charts say.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from testbed import found, images, programs
from testbed.api import Api
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.programs import Progress, say

_TIMEOUT = "4m"


@dataclass(frozen=True, slots=True)
class _Operator:
    """A program, the namespace of its chart, where its image has it, and its objects' kinds."""

    program: str
    namespace: str
    path: str
    api_version: str
    kinds: tuple[str, ...]


_OPERATORS = {
    "kueue": _Operator(
        "kueue", "kueue-system", "manager", "kueue.x-k8s.io/v1beta2",
        ("Workload", "LocalQueue", "ClusterQueue", "ResourceFlavor"),
    ),
    "spark-operator": _Operator(
        "spark-operator", "spark-operator", "spark-operator", "sparkoperator.k8s.io/v1beta2",
        ("SparkApplication",),
    ),
}  # fmt: skip
NAMES = tuple(_OPERATORS)


def install(
    place: Place, name: str, job_namespaces: Sequence[str] = ("default",), progress: Progress = say
) -> None:
    """Installs an operator (or brings it up to date), and waits until it is ready.

    Some machine must be there for its pods. The spark-operator looks after `job_namespaces`.
    Raises MissingProgramError where its program or chart is not here.
    """
    operator = _OPERATORS[name]
    chart = found.find_chart(name)
    image = _image(place, operator, progress)
    programs.build_all(progress, ["helm"])
    values = place.folder / f"{name}.values.yaml"
    values.write_text(yaml.safe_dump(_values(place, name, image, job_namespaces)))
    progress(f"installing {chart.name} by Helm")
    _helm(
        place, "upgrade", "--install", name, str(chart), f"--namespace={operator.namespace}",
        "--create-namespace", f"--values={values}", "--wait", f"--timeout={_TIMEOUT}",
    )  # fmt: skip


def uninstall(place: Place, name: str) -> None:
    """Removes what `install` installed, and the objects of its kinds."""
    operator = _OPERATORS[name]
    with Api(place.admin) as api:
        # First: nobody would take their finalizers off once the operator is gone.
        for kind in operator.kinds:
            _delete_all(api, kind, operator.api_version)
    _helm(place, "uninstall", name, f"--namespace={operator.namespace}", "--ignore-not-found")


def _delete_all(api: Api, kind: str, api_version: str) -> None:
    def gone() -> bool:
        there = api.list(kind, api_version=api_version)
        for item in there:
            metadata = item["metadata"]
            api.delete(kind, metadata["name"], metadata.get("namespace"), api_version)
        return not there

    api.wait(f"every {kind} to be gone", gone)


def _image(place: Place, operator: _Operator, progress: Progress) -> str:
    program = found.find(operator.program)
    version = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    image = f"{operator.program}:{version}"
    return images.push_program(place, image, program, operator.path, progress)


def _values(place: Place, name: str, image: str, job_namespaces: Sequence[str]) -> dict[str, Any]:
    repository, _, tag = image.rpartition(":")
    if name == "kueue":
        manager = {"image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}}
        return {"controllerManager": {"manager": manager}}
    return {
        "image": {
            "registry": place.registry,
            "repository": repository.partition("/")[2],
            "tag": tag,
        },
        "spark": {"jobNamespaces": list(job_namespaces)},
    }


def _helm(place: Place, *arguments: str) -> str:
    folder = place.folder / "helm"
    environment = {
        **os.environ,
        "KUBECONFIG": str(place.admin),
        "HELM_CACHE_HOME": str(folder / "cache"),
        "HELM_CONFIG_HOME": str(folder / "config"),
        "HELM_DATA_HOME": str(folder / "data"),
    }
    command = [str(programs.find("helm")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise TestbedError(f"helm {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout
