"""etcd, API server, controller manager, scheduler and DNS, as people run them.

What enters is a Place; what leaves are running components behind TLS with the testbed's own
authority, Node and RBAC authorization, and the default admission plug-ins (Pod Security among
them). Each component can be started alone, so that tests can take one away and bring it back.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from testbed import components, programs
from testbed.certificates import ca_file, issue, make_authority, write_kubeconfig
from testbed.place import API_PORT, DOMAIN, REGISTRY_HOST, Place

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
_COREFILE = """.:53 {{
    bind {hub}
    errors
    ready {hub}:8181
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {folder}/coredns.kubeconfig
        pods insecure
        ttl 5
    }}
    hosts {{
        {hub} {registry} hub.piecework.test
        fallthrough
    }}
    prometheus {hub}:9153
    cache 5
}}
"""
#: Who deleted what: when something is gone that nobody should have removed, this is what to read.
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [delete, deletecollection]
  resources: [{group: ""}, {group: karpenter.sh}]
- level: None
"""


def prepare(place: Place) -> None:
    """Makes certificates, kubeconfigs and configuration files; keeps those that are there."""
    make_authority(place)
    hub_names = [
        place.hub, "127.0.0.1", place.kubernetes_service, "localhost", "kubernetes",
        "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}",
    ]  # fmt: skip
    issue(place, "apiserver", "kube-apiserver", hosts=hub_names)
    issue(place, "etcd", "etcd", hosts=["127.0.0.1", "localhost"])
    issue(place, "controller-manager", "kube-controller-manager", hosts=[place.hub, "127.0.0.1"])
    issue(place, "scheduler", "kube-scheduler", hosts=[place.hub, "127.0.0.1"])
    issue(place, "etcd-client", "kube-apiserver")
    issue(place, "kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    issue(place, "front-proxy", "front-proxy-client")
    issue(place, "registry", "registry", hosts=[REGISTRY_HOST, place.hub])
    for file, user, groups in (
        ("admin", "piecework-admin", ["system:masters"]),
        ("kube-controller-manager", "system:kube-controller-manager", []),
        ("kube-scheduler", "system:kube-scheduler", []),
        ("kube-proxy", "system:kube-proxy", []),
        ("coredns", "system:coredns", []),
    ):
        path = place.folder / f"{file}.kubeconfig"
        if not path.exists():
            write_kubeconfig(place, path, user, groups)
    _audit_policy(place).write_text(_AUDIT_POLICY)
    (place.folder / "Corefile").write_text(
        _COREFILE.format(hub=place.hub, domain=DOMAIN, folder=place.folder, registry=REGISTRY_HOST)
    )


def start(place: Place, name: str) -> None:
    """Starts one component; does nothing where it runs. It may not be ready yet: see `wait`."""
    components.start(place, name, _COMMANDS[name](place))


def start_all(place: Place) -> None:
    """Starts etcd and the API server, waits for them, then starts the others."""
    start(place, "etcd")
    start(place, "kube-apiserver")
    wait(place, "kube-apiserver")
    for name in NAMES[2:]:
        start(place, name)
    # CoreDNS is ready only when it may list what it serves, which is granted after this.


def wait(place: Place, name: str, timeout_seconds: float = 60) -> None:
    """Waits until a component says that it is ready."""
    check = _CHECKS[name]
    components.wait_until(
        f"{name} to be ready",
        lambda: _answers(place, check(place)),
        timeout_seconds,
        alive=lambda: components.running(place, name),
        log=place.logs / f"{name}.log",
    )


def is_ready(place: Place, name: str) -> bool:
    """Whether the component answers that it is ready, asked once."""
    return _answers(place, _CHECKS[name](place))


def _answers(place: Place, url: str) -> bool:
    context = ssl.create_default_context(cafile=str(ca_file(place)))
    context.load_cert_chain(*issue(place, "kubelet-client", ""))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _audit_policy(place: Place) -> Path:
    return place.folder / "audit-policy.yaml"


def _pki(place: Place, name: str) -> str:
    return str(place.pki / name)


def _etcd(place: Place) -> list[str]:
    return [
        str(programs.find("etcd")),
        "--name=testbed",
        f"--data-dir={place.folder}/etcd",
        "--listen-client-urls=https://127.0.0.1:2379",
        "--advertise-client-urls=https://127.0.0.1:2379",
        "--listen-peer-urls=https://127.0.0.1:2380",
        "--initial-advertise-peer-urls=https://127.0.0.1:2380",
        "--initial-cluster=testbed=https://127.0.0.1:2380",
        f"--listen-metrics-urls=http://{place.hub}:2381",
        "--client-cert-auth",
        "--peer-client-cert-auth",
        f"--trusted-ca-file={ca_file(place)}",
        f"--peer-trusted-ca-file={ca_file(place)}",
        f"--cert-file={_pki(place, 'etcd.crt')}",
        f"--key-file={_pki(place, 'etcd.key')}",
        f"--peer-cert-file={_pki(place, 'etcd.crt')}",
        f"--peer-key-file={_pki(place, 'etcd.key')}",
        # The data ends with the testbed: nobody needs it to survive a power cut.
        "--unsafe-no-fsync",
        "--quota-backend-bytes=2147483648",
        "--log-level=warn",
    ]


def _api_server(place: Place) -> list[str]:
    return [
        str(programs.find("kube-apiserver")),
        f"--advertise-address={place.hub}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=https://127.0.0.1:2379",
        f"--etcd-cafile={ca_file(place)}",
        f"--etcd-certfile={_pki(place, 'etcd-client.crt')}",
        f"--etcd-keyfile={_pki(place, 'etcd-client.key')}",
        f"--client-ca-file={ca_file(place)}",
        f"--tls-cert-file={_pki(place, 'apiserver.crt')}",
        f"--tls-private-key-file={_pki(place, 'apiserver.key')}",
        f"--kubelet-certificate-authority={ca_file(place)}",
        f"--kubelet-client-certificate={_pki(place, 'kubelet-client.crt')}",
        f"--kubelet-client-key={_pki(place, 'kubelet-client.key')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={_pki(place, 'service-accounts.pub')}",
        f"--service-account-signing-key-file={_pki(place, 'service-accounts.key')}",
        f"--service-cluster-ip-range={place.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--requestheader-client-ca-file={ca_file(place)}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={_pki(place, 'front-proxy.crt')}",
        f"--proxy-client-key-file={_pki(place, 'front-proxy.key')}",
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={_audit_policy(place)}",
        f"--audit-log-path={place.logs}/deletions.log",
    ]


def _controller_manager(place: Place) -> list[str]:
    kubeconfig = f"{place.folder}/kube-controller-manager.kubeconfig"
    return [
        str(programs.find("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--client-ca-file={ca_file(place)}",
        f"--requestheader-client-ca-file={ca_file(place)}",
        f"--tls-cert-file={_pki(place, 'controller-manager.crt')}",
        f"--tls-private-key-file={_pki(place, 'controller-manager.key')}",
        f"--root-ca-file={ca_file(place)}",
        f"--service-account-private-key-file={_pki(place, 'service-accounts.key')}",
        f"--cluster-signing-cert-file={ca_file(place)}",
        f"--cluster-signing-key-file={_pki(place, 'ca.key')}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
    ]


def _scheduler(place: Place) -> list[str]:
    kubeconfig = f"{place.folder}/kube-scheduler.kubeconfig"
    return [
        str(programs.find("kube-scheduler")),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--client-ca-file={ca_file(place)}",
        f"--requestheader-client-ca-file={ca_file(place)}",
        f"--tls-cert-file={_pki(place, 'scheduler.crt')}",
        f"--tls-private-key-file={_pki(place, 'scheduler.key')}",
        "--leader-elect=false",
    ]


def _coredns(place: Place) -> list[str]:
    return [str(programs.find("coredns")), "-conf", f"{place.folder}/Corefile"]


_COMMANDS: dict[str, Callable[[Place], list[str]]] = {
    "etcd": _etcd,
    "kube-apiserver": _api_server,
    "kube-controller-manager": _controller_manager,
    "kube-scheduler": _scheduler,
    "coredns": _coredns,
}
_CHECKS: dict[str, Callable[[Place], str]] = {
    "etcd": lambda place: f"http://{place.hub}:2381/readyz",
    "kube-apiserver": lambda place: f"{place.server}/readyz",
    "kube-controller-manager": lambda place: f"https://{place.hub}:10257/healthz",
    "kube-scheduler": lambda place: f"https://{place.hub}:10259/healthz",
    "coredns": lambda place: f"http://{place.hub}:8181/ready",
}
