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
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.programs import Progress, say

_TIMEOUT = "4m"


@dataclass(frozen=True, slots=True)
class _Operator:
    """A program, the namespace that its chart is installed in, and where its image has it."""

    program: str
    namespace: str
    path: str


_OPERATORS = {
    "kueue": _Operator("kueue", "kueue-system", "manager"),
    "spark-operator": _Operator("spark-operator", "spark-operator", "spark-operator"),
}
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
    """Removes what `install` installed, but for the kinds that it defined."""
    namespace = _OPERATORS[name].namespace
    _helm(place, "uninstall", name, f"--namespace={namespace}", "--ignore-not-found", "--wait")


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
