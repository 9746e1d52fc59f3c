"""A whole cluster: up, down, what runs.

What enters is a name; what leaves is a running control plane with DNS and an image registry, or
nothing at all. `down` doesn't ask what was started: it kills the testbed's cgroup and removes what
bears its number, so it works as well after a crash, and twice.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from string import Template

from testbed import (
    cgroups,
    components,
    control_plane,
    debian,
    images,
    machine,
    network,
    place,
    programs,
    record,
    registry,
)
from testbed.api import Api
from testbed.place import Place
from testbed.programs import Progress

_DNS = Path(__file__).parent / "manifests" / "dns.yaml"
#: Each kubelet and containerd watches files by several of these, which all of a host's root share:
#: with too few, machines never become ready ("too many open files").
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_LEAST_INOTIFY = 1024


@dataclass(frozen=True, slots=True)
class Running:
    """One thing that runs: a component, or a machine with all its programs and pods."""

    name: str
    kind: str
    usage: components.Usage


def up(name: str, progress: Progress, *, without: Collection[str] = ()) -> Place:
    """Brings the cluster up, or completes one that is up in part; returns its place.

    Builds and installs what is missing first; `without` names groups of programs that can wait.
    """
    debian.install_missing(progress)
    programs.build_all(progress, [name for name in programs.groups() if name not in without])
    _raise_inotify(progress)
    here = place.claim(name)
    with place.lock(here.folder / "up.lock"):
        started = time.monotonic()
        network.make_hub(here)
        cgroups.make(f"{here.id}/components")
        control_plane.prepare(here)
        registry.start(here)
        control_plane.start_all(here)
        with Api(here.admin) as api:
            _grant(here, api)
        control_plane.wait(here, "kube-controller-manager")
        control_plane.wait(here, "kube-scheduler")
        control_plane.wait(here, "coredns")
        registry.wait(here)
        images.push_needed(here, progress)
        progress(f"testbed {name} is up after {time.monotonic() - started:.1f} s: {here.server}")
    return here


def _raise_inotify(progress: Progress) -> None:
    """Raises the host's limit until its next boot; lowering it again could harm another testbed."""
    if int(_INOTIFY.read_text()) >= _LEAST_INOTIFY:
        return
    try:
        _INOTIFY.write_text(str(_LEAST_INOTIFY))
    except OSError as error:
        progress(f"{_INOTIFY} is low, and cannot be raised: {error}; use few machines at a time")
    else:
        progress(f"raised fs.inotify.max_user_instances to {_LEAST_INOTIFY} until the next boot")


def _grant(here: Place, api: Api) -> None:
    api.apply_text(Template(_DNS.read_text()).substitute(dns=here.dns, hub=here.hub))
    # Pods of a namespace are refused until it has its account: don't let the first one meet that.
    api.wait(
        "the default service account",
        lambda: api.get("ServiceAccount", "default", "default"),
    )


def down(name: str, progress: Progress = lambda _: None) -> None:
    """Removes everything of a testbed, however it was left; does nothing where nothing is."""
    here = place.look(name)
    if here is None:
        return
    started = time.monotonic()
    for machine_name in machine.names(here):
        life = record.read(here).get(machine_name)
        if life and life.started and not life.stopped:
            record.write(here, machine_name, "stopped", why="the testbed went down")
    # Whoever could start something dies first; freezing keeps the rest from noticing.
    cgroups.signal_all(here.id, signal.SIGSTOP)
    cgroups.kill(here.id)
    network.remove_hub(here)
    place.give_up(here)
    progress(f"testbed {name} is down after {time.monotonic() - started:.1f} s")


def status(here: Place) -> list[Running]:
    """What runs, with what it uses: components first, then machines."""
    found = []
    for name in components.names(here):
        usage = components.usage(components.group_of(here, name))
        found.append(Running(name, "component", usage))
    for name in machine.names(here):
        usage = components.usage(machine.group_of(here, name))
        found.append(Running(name, "machine", usage))
    return found


def leftovers(here: Place) -> list[str]:
    """What of a testbed is still on this host, in words; empty after `down`."""
    found = [f"process {process}" for process in cgroups.processes(here.id)]
    found += [
        f"cgroup {tree / here.id}" for tree in cgroups.hierarchies() if (tree / here.id).exists()
    ]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    marks = (str(here.folder), str(here.namespace_file))
    found += [f"mount {line.split()[1]}" for line in mounts if any(mark in line for mark in marks)]
    if (Path("/sys/class/net") / here.id).exists():
        found.append(f"interface {here.id}")
    routes = network.run(["ip", "route", "show", "table", "all"]).splitlines()
    found += [f"route {line}" for line in routes if f"{here.network}." in line]
    found += [
        f"file {path}"
        for path in (here.folder, here.open_folder, here.namespace_file)
        if path.exists()
    ]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(here.folder) + "/" in command:
            found.append(f"process {path.parent.name}: {command[:200]}")
    return found
