from __future__ import annotations

import ipaddress
import itertools
from pathlib import Path

from testbed.place import Place


def test_addresses_of_machines_and_pods_never_overlap() -> None:
    place = Place("t", Path("/t"), 7)
    ranges = [ipaddress.ip_network(place.pod_range(index)) for index in range(256)]
    for first, second in itertools.pairwise(ranges):
        assert not first.overlaps(second)
    pods = ipaddress.ip_network(place.pods)
    services = ipaddress.ip_network(place.services)
    assert all(one.subnet_of(pods) for one in ranges)  # type: ignore[arg-type]  # both are IPv4
    assert not pods.overlaps(services)
    machines = [ipaddress.ip_address(place.machine_address(index)) for index in range(256)]
    assert len(set(machines)) == 256
    assert not any(address in pods or address in services for address in machines)
    assert ipaddress.ip_address(place.kubernetes_service) in services
    assert ipaddress.ip_address(place.dns) in services


def test_two_places_share_no_name_and_no_network() -> None:
    one, two = Place("a", Path("/a"), 0), Place("b", Path("/b"), 99)
    assert one.id != two.id
    assert one.namespace_file != two.namespace_file
    assert one.network != two.network
    assert len(two.id) <= 15  # what an interface's name may have
