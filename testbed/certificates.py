"""The testbed's certificate authority, and the certificates and kubeconfigs made with it.

What enters are names and groups; what leaves are PEM files in the testbed's folder. All traffic is
checked against this one authority; nothing skips it. Keys are P-256: made in a millisecond.
"""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed.place import Place

_LIFETIME = timedelta(days=365)


def make_authority(place: Place) -> None:
    """Makes the authority and the key that signs service accounts' tokens, if they are missing."""
    if ca_file(place).exists():
        return
    place.pki.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("piecework-testbed", [])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    tokens = ec.generate_private_key(ec.SECP256R1())
    _write(place.pki / "service-accounts.key", _pem(tokens))
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(place.pki / "service-accounts.pub", public)
    _write(place.pki / "ca.key", _pem(key))
    _write(ca_file(place), certificate.public_bytes(serialization.Encoding.PEM))


def ca_file(place: Place) -> Path:
    return place.pki / "ca.crt"


def issue(
    place: Place,
    file: str,
    user: str,
    groups: Sequence[str] = (),
    *,
    hosts: Sequence[str] = (),
    folder: Path | None = None,
) -> tuple[Path, Path]:
    """A certificate and its key as FILE.crt and FILE.key; returns both paths.

    It proves that its holder is `user` in `groups`, and serves `hosts` (names or addresses).
    """
    target = folder or place.pki
    certificate_path, key_path = target / f"{file}.crt", target / f"{file}.key"
    if certificate_path.exists():
        return certificate_path, key_path
    target.mkdir(parents=True, exist_ok=True)
    authority = x509.load_pem_x509_certificate(ca_file(place).read_bytes())
    signer = serialization.load_pem_private_key((place.pki / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(_name(user, groups), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]  # the authority's key is P-256
            critical=False,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    _write(key_path, _pem(key))
    _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate_path, key_path


def write_kubeconfig(
    place: Place, path: Path, user: str, groups: Sequence[str] = (), namespace: str = "default"
) -> Path:
    """A kubeconfig that stands alone, with a certificate for this user; returns its path."""
    file = user.replace(":", "-").replace("/", "-")
    certificate, key = issue(place, f"user-{file}", user, groups)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": place.id,
                "cluster": {
                    "server": place.server,
                    "certificate-authority-data": _base64(ca_file(place)),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(certificate),
                    "client-key-data": _base64(key),
                },
            }
        ],
        "contexts": [
            {
                "name": place.name,
                "context": {"cluster": place.id, "user": user, "namespace": namespace},
            }
        ],
        "current-context": place.name,
    }
    _write(path, yaml.safe_dump(config).encode())
    return path


def _base64(path: Path) -> str:
    import base64

    return base64.b64encode(path.read_bytes()).decode()


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    # X.509 allows 64 characters; the names of Karpenter's nodes are longer, and Kubernetes, like
    # all that is written in Go, doesn't mind.
    with warnings.catch_warnings(action="ignore"):
        user_name = x509.NameAttribute(NameOID.COMMON_NAME, user, _validate=False)
    return x509.Name([*organizations, user_name])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    """Complete or not at all, and for the owner's eyes."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    unfinished.chmod(0o600)
    unfinished.rename(path)
