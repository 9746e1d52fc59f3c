"""The verbs of `python -m testbed`.

What enters are arguments; what leaves is a cluster, or text about one. Progress and errors go to
stderr, answers to stdout; errors end with their exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from piecework.errors import PieceworkError
from piecework.units import Memory
from testbed import (
    aws,
    charts,
    cluster,
    components,
    control_plane,
    debian,
    faults,
    hdfs,
    images,
    karpenter,
    kwok,
    machine,
    place,
    postgresql,
    programs,
    record,
)
from testbed.api import Api, is_ready
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.programs import say
from testbed.size import size_of


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    options = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has all it wants. Python would complain again at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except PieceworkError as error:
        say(f"testbed: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("testbed: interrupted")
        return 130
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def make_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    parser.add_argument(
        "--name", default=place.default_name(), help="which testbed (default: %(default)s)"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: object, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    verb("up", _up, "bring the cluster up; builds what is missing").add_argument(
        "--machines", type=int, default=0, metavar="N", help="start N machines too"
    )
    verb("down", _down, "remove all of it, however it was left").add_argument(
        "--all", action="store_true", help="every testbed of this computer"
    )
    verb("status", _status, "show what runs, with memory").add_argument(
        "--json", action="store_true", help="for programs"
    )
    verb("build", _build, "build and install the programs, and start nothing")
    verb("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")
    start = verb("start", _start, "start a machine, or a component that was stopped")
    start.add_argument("what")
    start.add_argument("--type", default="m6a.large", help="instance type (default: %(default)s)")
    start.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    start.add_argument("--taint", action="append", default=[], metavar="KEY=VALUE:EFFECT")
    verb("stop", _stop, "stop a machine or a component").add_argument("what")
    verb("machines", _machines, "print the record of machines: when each ran").add_argument(
        "--json", action="store_true", help="for programs"
    )
    fault = verb("fault", _fault, "break something, on purpose")
    fault.add_argument("fault", choices=sorted(FAULTS))
    fault.add_argument("what", help="a machine, a component, or a pool")
    fault.add_argument("value", nargs="?", help="seconds, a count, kbit/s: what the fault needs")
    verb("karpenter", _karpenter, "start Karpenter (and KWOK for pools without kubelets)")
    group = verb("asg", _asg, "make an Auto Scaling group, and start AWS and the autoscaler")
    group.add_argument("group")
    group.add_argument("--type", default="m6a.large", help="instance type (default: %(default)s)")
    group.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    group.add_argument("--taint", action="append", default=[], metavar="KEY=VALUE:EFFECT")
    verb("hdfs", _hdfs, "start HDFS, and print its addresses").add_argument(
        "--datanodes", type=int, default=1, metavar="N", help="DataNodes (default: %(default)s)"
    )
    verb("postgresql", _postgresql, "start PostgreSQL, and print its URL")
    chart = verb("install", _install, "install an operator by its Helm chart")
    chart.add_argument("chart", choices=charts.NAMES)
    image = verb("image", _image, "build a folder's Dockerfile and push it")
    image.add_argument("folder", nargs="?", help="without it, the base is made")
    image.add_argument("image", nargs="?", help="NAME:TAG")
    image.add_argument(
        "--base",
        default=images.BASE,
        metavar="NAME:TAG",
        help="stands below (default: %(default)s)",
    )
    return parser


def _here(options: argparse.Namespace) -> Place:
    here = place.look(options.name)
    if here is None:
        raise TestbedError(
            f"testbed {options.name} is not up; run: python -m testbed --name {options.name} up"
        )
    return here


def _up(options: argparse.Namespace) -> None:
    here = cluster.up(options.name, say)
    with Api(here.admin) as api:
        for number in range(1, options.machines + 1):
            if f"machine-{number}" not in machine.names(here):
                machine.start(here, f"machine-{number}", size_of("m6a.large"))
        for number in range(1, options.machines + 1):
            _wait_ready(api, f"machine-{number}")
    print(f"export KUBECONFIG={here.admin}")


def _wait_ready(api: Api, name: str) -> None:
    api.wait(
        f"machine {name} to join",
        lambda: (node := api.get("Node", name)) and is_ready(node),
    )


def _down(options: argparse.Namespace) -> None:
    names = [here.name for here in place.places()] if options.all else [options.name]
    for name in names:
        cluster.down(name, say)


def _status(options: argparse.Namespace) -> None:
    found = place.places()
    rows = [(here, running) for here in found for running in cluster.status(here)]
    if options.json:
        listed = [
            {
                "testbed": here.name, "name": item.name, "kind": item.kind,
                "processes": item.usage.processes, "memory_bytes": item.usage.memory_bytes,
                "cpu_seconds": item.usage.cpu_seconds,
            }
            for here, item in rows
        ]  # fmt: skip
        print(json.dumps(listed, indent=2))
        return
    if not found:
        print("no testbed is up")
    for here in found:
        items = [item for owner, item in rows if owner == here]
        print(f"{here.name}: {here.server}, kubeconfig {here.admin}")
        for item in items:
            state = f"{item.usage.memory_bytes / 2**20:7.0f} MiB {item.usage.cpu_seconds:8.1f} s"
            if not item.usage.processes:
                state = "   dead"
            print(f"  {item.kind:<10} {item.name:<28} {state}")
        total = sum(item.usage.memory_bytes for item in items)
        print(f"  {'total':<39} {Memory(total).bytes / 2**20:7.0f} MiB")


def _build(_: argparse.Namespace) -> None:
    debian.install_missing(say)
    programs.build_all(say)


def _kubeconfig(options: argparse.Namespace) -> None:
    print(_here(options).admin)


def _start(options: argparse.Namespace) -> None:
    here = _here(options)
    if options.what in control_plane.NAMES:
        control_plane.start(here, options.what)
        control_plane.wait(here, options.what)
        return
    labels = dict(label.split("=", 1) for label in options.label)
    machine.start(here, options.what, size_of(options.type), labels=labels, taints=options.taint)
    with Api(here.admin) as api:
        _wait_ready(api, options.what)


def _stop(options: argparse.Namespace) -> None:
    here = _here(options)
    if options.what in components.names(here):
        components.stop(here, options.what)
        return
    machine.load(here, options.what)
    machine.stop(here, options.what, why="stopped by hand")
    with Api(here.admin) as api:
        api.delete("Node", options.what)


#: Each takes the place, what it is about, and a value.
FAULTS: dict[str, Callable[[Place, str, str | None], None]] = {
    "kill-machine": lambda here, what, _: faults.kill_machine(here, what),
    "interrupt": lambda here, what, value: faults.interrupt(here, what, float(value or 120)),
    "slow-boot": lambda here, what, value: faults.slow_boot(here, what, float(value or 60)),
    "never-join": lambda here, what, value: faults.never_join(here, what, int(value or 1)),
    "late-gpus": lambda here, what, value: faults.late_gpus(
        here, what, None if value == "never" else float(value or 60)
    ),
    "out-of-stock": lambda here, what, _: faults.out_of_stock(here, what),
    "in-stock": lambda here, what, _: faults.out_of_stock(here, what, empty=False),
    "karpenter-out-of-stock": lambda here, what, _: faults.karpenter_out_of_stock(
        here, [name for name in what.split(",") if name != "none"]
    ),
    "cut-network": lambda here, what, _: faults.cut_network(here, what),
    "mend-network": lambda here, what, _: faults.mend_network(here, what),
    "slow-pulls": lambda here, what, value: faults.slow_pulls(here, what, int(value or 1000)),
    "fast-pulls": lambda here, what, _: faults.fast_pulls(here, what),
    "full-disk": lambda here, what, _: faults.fill_disk(here, what),
    "kill": lambda here, what, _: faults.kill(here, what),
    "freeze": lambda here, what, _: faults.freeze(here, what),
    "thaw": lambda here, what, _: faults.thaw(here, what),
    "restart": lambda here, what, _: faults.restart(here, what),
}


def _fault(options: argparse.Namespace) -> None:
    FAULTS[options.fault](_here(options), options.what, options.value)


def _karpenter(options: argparse.Namespace) -> None:
    here = _here(options)
    karpenter.start(here)
    kwok.start(here)
    print("Karpenter is ready; make a NodePool with the node class KWOKNodeClass/default")


def _asg(options: argparse.Namespace) -> None:
    here = _here(options)
    aws.start(here)
    labels = dict(label.split("=", 1) for label in options.label)
    taints = dict(taint.split("=", 1) for taint in options.taint)
    aws.make_group(here, aws.Group(options.group, options.type, labels=labels, taints=taints))
    components.stop(here, aws.AUTOSCALER)
    aws.start_autoscaler(here)
    print(f"AWS answers at {here.aws}, region {aws.REGION}, any credentials")


def _hdfs(options: argparse.Namespace) -> None:
    here = _here(options)
    hdfs.start(here, options.datanodes)
    print(f"{hdfs.url(here)}\n{hdfs.web_url(here)}")


def _postgresql(options: argparse.Namespace) -> None:
    print(postgresql.start(_here(options)))


def _install(options: argparse.Namespace) -> None:
    charts.install(_here(options), options.chart)


def _machines(options: argparse.Namespace) -> None:
    lives = record.read(_here(options)).values()
    if options.json:
        from dataclasses import asdict

        print(json.dumps([asdict(life) for life in lives], indent=2, default=str))
        return
    for life in lives:
        print(
            f"{life.machine:<28} {life.type:<14} {life.started} {life.stopped or 'runs'} {life.why}"
        )


def _image(options: argparse.Namespace) -> None:
    from pathlib import Path

    here = _here(options)
    if options.folder is None:
        print(images.push_base(here, say))
    else:
        name = options.image or f"{Path(options.folder).resolve().name}:1"
        print(images.build(here, Path(options.folder), name, base=options.base))
