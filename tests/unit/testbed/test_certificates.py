from __future__ import annotations

import base64
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from testbed import certificates
from testbed.place import Place


def test_a_certificate_names_its_user_groups_and_hosts_and_is_signed_by_the_authority(
    tmp_path: Path,
) -> None:
    place = Place("t", tmp_path, 0)
    certificates.make_authority(place)
    path, key = certificates.issue(place, "x", "ann", ["a", "b"], hosts=["10.0.0.1", "h.example"])
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    authority = x509.load_pem_x509_certificate(certificates.ca_file(place).read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [name.value for name in names] == ["ann"]
    assert [group.value for group in groups] == ["a", "b"]
    hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["h.example"]
    assert [str(ip) for ip in hosts.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert key.stat().st_mode & 0o077 == 0


def test_the_authority_is_made_once(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    certificates.make_authority(place)
    before = certificates.ca_file(place).read_bytes()
    certificates.make_authority(place)
    assert certificates.ca_file(place).read_bytes() == before


def test_a_kubeconfig_stands_alone_and_checks_the_server(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 3)
    certificates.make_authority(place)
    path = certificates.write_kubeconfig(place, tmp_path / "k", "system:node:x", ["system:nodes"])
    config = yaml.safe_load(path.read_text())
    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == place.server
    authority = base64.b64decode(cluster["certificate-authority-data"])
    assert authority == certificates.ca_file(place).read_bytes()
    assert "insecure-skip-tls-verify" not in path.read_text()
