"""Whatever dies or fails while runs are on their way: outcomes stay true and nothing is left.

Each fault is tried on one of the two kinds of pool; with PIECEWORK_TESTBED_KINDS=both on both, as
the bench does. All tests of a kind share a pool, its machines and its keeper, as runs do in life;
after each of them, and in the end, it is checked what must hold (see tests.cluster.aftermath).
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from piecework.ledger.events import Outcome
from testbed import components, faults, images, record, wishes
from testbed.errors import MissingProgramError
from tests.cluster.aftermath import check_now, say, settle
from tests.cluster.conftest import Cluster
from tests.cluster.rounds import CLAIMS, FRESH, KINDS, LARGER, Arena, asleep, kill, limits, work
from tests.cluster.rounds import arena as make_arena
from tests.cluster.soak import play

#: Another keeper has to act within this time.
TAKEOVER_SECONDS = 15.0
#: Random rounds; the bench plays more.
ROUNDS = 5


def on(kind: str) -> pytest.MarkDecorator:
    """On this kind of pool, or on both where that was asked for."""
    kinds = KINDS if os.environ.get("PIECEWORK_TESTBED_KINDS") == "both" else (kind,)
    return pytest.mark.parametrize("arena", kinds, indirect=True)


@pytest.fixture(scope="module")
def arenas(
    whole_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Callable[[str], Arena]]:
    """The pool of each kind, made when it is first asked for; in the end nothing of it is left."""
    here = whole_cluster.place
    if here is None:
        pytest.skip("somebody's own cluster: machines and faults are the testbed's")
    made: dict[str, Arena] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Arena:
            if kind not in made:
                home = tmp_path_factory.mktemp(kind)
                opened = make_arena(here, whole_cluster.api, kind, home, limits(6))
                made[kind] = stack.enter_context(opened)
            return made[kind]

        yield get
        assert all(arena.keeper for arena in made.values())
        with ThreadPoolExecutor() as pool:
            for kind, measured in zip(made, pool.map(settle, made.values()), strict=True):
                say(pytestconfig, f"{kind}: {measured}")


@pytest.fixture
def arena(arenas: Callable[[str], Arena], request: pytest.FixtureRequest) -> Iterator[Arena]:
    """The pool of a kind, with a keeper; what must hold is checked after the test."""
    try:
        found = arenas(request.param)
    except MissingProgramError as error:
        pytest.skip(str(error))  # the one skip that CI allows: no registry has this program
    assert found.keeper
    yield found
    wishes.clear(found.here)
    assert found.keeper
    check_now(found)


def succeeds(arena: Arena, attempt: str, seconds: float = 150) -> None:
    ended = arena.ended(attempt, seconds)
    assert ended.outcome is Outcome.SUCCESS, ended


@on("karpenter")
def test_a_killed_keeper_costs_a_run_nothing_and_the_next_one_goes_on(arena: Arena) -> None:
    attempt = arena.submit(5)
    arena.running(attempt)
    kill(arena.keeper)
    queued = arena.submit(1)
    assert arena.over(attempt).outcome is Outcome.SUCCESS
    waiting = arena.status(queued)
    assert waiting is not None
    assert waiting.state == "waiting"
    assert arena.keeper
    succeeds(arena, attempt)
    succeeds(arena, queued)


@on("asg")
def test_a_second_keeper_takes_over_in_time(arena: Arena, pytestconfig: pytest.Config) -> None:
    first = arena.keeper
    attempt = arena.submit(20)
    arena.running(attempt)
    second = arena.second_keeper()
    killed = time.monotonic()
    kill(first)
    queued = arena.submit(1)
    arena.wait_status(queued, "admitted", lambda s: _is_admitted(arena, queued), 30)
    seconds = time.monotonic() - killed
    say(pytestconfig, f"the second keeper admitted a run after {seconds:.1f} s")
    assert seconds <= TAKEOVER_SECONDS
    assert second.poll() is None
    succeeds(arena, attempt)
    succeeds(arena, queued)


def _is_admitted(arena: Arena, attempt: str) -> bool:
    pod = arena.pod(attempt)
    return pod is not None and not pod["spec"].get("schedulingGates")


@on("karpenter")
def test_both_keepers_killed(arena: Arena) -> None:
    first, second = arena.keeper, arena.second_keeper()
    attempt = arena.submit(5)
    arena.running(attempt)
    kill(first)
    kill(second)
    assert arena.over(attempt).outcome is Outcome.SUCCESS
    assert arena.keeper
    succeeds(arena, attempt)


@pytest.mark.parametrize(
    "component", ["etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager"]
)
@on("karpenter")
def test_a_component_of_kubernetes_is_killed(arena: Arena, component: str) -> None:
    _kill_component(arena, component)


@pytest.mark.parametrize("arena", KINDS, indirect=True)
def test_the_autoscaler_is_killed(arena: Arena) -> None:
    _kill_component(arena, arena.autoscaler)


def _kill_component(arena: Arena, component: str) -> None:
    """With a run that runs, and one whose machine is being bought."""
    keeper = arena.keeper
    attempt = arena.submit(4)
    arena.running(attempt)
    queued = arena.submit(1, machine=LARGER)
    faults.kill(arena.here, component)
    time.sleep(2)
    faults.restart(arena.here, component)
    succeeds(arena, attempt)
    succeeds(arena, queued)
    assert keeper.poll() is None


@on("asg")
def test_a_machine_dies_while_it_boots_and_another_is_bought(arena: Arena) -> None:
    known = arena.machines()
    for name in arena.buys_as:
        faults.slow_boot(arena.here, name, 10)
    attempt = arena.submit(1, machine=FRESH[0])
    bought = arena.wait_bought(known)
    wishes.clear(arena.here)
    arena.kill_machine(bought)
    succeeds(arena, attempt)
    assert bought not in arena.ground.timeline().attempts[attempt].machines


@pytest.mark.parametrize("arena", ["karpenter"], indirect=True)
def test_karpenter_forgets_what_it_bought_and_buys_again(arena: Arena) -> None:
    known = arena.machines()
    faults.slow_boot(arena.here, arena.made.name, 8)
    attempt = arena.submit(2, machine=FRESH[6])
    first = arena.wait_bought(known)
    faults.slow_boot(arena.here, arena.made.name, 30)
    claims = [c["metadata"]["name"] for c in arena.api.list("NodeClaim", api_version=CLAIMS)]
    (claim,) = (name for name in claims if first.startswith(f"kwok-{name}-"))
    faults.forget_purchase(arena.here, claim)
    arena.wait_bought([*known, first])
    wishes.clear(arena.here)
    succeeds(arena, attempt)

    def machines() -> set[str]:
        return set(arena.ground.timeline().attempts[attempt].machines)

    arena.api.wait("its machine to be in the ledger", lambda: machines() == {first}, 60)
    assert arena.ground.timeline().machines[first].bought_for == attempt
    arena.api.wait("its end", lambda: arena.ground.timeline().machines[first].gone_at, 60)
    forgotten = arena.ground.timeline().machines[first]
    assert "no NodeClaim knows it" in (forgotten.release_reason or "")
    assert [each.attempt for each in forgotten.occupancies] == [attempt]


@on("karpenter")
def test_a_machine_dies_while_it_pulls(arena: Arena) -> None:
    attempt = _pulling(arena, FRESH[1])
    arena.kill_machine(arena.bound(attempt))
    ended = arena.ended(attempt)
    assert ended.outcome is Outcome.NEVER_STARTED, ended
    succeeds(arena, arena.again(attempt))


def _pulling(arena: Arena, kind: dict[str, str]) -> str:
    """An attempt that is on its machine and waits for its image, which comes slowly."""
    known = arena.machines()
    for name in arena.buys_as:
        faults.slow_boot(arena.here, name, 8)
    attempt = arena.submit(1, machine=kind)
    bought = arena.wait_bought(known)
    wishes.clear(arena.here)
    arena.api.wait("its network", lambda: record.read(arena.here)[bought].started, 30, 0.1)
    faults.slow_pulls(arena.here, bought, 16)
    assert arena.bound(attempt) == bought
    status = arena.status(attempt)
    assert status is not None
    assert status.state == "waiting"
    return attempt


@on("asg")
def test_a_machine_dies_under_its_run_which_is_tried_again_elsewhere(arena: Arena) -> None:
    attempt = arena.submit(3)
    name = arena.running(attempt)
    arena.kill_machine(name)
    ended = arena.ended(attempt)
    assert ended.outcome is Outcome.INTERRUPTED, ended
    again = arena.again(attempt)
    succeeds(arena, again)
    assert name not in arena.ground.timeline().attempts[again].machines


@on("karpenter")
def test_a_machine_dies_while_its_run_is_being_ended(arena: Arena) -> None:
    request = arena.prepare("trap '' TERM; sleep 100; sleep 100", 200)
    arena.start(request)
    name = arena.running(request.attempt)
    arena.cancel(request.attempt)
    time.sleep(1)
    arena.kill_machine(name)
    ended = arena.ended(request.attempt)
    assert ended.outcome is Outcome.CANCELLED, ended


@on("karpenter")
def test_a_spot_machine_is_taken_away_after_a_notice(arena: Arena) -> None:
    attempt = arena.submit(8, machine={**LARGER, "spot": "only"})
    name = arena.running(attempt)
    arena.harmed.add(name)
    faults.interrupt(arena.here, name, 2)
    ended = arena.ended(attempt)
    assert ended.outcome is Outcome.INTERRUPTED, ended
    (lost,) = ended.machines
    arena.api.wait("its end", lambda: arena.ground.timeline().machines[lost].gone_at, 60)
    machine = arena.ground.timeline().machines[lost]
    assert (machine.spot, machine.gone_cause) == (True, "interrupted")
    succeeds(arena, arena.again(attempt))


@on("asg")
def test_a_short_cut_of_the_network_costs_a_run_nothing(arena: Arena) -> None:
    attempt = arena.submit(6)
    name = arena.running(attempt)
    faults.cut_network(arena.here, name)
    time.sleep(8)
    faults.mend_network(arena.here, name)
    succeeds(arena, attempt)


@on("asg")
def test_a_run_waits_while_nothing_is_in_stock_and_says_so(arena: Arena) -> None:
    asked = FRESH[3]
    # Karpenter buys by a list of what there is; what is not on it, nothing fits to.
    said = {"asg": "no capacity for m6a.12xlarge", "karpenter": "no instance type"}[arena.kind]
    with arena.out_of_stock(asked["type"]):
        attempt = arena.submit(1, machine=asked)
        waiting = arena.wait_status(attempt, "told why", lambda s: said in (s.reason or ""), 60)
        assert waiting.state == "waiting"
    succeeds(arena, attempt)


@on("asg")
def test_an_image_that_is_missing_ends_its_run_and_is_named(arena: Arena) -> None:
    attempt = arena.submit(1, image=images.name_in(arena.here, "missing:1"))
    ended = arena.ended(attempt)
    assert ended.outcome is Outcome.NEVER_STARTED
    assert "missing:1" in (ended.cause or "")


@on("karpenter")
def test_a_pod_that_somebody_deletes_is_never_a_success(arena: Arena) -> None:
    request = arena.prepare("trap 'exit 0' TERM; sleep 30 & wait", 30)
    arena.start(request)
    arena.running(request.attempt)
    pod = arena.pod(request.attempt)
    assert pod is not None
    arena.api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
    ended = arena.ended(request.attempt)
    assert ended.outcome is Outcome.INTERRUPTED, ended
    succeeds(arena, arena.again(request.attempt), 90)


@on("asg")
def test_ten_who_ask_for_the_same_run_get_one_pod(arena: Arena) -> None:
    request = arena.prepare(work(2), 2)
    who = arena.submitter()
    with _other_processes(3, (request, who.pool, who.settings)), ThreadPoolExecutor(10) as pool:
        asked = list(pool.map(lambda _: who.runner.start(request), range(10)))
    assert {status.attempt for status in asked} == {request.attempt}
    pods = [
        pod
        for pod in arena.api.list("Pod", arena.made.namespace)
        if pod["metadata"]["name"].startswith(request.plan.job_name + "-")
    ]
    assert len(pods) == 1
    succeeds(arena, request.attempt)


@contextmanager
def _other_processes(count: int, asked: tuple[object, ...]) -> Iterator[None]:
    """Other processes start the same attempt meanwhile."""
    program = (
        "import pickle, sys; from piecework.runners.runner import runner_for\n"
        "request, pool, settings = pickle.load(sys.stdin.buffer)\n"
        "runner_for(pool, settings).start(request)"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        for _ in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        told = [pool.submit(other.communicate, pickle.dumps(asked), 60) for other in others]
        yield
        for each in told:
            each.result()
    assert [other.returncode for other in others] == [0] * count


@on("asg")
def test_what_happens_while_no_keeper_is_there_is_in_the_ledger_afterwards(arena: Arena) -> None:
    ends, dies, is_deleted = (
        arena.submit(seconds, machine=machine)
        for seconds, machine in zip((15, 40, 40), FRESH, strict=False)
    )
    machines = {attempt: arena.running(attempt) for attempt in (ends, dies, is_deleted)}
    assert len(set(machines.values())) == 3
    kill(arena.keeper)
    arena.kill_machine(machines[dies])
    pod = arena.pod(is_deleted)
    assert pod is not None
    arena.api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
    queued = arena.submit(1)
    assert arena.over(ends).outcome is Outcome.SUCCESS
    time.sleep(3)
    assert arena.keeper
    succeeds(arena, ends)
    assert arena.ended(dies).outcome is Outcome.INTERRUPTED
    assert arena.ended(is_deleted).outcome is Outcome.INTERRUPTED
    succeeds(arena, queued)


@on("karpenter")
def test_a_run_is_cancelled_before_it_is_admitted_and_buys_nothing(arena: Arena) -> None:
    with asleep(arena.keeper):
        attempt = arena.submit(5, machine=LARGER)
        arena.cancel(attempt)
        assert arena.over(attempt).outcome is Outcome.CANCELLED
    ended = arena.ended(attempt)
    assert (ended.outcome, ended.machines) == (Outcome.CANCELLED, ())


@on("karpenter")
def test_a_run_is_cancelled_while_its_machine_is_being_bought(arena: Arena) -> None:
    components.freeze(arena.here, arena.autoscaler)
    try:
        attempt = arena.submit(5, machine=FRESH[4])
        arena.wait_status(attempt, "admitted", lambda _: _is_admitted(arena, attempt))
        arena.cancel(attempt)
        assert arena.over(attempt).outcome is Outcome.CANCELLED
    finally:
        components.thaw(arena.here, arena.autoscaler)
    assert arena.ended(attempt).machines == ()


@on("karpenter")
def test_a_run_is_cancelled_while_its_image_is_pulled(arena: Arena) -> None:
    attempt = _pulling(arena, FRESH[5])
    arena.cancel(attempt)
    assert arena.ended(attempt).outcome is Outcome.CANCELLED


@on("asg")
def test_a_run_is_cancelled_while_it_runs(arena: Arena) -> None:
    attempt = arena.submit(60)
    arena.running(attempt)
    arena.cancel(attempt)
    ended = arena.ended(attempt)
    assert (ended.outcome, ended.exit_code) == (Outcome.CANCELLED, 143)


@pytest.fixture(scope="module")
def long_runs() -> dict[str, list[str]]:
    """By kind of pool: runs that last longer than their machines' minimum, which go at once then.

    They run while another test waits.
    """
    return {}


@on("karpenter")
def test_a_machine_that_is_cut_off_for_long_is_lost_and_its_run_tried_again(
    arena: Arena, long_runs: dict[str, list[str]]
) -> None:
    long_runs[arena.kind] = [arena.submit(80 + number) for number in range(3)]
    attempt = arena.submit(150, machine=LARGER)
    name = arena.running(attempt)
    arena.harmed.add(name)
    faults.cut_network(arena.here, name)
    ended = arena.ended(attempt)
    assert ended.outcome is Outcome.INTERRUPTED, ended
    again = arena.again(attempt)
    arena.running(again)
    arena.cancel(again)
    assert arena.ended(again).outcome is Outcome.CANCELLED


@on("karpenter")
def test_a_machine_is_given_back_at_the_moment_when_the_next_run_arrives(
    arena: Arena, long_runs: dict[str, list[str]]
) -> None:
    choice = random.Random(1)

    def follow(attempt: str, delay: float) -> str:
        succeeds(arena, attempt)  # which says that it was read: now nothing keeps its machine
        time.sleep(delay)
        return arena.submit(1)

    first = long_runs.get(arena.kind) or [arena.submit(60) for _ in range(3)]
    delays = [0.0, *(choice.uniform(0, 1.5) for _ in first[1:])]
    with ThreadPoolExecutor(len(first)) as pool:
        for attempt in list(pool.map(follow, first, delays)):
            succeeds(arena, attempt)


def test_random_rounds(arenas: Callable[[str], Arena], pytestconfig: pytest.Config) -> None:
    """Each can be repeated: PIECEWORK_TESTBED_SEED=N begins with the round of that seed."""
    told = os.environ.get("PIECEWORK_TESTBED_SEED")
    first = int(told) if told else random.SystemRandom().randrange(100_000)
    for seed in range(first, first + ROUNDS):
        kind = KINDS[seed % len(KINDS)]
        say(pytestconfig, f"a round on {kind}, seed {seed}")
        arena = arenas(kind)
        assert arena.keeper
        say(pytestconfig, play(arena, seed))
        check_now(arena)
