"""Puts a cluster's keeper together from settings, and runs it until it is told to end."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from piecework.config import Settings
from piecework.errors import ClusterError, InputError
from piecework.keeper.cluster.applications import Applications
from piecework.keeper.cluster.apply import Executor
from piecework.keeper.cluster.hints import Hints
from piecework.keeper.cluster.kubelets import Kubelet, Kubelets
from piecework.keeper.cluster.learned import Learning
from piecework.keeper.cluster.lease import Lease
from piecework.keeper.cluster.logs import FilesystemStore, Logs
from piecework.keeper.cluster.metrics import Metrics
from piecework.keeper.cluster.owners import Owners, ask_airflow
from piecework.keeper.cluster.reconcile import Reconciliation, read_open
from piecework.keeper.cluster.tending import Helpers, Sources, Tending
from piecework.keeper.cluster.writer import Writer, open_append
from piecework.kube.client import Kube
from piecework.machines.provider import Provider
from piecework.runners.store import Store
from piecework.spec.pool import Pool, load_pools
from piecework.spec.team import load_teams

logger = logging.getLogger(__name__)

#: How long the first look at a cluster may take.
SYNC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """How a keeper is to run. `identity` tells keepers of one cluster apart."""

    identity: str = ""
    metrics_port: int | None = None

    @property
    def name(self) -> str:
        return self.identity or f"{socket.gethostname()}-{os.getpid()}"


def choose_pools(settings: Settings, names: Collection[str] = ()) -> dict[str, Pool]:
    """The pools of one cluster that a keeper is for: those named, else all on a cluster.

    Raises InputError where there is none, or where they are of several clusters.
    """
    known = load_pools(settings)
    for name in names:
        if name not in known:
            raise InputError(
                f"--pool {name}: there is no such pool; there are: {', '.join(sorted(known))}"
            )
        if not known[name].on_cluster:
            raise InputError(f"--pool {name}: its machines are slices of this host; no keeper is")
    pools = {n: p for n, p in known.items() if p.on_cluster and (not names or n in names)}
    if not pools:
        raise InputError(
            "there is no pool on a cluster for a keeper to keep; add one to piecework.toml, with "
            'provider = "karpenter" or "asg"'
        )
    clusters = {(pool.kubeconfig, pool.context) for pool in pools.values()}
    if len(clusters) > 1:
        raise InputError(
            f"the pools {', '.join(sorted(pools))} are of {len(clusters)} clusters, and a keeper "
            "keeps one; name its pools with --pool"
        )
    return pools


def connect(pools: Mapping[str, Pool]) -> Kube:
    """The cluster of the pools."""
    pool = next(iter(pools.values()))
    return Kube.connect(pool.kubeconfig, pool.context)


def provide(
    kube: Kube, pools: Mapping[str, Pool], sources: Sources, wake: Callable[[], object]
) -> dict[str, Provider]:
    """The sellers of machines, by pool."""
    found: dict[str, Provider] = {}
    bought = [pool for pool in pools.values() if pool.provider == "karpenter"]
    if bought:
        from piecework.machines.karpenter import Karpenter

        karpenter = Karpenter(kube, bought, sources.claims)
        found |= {pool.name: karpenter for pool in bought}
    for pool in pools.values():
        if pool.provider == "asg":
            from piecework.machines.asg import AutoScalingGroups
            from piecework.machines.cloud import Aws

            found[pool.name] = AutoScalingGroups(kube, pool, Aws(pool), wake)
    return found


@contextmanager
def tending(
    settings: Settings, pools: Mapping[str, Pool], *, writes: bool = True
) -> Iterator[Tending]:
    """A keeper that knows its cluster, and does nothing by itself."""
    kube = connect(pools)
    wake = threading.Event()
    sources = Sources(kube, pools.values(), wake.set)
    providers = provide(kube, pools, sources, wake.set)
    writer = Writer(open_append(settings.ledger_url) if writes else lambda _: 0, wake.set)
    keeper = Tending(
        kube=kube,
        pools=pools,
        teams=load_teams(settings),
        providers=providers,
        sources=sources,
        writer=writer,
        executor=Executor(kube, providers),
        wake=wake,
    )
    with _helping(settings, keeper):
        yield from _synced(keeper)


@contextmanager
def _helping(settings: Settings, keeper: Tending) -> Iterator[None]:
    """Starts what finds things out for the keeper, and ends it."""
    owners = Owners(ask_airflow(settings.home, settings.airflow_url))
    hints = Hints(keeper.kube)
    home = next(iter(keeper.pools.values())).namespace
    kubelets = Kubelets(Kubelet(keeper.kube, home))
    learning = Learning(keeper.kube, keeper.pools)
    reconciliation = Reconciliation(lambda: read_open(settings.ledger_url), keeper.writer)
    applications = Applications(keeper.kube, keeper.pools, keeper.writer.put)
    helpers = keeper.helpers = Helpers(
        owners_over=lambda: owners.over,
        hints=lambda: hints.found,
        counted=lambda: kubelets.found,
        look=[owners.look, hints.look],
        ask=[owners.round, hints.round],
        act=[learning.look, reconciliation.look, applications.look, kubelets.look],
    )
    logs = None
    store = Store.of(settings)
    if store is not None:
        logs = kept = Logs(keeper.kube, FilesystemStore(store))
        helpers.keeps_logs = True
        helpers.kept_logs = lambda: kept.kept
        helpers.act.append(logs.look)
    owners.start()
    hints.start()
    kubelets.start()
    applications.start()
    try:
        yield
    finally:
        owners.stop()
        hints.stop()
        kubelets.stop()
        applications.stop()
        learning.stop()
        reconciliation.stop()
        if logs is not None:
            logs.stop()


def _synced(keeper: Tending) -> Iterator[Tending]:
    """Starts to watch; gives the keeper once it knows its cluster; ends watching afterwards."""
    sources, providers = keeper.sources, list(dict.fromkeys(keeper.providers.values()))
    sources.start()
    for provider in providers:
        provider.start()
    try:
        if not sources.wait_synced(SYNC_SECONDS):
            problems = "; ".join(sources.errors()) or "it does not answer"
            raise ClusterError(
                f"the cluster cannot be watched after {SYNC_SECONDS:.0f} s: {problems}"
            )
        for provider in providers:
            if not provider.wait_known(SYNC_SECONDS):
                raise ClusterError(
                    f"the machines of the pools are not known after {SYNC_SECONDS:.0f} s: "
                    f"{provider.error or 'their seller does not answer'}"
                )
        yield keeper
    finally:
        for provider in providers:
            provider.stop()
        sources.stop()


def keep(settings: Settings, pools: Mapping[str, Pool], options: Options) -> None:
    """Keeps a cluster until this process is interrupted."""
    with tending(settings, pools) as keeper:
        namespace = next(iter(pools.values())).namespace
        lease = Lease(keeper.kube, namespace, options.name)
        keeper.may_act = keeper.executor.may_act = lease.is_held
        if options.metrics_port is not None:
            metrics = Metrics(keeper.kube, keeper.writer, lease.is_held)
            keeper.helpers.told.append(metrics.tell)
            logger.info("metrics are on port %d", metrics.serve(options.metrics_port))
        lease.start()
        keeper.writer.start()
        logger.info("keeping the pools %s as %s", ", ".join(sorted(pools)), options.name)
        try:
            keeper.run()
        finally:
            lease.stop()
            keeper.writer.stop()
