"""A testbed's network: a namespace of its own with a bridge, and one cable to this host.

    host --veth-- hub namespace [bridge] --veth-- machine namespace --veth-- pods
                  control plane, registry,        kubelet, containerd,
                  AWS, HDFS                       kube-proxy

What enters is a Place; what leaves are interfaces, routes and namespaces. The host gets one
interface with one route and no packet-filter rule: those that kube-proxy writes stay in the
machines' namespaces and vanish with them. Nothing has a way to the world outside.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from testbed.errors import TestbedError
from testbed.place import Place


def run(command: Sequence[str], text: str | None = None) -> str:
    """Runs a short command; raises TestbedError with what it said."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout}")
    return done.stdout


def in_hub(place: Place) -> list[str]:
    """The beginning of a command that runs in the hub's network."""
    return ["nsenter", f"--net={place.namespace_file}", "--"]


def exists(place: Place) -> bool:
    return any(str(place.namespace_file) == line.split()[1] for line in _mounts())


def make_hub(place: Place) -> None:
    """Makes the namespace, the bridge and the cable to the host; does nothing if they are there."""
    if exists(place):
        return
    place.namespace_file.touch()
    run(["unshare", f"--net={place.namespace_file}", "true"])
    _set(place, "net/ipv4/ip_forward", "1")
    # Machines reach each other's pods by way of the hub, on the same bridge: no hint to shorten it.
    _set(place, "net/ipv4/conf/all/send_redirects", "0")
    _set(place, "net/ipv4/conf/default/send_redirects", "0")
    run(
        [*in_hub(place), "ip", "-batch", "-"],
        f"""link set lo up
link add br0 type bridge
address add {place.hub}/21 dev br0
link set br0 up
""",
    )
    run(
        ["ip", "link", "add", place.id, "type", "veth", "peer", "name", "host",
         "netns", str(place.namespace_file)]
    )  # fmt: skip
    run(
        [*in_hub(place), "ip", "-batch", "-"],
        f"address add {place.network}.8.2/30 dev host\nlink set host up\n",
    )
    run(
        ["ip", "-batch", "-"],
        f"""address add {place.host}/30 dev {place.id}
link set {place.id} up
route add {place.network}.0.0/16 via {place.network}.8.2 src {place.host}
""",
    )


def remove_hub(place: Place) -> None:
    """Removes what `make_hub` made; does nothing where nothing is."""
    if (Path("/sys/class/net") / place.id).exists():
        run(["ip", "link", "delete", place.id])
    while exists(place):
        run(["umount", str(place.namespace_file)])
    place.namespace_file.unlink(missing_ok=True)


def plug_in(place: Place, index: int, process: int) -> None:
    """Gives a machine, whose network namespace is this process's, its cable, address and routes."""
    port = f"m{index}"
    run(
        [*in_hub(place), "ip", "-batch", "-"],
        f"""link add {port} type veth peer name eth0 netns {process}
link set {port} master br0 up
route replace {place.pod_range(index)} via {place.machine_address(index)} onlink dev br0
""",
    )
    run(
        ["nsenter", f"--net=/proc/{process}/ns/net", "--", "ip", "-batch", "-"],
        f"""link set lo up
address add {place.machine_address(index)}/21 dev eth0
link set eth0 up
route add default via {place.hub}
""",
    )


def unplug(place: Place, index: int) -> None:
    """Removes a machine's cable and route, and what cut it off; fine where they are gone already.

    The next machine of this number has the same addresses, and would be cut off from its birth.
    """
    for command in (
        ["link", "delete", f"m{index}"],
        ["route", "delete", place.pod_range(index)],
    ):
        with suppress(TestbedError):
            run([*in_hub(place), "ip", *command])
    own = (f" {place.machine_address(index)}/32 ", f" {place.pod_range(index)} ")
    with suppress(TestbedError):
        for rule in run([*in_hub(place), "iptables", "--wait", "-S"]).splitlines():
            if rule.startswith("-A ") and any(address in rule for address in own):
                run([*in_hub(place), "iptables", "--wait", "-D", *rule.split()[1:]])


def _set(place: Place, name: str, value: str) -> None:
    run([*in_hub(place), "sh", "-c", f"echo {value} > /proc/sys/{name}"])


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()
