"""How the autoscalers and Kubernetes do with hundreds of waiting pods and a thousand machines.

KWOK plays the machines, so that thousands fit on this host; API server, scheduler, Karpenter and
the cluster-autoscaler are real. Needs root on Linux.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.timing import Figure, Result, Spread
from testbed import aws, cluster, components, found, images, karpenter, kwok, pods, programs
from testbed.api import Api, Object, is_ready
from testbed.errors import MissingProgramError
from testbed.place import Place
from testbed.provider import NO_KUBELET, make_node
from testbed.size import size_of

_NAME = "bench-scale"
_CLAIMS = "karpenter.sh/v1"
_MEBIBYTE = 2**20
_WRITERS = 8
_LONGEST_SECONDS = 1800


def run(quick: bool) -> Result:
    """200 pods at once, three times; then 1,000 machines with 3,000 pods (quick: a tenth)."""
    waiting, machines = (20, 100) if quick else (200, 1000)
    notes: list[str] = []
    figures: list[Figure] = []
    programs.build_all(programs.say)
    try:
        here = cluster.up(_NAME, programs.say)
        kwok.start(here)
        with Api(here.admin) as api:
            figures += _karpenter(here, api, waiting, notes)
            figures += _groups(here, api, waiting, notes)
    finally:
        cluster.down(_NAME)
    try:
        here = cluster.up(_NAME, programs.say)
        kwok.start(here)
        with Api(here.admin) as api:
            figures += _many(here, api, machines, 3 * machines, notes)
    finally:
        cluster.down(_NAME)
    return Result("testbed_scale", tuple(figures), tuple(notes))


def _create_all(here: Place, objects: Sequence[Object]) -> None:
    """Creates objects through several connections."""

    def create(share: Sequence[Object]) -> None:
        with Api(here.admin) as api:
            for item in share:
                api.create(item)

    with ThreadPoolExecutor(_WRITERS) as workers:
        list(workers.map(create, [objects[start::_WRITERS] for start in range(_WRITERS)]))


def _until(check: Callable[[], bool]) -> float:
    """The time at which a check holds."""
    deadline = time.time() + _LONGEST_SECONDS
    while not check():
        if time.time() > deadline:
            raise TimeoutError(f"not after {_LONGEST_SECONDS} s")
        time.sleep(0.25)
    return time.time()


def _all_run(api: Api, count: int) -> bool:
    return sum(pods.phase(pod) == "Running" for pod in api.list("Pod", "default")) >= count


def _delete_pods(api: Api) -> None:
    api.delete_all("Pod", "default")
    _until(lambda: not api.list("Pod", "default"))


def _cpu(here: Place, component: str) -> float:
    return components.usage(components.group_of(here, component)).cpu_seconds


def _karpenter(here: Place, api: Api, count: int, notes: list[str]) -> list[Figure]:
    """Each pod selects its own run, so each gets a machine of its own."""
    karpenter.start(here)
    api.apply(
        karpenter.node_pool(
            "bench", kubelets=False, requirements=[{"key": "bench/run", "operator": "Exists"}]
        )
    )
    image = images.name_in(here, images.SHELL)
    waiting = [
        pods.make(f"job-{n}", "default", image, "true", cpu="1", select={"bench/run": f"r{n}"})
        for n in range(count)
    ]
    before = _cpu(here, karpenter.NAME)
    start = time.time()
    _create_all(here, waiting)
    created = time.time()
    bought = _until(lambda: len(api.list("NodeClaim", api_version=_CLAIMS)) >= count)
    running = _until(lambda: _all_run(api, count))
    notes.append(
        f"Karpenter used {_cpu(here, karpenter.NAME) - before:.1f} CPU seconds for {count} machines"
    )
    _delete_pods(api)
    for claim in api.list("NodeClaim", api_version=_CLAIMS):
        api.delete("NodeClaim", claim["metadata"]["name"], api_version=_CLAIMS)
    gone = _until(lambda: not api.list("NodeClaim", api_version=_CLAIMS))
    del gone
    api.delete("NodePool", "bench", api_version=_CLAIMS)
    components.stop(here, karpenter.NAME)
    label = f"Karpenter, {count} pods, each its own machine: "
    return [
        Figure(f"{label}pods created", Spread.of([created - start]), "s"),
        Figure(f"{label}last machine bought", Spread.of([bought - start]), "s"),
        Figure(f"{label}last pod running", Spread.of([running - start]), "s"),
    ]


def _groups(here: Place, api: Api, count: int, notes: list[str]) -> list[Figure]:
    """With a size that lets one pod on a machine, and with an anti-affinity that asks for it."""
    try:
        found.find(aws.AUTOSCALER)
    except MissingProgramError as error:
        notes.append(str(error))
        return []
    aws.start(here)
    figures = []
    image = images.name_in(here, images.SHELL)
    for name, exclusive in (("sized", False), ("apart", True)):
        labels = {NO_KUBELET: "true", "bench/group": name}
        aws.make_group(here, aws.Group(name, "m6a.large", most=count, labels=labels))
        components.stop(here, aws.AUTOSCALER)
        aws.start_autoscaler(here)
        waiting = []
        for number in range(count):
            pod = pods.make(
                f"{name}-{number}", "default", image, "true",
                cpu="100m" if exclusive else "1500m",
                select={"bench/group": name}, labels={"bench/run": f"r{number}"},
            )  # fmt: skip
            waiting.append(pods.apart(pod, "bench/run") if exclusive else pod)
        before = _cpu(here, aws.AUTOSCALER)
        start = time.time()
        _create_all(here, waiting)
        bought = _until(lambda name=name: len(aws.instances(here, name)) >= count)  # type: ignore[misc]
        thought = _cpu(here, aws.AUTOSCALER) - before
        running = _until(lambda: _all_run(api, count))
        kind = "required anti-affinity" if exclusive else "no anti-affinity"
        label = f"Auto Scaling group, {count} pods, {kind}: "
        figures += [
            Figure(f"{label}last machine bought", Spread.of([bought - start]), "s"),
            Figure(f"{label}CPU of the autoscaler until then", Spread.of([thought]), "s"),
            Figure(f"{label}last pod running", Spread.of([running - start]), "s"),
        ]
        components.stop(here, aws.AUTOSCALER)
        _delete_pods(api)
        aws.delete_group(here, name)
        _until(lambda: not api.list("Node"))
    components.stop(here, aws.AWS)
    return figures


def _many(here: Place, api: Api, machines: int, pod_count: int, notes: list[str]) -> list[Figure]:
    size = size_of("m6a.xlarge")
    image = images.name_in(here, images.SHELL)
    start = time.time()
    _create_all(here, [make_node(f"node-{number}", size) for number in range(machines)])
    ready = _until(lambda: sum(is_ready(node) for node in api.list("Node")) >= machines)
    waiting = [
        pods.make(f"pod-{number}", "default", image, "true", cpu="1") for number in range(pod_count)
    ]
    _create_all(here, waiting)
    running = _until(lambda: _all_run(api, pod_count))
    used = cluster.status(here)
    notes.append(
        f"{machines} machines, {pod_count} pods: "
        + ", ".join(
            f"{item.name} {item.usage.memory_bytes / _MEBIBYTE:.0f} MiB "
            f"{item.usage.cpu_seconds:.0f} CPU s"
            for item in used
        )
    )
    total = sum(item.usage.memory_bytes for item in used) / _MEBIBYTE
    return [
        Figure(f"{machines} machines ready", Spread.of([ready - start]), "s"),
        Figure(f"and {pod_count} pods running", Spread.of([running - ready]), "s"),
        Figure("memory of all components then", Spread.of([total]), "MiB"),
    ]
