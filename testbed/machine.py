"""A machine: namespaces of its own with a containerd, a kubelet and a kube-proxy in them.

What enters is a name, a size, labels, taints and a provider's id; what leaves is a node that joins
the cluster, and a record of when it ran. Everything of a machine hangs on one process, the first
of its PID namespace: when that is killed, the kernel ends all others, and mounts and network go
with the last. That is how a machine dies at once, and how none is left behind.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from testbed import cgroups, components, network, programs, record
from testbed.certificates import ca_file, issue, write_kubeconfig
from testbed.errors import TestbedError
from testbed.place import CLAIMS, DOMAIN, REGISTRY_HOST, Place, lock
from testbed.size import Size, cgroup_memory_bytes, write_views

PROGRAMS = ("containerd", "kubelet", "kube-proxy")
#: Why a machine stopped that lost its power, or that its provider took away.
DIED = "died"
_SCRIPT = Path(__file__).with_name("machine.sh")
_MOST = 250


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine was started as; kept in its folder."""

    name: str
    index: int
    type: str
    cpus: int
    memory_bytes: int
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[str] = ()
    provider_id: str = ""


def group_of(place: Place, name: str) -> str:
    """The cgroup of a machine: all of its processes are in it or below."""
    return f"{place.id}/machines/{name}"


def group_of_pods(place: Place, name: str) -> str:
    """The cgroup of a machine's pods, which is limited to what the node reports."""
    return f"{group_of(place, name)}/kubepods"


def folder_of(place: Place, name: str) -> Path:
    return place.machines / name


def names(place: Place) -> list[str]:
    """Machines that were started and not stopped, dead ones among them."""
    return sorted(path.parent.name for path in place.machines.glob("*/machine.json"))


def load(place: Place, name: str) -> Machine:
    path = folder_of(place, name) / "machine.json"
    try:
        return Machine(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        known = ", ".join(names(place)) or "none"
        raise TestbedError(
            f"testbed {place.name} has no machine {name!r}; there are: {known}"
        ) from error


def start(
    place: Place,
    name: str,
    size: Size,
    *,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[str] = (),
    provider_id: str = "",
    with_kubelet: bool = True,
    boot_seconds: float = 0,
    gpus_advertised: bool = True,
    gpu_delay_seconds: float = 0,
) -> Machine:
    """Starts a machine and returns at once; its node is ready some seconds later.

    `taints` are written KEY=VALUE:EFFECT. A machine without a kubelet boots and never joins. It
    runs, and costs, from the beginning of `boot_seconds` on.
    Raises TestbedError where one of this name exists already.
    """
    machine = _reserve(place, name, size, labels or {}, taints, provider_id)
    record.write(place, name, "bought", type=size.type, provider_id=provider_id)
    try:
        _boot(place, machine, size)
        start_program(place, name, "containerd", boot_seconds)
        start_program(place, name, "kube-proxy", boot_seconds)
        if with_kubelet:
            start_program(place, name, "kubelet")
        if size.gpus and gpus_advertised and with_kubelet:
            advertise_gpus(place, name, size.gpus, gpu_delay_seconds)
    except BaseException:
        stop(place, name, why="could not be started")
        raise
    return machine


def _reserve(
    place: Place, name: str, size: Size, labels: Mapping[str, str], taints: Sequence[str], id_: str
) -> Machine:
    with lock(place.folder / "machines.lock"):
        folder = folder_of(place, name)
        if (folder / "machine.json").exists():
            raise TestbedError(f"testbed {place.name} has a machine {name!r} already")
        used = {load(place, other).index for other in names(place)}
        index = next((i for i in range(2, _MOST) if i not in used), None)
        if index is None:
            raise TestbedError(f"testbed {place.name} has {_MOST} machines; that is all it can")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        machine = Machine(
            name, index, size.type, size.cpus, size.memory.bytes, size.gpus,
            dict(labels), tuple(taints), id_,
        )  # fmt: skip
        # Others read it at any time: it is there complete, or not at all.
        (folder / "machine.unfinished").write_text(json.dumps(asdict(machine)))
        (folder / "machine.unfinished").rename(folder / "machine.json")
    return machine


def _boot(place: Place, machine: Machine, size: Size) -> None:
    """Makes the machine's cgroups, files and namespaces, and gives it its network."""
    folder = folder_of(place, machine.name)
    write_views(size, folder / "size")
    _write_configuration(place, machine)
    group = group_of(place, machine.name)
    cgroups.make(group)
    cgroups.limit(group, cpus=size.cpus, memory_bytes=cgroup_memory_bytes(size))
    # Pods alone may use what the node reports; the rest is for containerd and the kubelet.
    pods = group_of_pods(place, machine.name)
    cgroups.make(pods)
    cgroups.limit(pods, cpus=size.cpus, memory_bytes=size.memory.bytes)
    components.spawn(
        f"{group_of(place, machine.name)}/init",
        ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--net", "--uts",
         "--ipc", "--kill-child", "sh", str(_SCRIPT), str(folder), machine.name,
         str(programs.find("pause")), str(CLAIMS)],
        folder / "init.log",
    )  # fmt: skip
    components.wait_until(
        f"machine {machine.name} to boot",
        (folder / "ready").exists,
        30,
        alive=lambda: is_alive(place, machine.name),
        log=folder / "init.log",
    )
    process = first_process(place, machine.name)
    if process is None:
        raise TestbedError(f"machine {machine.name} ended while it booted; see {folder}/init.log")
    network.plug_in(place, machine.index, process)
    record.write(place, machine.name, "started", type=size.type, provider_id=machine.provider_id)


def is_alive(place: Place, name: str) -> bool:
    """Whether anything of the machine runs."""
    return bool(cgroups.processes(f"{group_of(place, name)}/init"))


def first_process(place: Place, name: str) -> int | None:
    """The id, on this host, of the first process of the machine's PID namespace."""
    for process in cgroups.processes(f"{group_of(place, name)}/init"):
        with suppress(OSError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "1" and len(line.split()) > 2:
                    return process
    return None


def start_program(place: Place, name: str, program: str, after_seconds: float = 0) -> None:
    """Starts containerd, kubelet or kube-proxy on a machine; does nothing where it runs.

    `after_seconds` delays it as a slow boot would. The kubelet waits for containerd.
    """
    if program_runs(place, name, program):
        return
    machine = load(place, name)
    folder = folder_of(place, name)
    if program == "containerd":
        command = ["containerd", "--config=/etc/containerd/config.toml"]
    elif program == "kubelet":
        # The kubelet gives up when containerd is not there yet.
        command = [
            "sh", "-c",
            'until [ -S /run/containerd/containerd.sock ]; do sleep 0.02; done; exec "$@"', "sh",
            str(programs.find("kubelet")), "--config=/etc/kubernetes/kubelet.yaml",
            "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig", "--root-dir=/var/lib/kubelet",
            f"--hostname-override={name}", f"--node-ip={place.machine_address(machine.index)}",
            f"--node-labels={','.join(f'{k}={v}' for k, v in machine.labels.items())}",
        ]  # fmt: skip
    else:
        command = [
            str(programs.find("kube-proxy")), "--config=/etc/kubernetes/kube-proxy.yaml",
            f"--hostname-override={name}",
        ]  # fmt: skip
    if after_seconds:
        command = ["sh", "-c", 'sleep "$0"; exec "$@"', str(after_seconds), *command]
    run_inside(place, name, program, command, folder / "log" / f"{program}.log")


def enter(place: Place, name: str) -> list[str]:
    """The beginning of a command that runs inside a machine's namespaces."""
    process = first_process(place, name)
    if process is None:
        raise TestbedError(f"machine {name} is dead; nothing can be started on it")
    flags = ["--mount", "--pid", "--net", "--uts", "--ipc"]
    return ["nsenter", f"--target={process}", *flags, "--"]


def run_inside(place: Place, name: str, program: str, command: Sequence[str], log: Path) -> None:
    """Starts a command inside a machine's namespaces, detached, in a cgroup of its own."""
    components.spawn(
        f"{group_of(place, name)}/{program}",
        [*enter(place, name), *command],
        log,
        # However many CPUs it reports, all machines share this host's.
        {"GOMAXPROCS": "2"},
    )


def program_runs(place: Place, name: str, program: str) -> bool:
    return bool(cgroups.processes(f"{group_of(place, name)}/{program}"))


def advertise_gpus(place: Place, name: str, count: int, after_seconds: float = 0) -> None:
    """Starts the device plug-in that advertises `nvidia.com/gpu`, if wished some time later."""
    command = [
        str(programs.find("gpu-device-plugin")), f"--count={count}", f"--after={after_seconds}s",
        "--folder=/var/lib/kubelet/device-plugins",
    ]  # fmt: skip
    waiting = (
        'until [ -S /var/lib/kubelet/device-plugins/kubelet.sock ]; do sleep 0.05; done; exec "$@"'
    )
    run_inside(
        place, name, "gpu-device-plugin", ["sh", "-c", waiting, "sh", *command],
        folder_of(place, name) / "log" / "gpu-device-plugin.log",
    )  # fmt: skip


def die(place: Place, name: str) -> None:
    """The machine loses its power: all of its processes end at once, its node object stays."""
    process = first_process(place, name)
    if process is not None:
        with suppress(ProcessLookupError):
            import os
            import signal

            os.kill(process, signal.SIGKILL)
    cgroups.kill(group_of(place, name))
    machine = load(place, name)
    network.unplug(place, machine.index)
    record.write(place, name, "stopped", why=DIED)


def stop(place: Place, name: str, why: str = "") -> None:
    """Ends a machine and removes all of it; its logs stay until the testbed goes down."""
    folder = folder_of(place, name)
    cgroups.kill(group_of(place, name))
    if (folder / "machine.json").exists():
        network.unplug(place, load(place, name).index)
        record.write(place, name, "stopped", why=why)
    keep = place.logs / "machines" / f"{name}-{time.time_ns() // 1_000_000}"
    keep.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        shutil.move(folder / "log", keep)
        shutil.rmtree(keep / "pods", ignore_errors=True)
        shutil.rmtree(keep / "containers", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(place: Place, machine: Machine) -> None:
    etc = folder_of(place, machine.name) / "etc" / "upper"
    for name in ("kubernetes", "containerd", f"containerd/certs.d/{place.registry}", "cni/net.d"):
        (etc / name).mkdir(parents=True)
    (etc / "containerd" / "config.toml").write_text(_containerd(place))
    (etc / "containerd" / "certs.d" / place.registry / "hosts.toml").write_text(
        # Where the host has no such image, containerd asks the server itself: by this CA, too.
        f'server = "https://{place.registry}"\nca = "{ca_file(place)}"\n\n'
        f'[host."https://{place.registry}"]\n'
        f'  capabilities = ["pull", "resolve"]\n  ca = "{ca_file(place)}"\n'
    )
    (etc / "cni" / "net.d" / "10-pods.conflist").write_text(_cni(place, machine))
    (etc / "hosts").write_text(
        f"127.0.0.1 localhost\n{place.machine_address(machine.index)} {machine.name}\n"
        f"{place.hub} {REGISTRY_HOST} hub.piecework.test\n"
    )
    (etc / "kubernetes" / "resolv.conf").write_text(f"nameserver {place.hub}\n")
    kubernetes = etc / "kubernetes"
    user = f"system:node:{machine.name}"
    write_kubeconfig(place, kubernetes / "kubelet.kubeconfig", user, ["system:nodes"])
    (place.pki / f"user-{user.replace(':', '-')}.crt").unlink()
    (place.pki / f"user-{user.replace(':', '-')}.key").unlink()
    address = place.machine_address(machine.index)
    issue(
        place, "kubelet", user, ["system:nodes"], hosts=[machine.name, address], folder=kubernetes
    )
    (kubernetes / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(place, machine)))
    (kubernetes / "kube-proxy.yaml").write_text(yaml.safe_dump(_kube_proxy(place)))


def _kubelet(place: Place, machine: Machine) -> dict[str, object]:
    configuration: dict[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca_file(place))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "clusterDNS": [place.dns],
        "clusterDomain": DOMAIN,
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group_of(place, machine.name)}",
        # The testbed limits the pods itself: the kubelet would also pin them to the CPUs that it
        # believes in, and this host may have fewer.
        "enforceNodeAllocatable": [],
        # The host's swap and its version 1 cgroups are not the machine's fault.
        "failSwapOn": False,
        "failCgroupV1": False,
        # Thresholds would compare this host's use with the machine's size.
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "registerWithTaints": [parse_taint(taint) for taint in machine.taints],
    }
    if machine.provider_id:
        configuration["providerID"] = machine.provider_id
    return configuration


def parse_taint(text: str) -> dict[str, str]:
    """KEY=VALUE:EFFECT as Kubernetes writes a taint."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


def _kube_proxy(place: Place) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(place.folder / "kube-proxy.kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": place.pods,
        # These are settings of the whole host, not of a network namespace.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _containerd(place: Place) -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  # Where this host doesn't let root lower a process's score, every sandbox would fail.
  restrict_oom_score_adj = true
  sandbox_image = "{place.registry}/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _cni(place: Place, machine: Machine) -> str:
    # A cable for each pod, not a bridge: replies of a service's pod then pass the machine's
    # address translation even when both pods are on one machine.
    pods = place.pod_range(machine.index)
    plugins = [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})
