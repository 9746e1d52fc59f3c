"""HDFS: a NameNode and DataNodes of Hadoop, reachable from pods and from this host.

What enters is a Place and a number of DataNodes; what leaves is hdfs://HUB:9000 and WebHDFS at
http://HUB:9870. The libraries come from Maven, pinned in hdfs-pom.xml, once, into the cache.
Each node is a component of its own, so that tests can kill one and start it again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from testbed import components, jars
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.programs import Progress, say

_POM = Path(__file__).with_name("hdfs-pom.xml")
_RPC_PORT, _WEB_PORT = 9000, 9870
#: A DataNode's three ports are these plus ten times its number.
_DATA_PORT, _DATA_IPC_PORT, _DATA_WEB_PORT = 9866, 9867, 9864
_HEAP = "-Xmx192m"
_MOST_REPLICAS = 3
NAME_NODE = "hdfs-namenode"


def url(place: Place) -> str:
    """The file system, as Hadoop names it."""
    return f"hdfs://{place.hub}:{_RPC_PORT}"


def web_url(place: Place) -> str:
    """WebHDFS."""
    return f"http://{place.hub}:{_WEB_PORT}/webhdfs/v1"


def start(place: Place, data_nodes: int = 1, progress: Progress = say) -> None:
    """Starts HDFS, formatted the first time, and waits until it takes writes."""
    jars.fetch(_POM, progress)
    replicas = {"dfs.replication": str(min(data_nodes, _MOST_REPLICAS))}
    settings = _write_settings(place, NAME_NODE, replicas)
    if not (place.folder / "hdfs" / "name").exists():
        _format(place, settings)
    restart(place, NAME_NODE)
    for number in range(data_nodes):
        # Whoever writes by WebHDFS writes as the DataNode that it was sent to is set up.
        _write_settings(place, data_node(number), _data_settings(place, number) | replicas)
        restart(place, data_node(number))
    components.wait_until(
        f"{data_nodes} DataNodes to join",
        lambda: live_data_nodes(place) >= data_nodes,
        120,
        alive=lambda: components.running(place, NAME_NODE),
        log=place.logs / f"{NAME_NODE}.log",
    )


def data_node(number: int) -> str:
    """The component that is this DataNode, counted from 0."""
    return f"hdfs-datanode-{number}"


def restart(place: Place, name: str) -> None:
    """Starts a node that was killed, with the data that it had; does nothing where it runs."""
    settings = place.folder / "hdfs" / f"conf-{name}"
    if not settings.exists():
        raise TestbedError(f"{name} was never started; run: python -m testbed hdfs")
    node = "namenode.NameNode" if name == NAME_NODE else "datanode.DataNode"
    program = f"org.apache.hadoop.hdfs.server.{node}"
    components.start(place, name, _program(place, _HEAP, settings, program))


def fill(place: Place, name: str) -> None:
    """Starts a DataNode anew as one whose disk is full: what is there can be read, no more."""
    components.stop(place, name)
    full = {"dfs.datanode.du.reserved": str(1 << 60)}
    number = int(name.rpartition("-")[2])
    _write_settings(place, name, _data_settings(place, number) | full)
    restart(place, name)
    components.wait_until(
        "the DataNode to say that it is full",
        lambda: _is_full(place),
        120,
        alive=lambda: components.running(place, name),
        log=place.logs / f"{name}.log",
    )


def wait(place: Place, data_nodes: int, timeout_seconds: float = 60) -> None:
    """Waits until files can be written and read, with exactly this many DataNodes alive."""
    components.wait_until(
        f"HDFS with {data_nodes} DataNodes",
        lambda: live_data_nodes(place) == data_nodes and not in_safe_mode(place),
        timeout_seconds,
        alive=lambda: components.running(place, NAME_NODE),
        log=place.logs / f"{NAME_NODE}.log",
    )


def command(place: Place, *arguments: str) -> str:
    """Runs `hdfs dfs` with these arguments on this host, by Hadoop's own protocol."""
    settings = place.folder / "hdfs" / f"conf-{NAME_NODE}"
    shell = _program(place, "-Xmx128m", settings, "org.apache.hadoop.fs.FsShell")
    return _run([*shell, *arguments])


def live_data_nodes(place: Place) -> int:
    """How many DataNodes the NameNode knows and can write to; 0 while it does not answer."""
    return int(_told(place, "FSNamesystem").get("NumLiveDataNodes", 0))


def in_safe_mode(place: Place) -> bool:
    """Whether the NameNode takes no writes yet, or does not answer."""
    return bool(_told(place, "NameNodeInfo").get("Safemode", "it does not answer"))


def _is_full(place: Place) -> bool:
    told = _told(place, "FSNamesystem")
    return bool(told.get("NumLiveDataNodes")) and told.get("CapacityRemaining") == 0


def _data_settings(place: Place, number: int) -> dict[str, str]:
    return {
        "dfs.datanode.address": f"{place.hub}:{_DATA_PORT + 10 * number}",
        "dfs.datanode.ipc.address": f"{place.hub}:{_DATA_IPC_PORT + 10 * number}",
        "dfs.datanode.http.address": f"{place.hub}:{_DATA_WEB_PORT + 10 * number}",
        "dfs.datanode.data.dir": f"{place.folder}/hdfs/data-{number}",
    }


def _told(place: Place, name: str) -> dict[str, Any]:
    """What the NameNode tells of itself under this name; empty while it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        address = f"http://{place.hub}:{_WEB_PORT}/jmx?qry=Hadoop:service=NameNode,name={name}"
        with opener.open(address, timeout=5) as answer:
            beans: list[dict[str, Any]] = json.load(answer)["beans"]
    except (OSError, ValueError):
        return {}
    return beans[0] if beans else {}


def _classes() -> str:
    return f"{jars.folder_of(_POM)}/*"


def _java() -> str:
    found = shutil.which("java")
    if found is None:
        raise TestbedError("HDFS needs Java (Debian: apt install default-jre-headless)")
    return found


def _write_settings(place: Place, name: str, more: dict[str, str]) -> Path:
    settings = {
        "fs.defaultFS": url(place),
        "hadoop.tmp.dir": f"{place.folder}/hdfs/tmp",
        "dfs.namenode.name.dir": f"{place.folder}/hdfs/name",
        "dfs.namenode.rpc-bind-host": place.hub,
        "dfs.namenode.http-address": f"{place.hub}:{_WEB_PORT}",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.datanode.hostname": place.hub,
        "dfs.permissions.enabled": "false",
        "dfs.namenode.safemode.extension": "0",
        # By default a dead DataNode is sent readers for 30 s, and is counted for ten minutes.
        "dfs.heartbeat.interval": "1s",
        "dfs.namenode.heartbeat.recheck-interval": "1000",
        "dfs.namenode.stale.datanode.interval": "3000",
        "dfs.namenode.avoid.read.stale.datanode": "true",
        "dfs.namenode.avoid.write.stale.datanode": "true",
        **more,
    }
    folder = place.folder / "hdfs" / f"conf-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    properties = "\n".join(
        f"<property><name>{escape(key)}</name><value>{escape(value)}</value></property>"
        for key, value in settings.items()
    )
    for file in ("core-site.xml", "hdfs-site.xml"):
        (folder / file).write_text(f"<configuration>\n{properties}\n</configuration>\n")
    return folder


def _format(place: Place, settings: Path) -> None:
    program = "org.apache.hadoop.hdfs.server.namenode.NameNode"
    _run([*_program(place, _HEAP, settings, program), "-format", "-force", "-nonInteractive"])


def _program(place: Place, heap: str, settings: Path, program: str) -> list[str]:
    """The beginning of a command that runs one of Hadoop's programs."""
    temporary = place.folder / "hdfs" / "java"
    temporary.mkdir(parents=True, exist_ok=True)
    return [
        _java(), heap, "-XX:+UseSerialGC",
        # Jetty unpacks its pages there, and leaves them when it is killed.
        f"-Djava.io.tmpdir={temporary}", "-XX:-UsePerfData",
        "-cp", f"{settings}:{_classes()}", program,
    ]  # fmt: skip


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise TestbedError(f"{Path(command[0]).name} failed:\n{said}")
    return done.stdout
