"""What is left of a machine for its job."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.plan.price import load_price_book
from piecework.plan.reserve import Usable, is_enough, max_pods, read_learned, usable
from piecework.spec.pool import Group, Pool, Reserve
from piecework.units import GIBI, MEBI, Memory

BOOK = load_price_book()
POOL = Pool(name="burst", provider="karpenter")
names = st.sampled_from(sorted(BOOK.types))


def left_of(name: str, pool: Pool = POOL) -> Usable:
    machine = BOOK.find(name)
    assert machine is not None
    return usable(machine, pool)


@given(names)
def test_a_job_gets_less_than_the_nameplate_and_never_less_than_nothing(name: str) -> None:
    machine, left = BOOK.types[name], left_of(name)
    assert 0 <= left.cpus < machine.vcpus
    assert 0 <= left.memory.bytes < machine.memory.bytes


@pytest.mark.parametrize(
    ("name", "system_millicpus", "pods"),
    # What nodeadm withholds of machines with 2, 4, 8, 16 and 96 vCPUs.
    [
        ("m6a.large", 70, 29),
        ("m6a.xlarge", 80, 58),
        ("m6a.2xlarge", 90, 58),
        ("m6a.4xlarge", 110, 234),
        ("m6a.24xlarge", 310, 737),
    ],
)
def test_the_defaults_are_those_of_amazons_images(
    name: str, system_millicpus: int, pods: int
) -> None:
    machine, left = BOOK.types[name], left_of(name)
    assert machine.vcpus - left.cpus == Decimal(system_millicpus + 200) / 1000
    assert max_pods(machine.vcpus) == pods
    hidden = machine.memory.bytes * 75 // 1000
    system = (255 + 11 * pods + 100 + 256) * MEBI
    assert 0 <= machine.memory.bytes - hidden - system - left.memory.bytes <= MEBI


def test_a_pool_may_know_better_by_part() -> None:
    pool = POOL.model_copy(update={"reserve": Reserve(cpu=Decimal("0.5"))})
    assert left_of("m6a.large", pool).cpus == Decimal("1.5")
    assert left_of("m6a.large", pool).memory == left_of("m6a.large").memory
    pool = POOL.model_copy(update={"reserve": Reserve(memory=Memory(GIBI))})
    assert left_of("m6a.large", pool).memory == Memory(7 * GIBI)


LEARNED = read_learned({"m6a.large": json.dumps({"cpu": "1930m", "memory_bytes": 7 * GIBI})})
GROUPS = Pool(name="groups", provider="asg", groups=(Group(name="a", type="m6a.large"),))


def test_what_was_learned_from_a_machine_is_believed_before_all_else() -> None:
    machine = BOOK.types["m6a.large"]
    pool = GROUPS.model_copy(update={"reserve": Reserve(cpu=Decimal(1))})
    found = usable(machine, pool, LEARNED)
    assert found.cpus == Decimal("1.93")
    # Machines of one type differ a little.
    assert Memory(7 * GIBI * 98 // 100) < found.memory < Memory(7 * GIBI)
    assert usable(BOOK.types["m6a.xlarge"], GROUPS, LEARNED) == left_of("m6a.xlarge")


def test_karpenter_is_asked_for_no_more_than_it_believes_to_be_there() -> None:
    machine, default = BOOK.types["m6a.large"], left_of("m6a.large")
    most = json.dumps({"cpu": "2", "memory_bytes": machine.memory.bytes})
    found = usable(machine, POOL, read_learned({"m6a.large": most}))
    # All that the defaults withhold, but for the daemons.
    assert found == Usable(default.cpus + Decimal("0.2"), Memory(default.memory.bytes + 256 * MEBI))
    less = json.dumps({"cpu": "1500m", "memory_bytes": 4 * GIBI})
    assert usable(machine, POOL, read_learned({"m6a.large": less})).cpus == Decimal("1.5")


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.text(),
            st.dictionaries(
                st.sampled_from(["cpu", "memory_bytes"]), st.none() | st.floats() | st.text()
            ).map(json.dumps),
        ),
    )
)
def test_what_cannot_be_read_was_not_learned(data: dict[str, str]) -> None:
    assert all(is_enough(found) for found in read_learned(data).values())


def test_of_the_smallest_machines_nothing_is_left() -> None:
    assert not is_enough(left_of("t3.nano"))
    assert is_enough(left_of("c6a.large"))
