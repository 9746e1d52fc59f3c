"""The keeper on a real cluster: admits, records, hands over, gives back; whatever dies meanwhile."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from piecework.machines.render import render
from testbed import karpenter
from testbed.api import Api
from testbed.place import Place
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

_numbers = itertools.count(1)


@pytest.fixture
def make_ground(
    one: Cluster, here: Place, api: Api, tmp_path: Path
) -> Iterator[Callable[..., Ground]]:
    """Makes pools of Karpenter, with all that piecework renders for them."""
    karpenter.start(here)
    made: list[Ground] = []

    def make(more: str = "", teams: str = "") -> Ground:
        name = f"kept-{os.getpid()}-{next(_numbers)}"
        tables = f"""
[pools.{name}]
provider = "karpenter"
kubeconfig = "{one.kubeconfig}"
namespace = "{name}"
types = ["m6a.large", "m6a.xlarge"]
node_class = {{group = "{karpenter.GROUP}", kind = "KWOKNodeClass", name = "default"}}
{more}
{teams}
"""
        home = tmp_path / name
        home.mkdir()
        ground = Ground(here, api, home, one.shell, name, tables)
        made.append(ground)
        rendered = render([ground.pool])
        api.apply(*rendered.objects)
        api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
        return ground

    yield make
    for ground in made:
        ground.cleanup()
        api.delete("Namespace", ground.pool_name)


MakeGround = Callable[..., Ground]


def test_a_run_gets_a_machine_of_its_own_which_is_given_back_and_billed(
    make_ground: MakeGround,
) -> None:
    ground = make_ground()
    ground.start_keeper()
    attempt = ground.submit("one", "echo hello; sleep 2")
    ended = ground.ended(attempt)
    assert (ended.outcome, ended.exit_code) == (Outcome.SUCCESS, 0)
    ground.read(attempt)
    (machine,) = ground.machines_gone()
    assert machine.bought_for == attempt
    assert [occupancy.attempt for occupancy in machine.occupancies] == [attempt]
    assert machine.gone_cause == "returned"
    assert machine.released_at is not None
    assert machine.instance_type == "m6a.large"
    assert ended.machines == (machine.id,)
    ground.check_ledger()
    ground.api.wait("its pod to be gone", lambda: not ground.pods(attempt), 30)
