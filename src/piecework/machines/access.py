"""Who may do what on a cluster: namespaces, the priority class, service accounts and their roles;
and the Services by which the pods of a gang find each other.

Enter: the pools of one cluster. Leave: objects to apply. Two kinds of people have rights: the
keeper, which reads pods and machines everywhere and changes those of the pools; and submitters
(Airflow, the command line), which create pods in the pools' namespaces and read their logs. A third
account can only read what machines use: the keeper gets tokens of it, to show to kubelets.
The pods themselves have none, and no token is mounted, but for Spark's drivers, which make the pods
of their executors: those may make and end pods, behind gates that they cannot open, and nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from piecework.plan import labels
from piecework.plan.followers import DRIVER_ACCOUNT
from piecework.plan.manifest import GANG_SERVICE, PRIORITY_CLASS
from piecework.spec.pool import Pool

Object = dict[str, Any]

KEEPER = "piecework-keeper"
SUBMITTER = "piecework-submitter"
#: Whose token the keeper shows to kubelets: it may read what machines and containers use.
METER = "piecework-meter"
#: The Secret with the keeper's piecework.toml; whoever sets it up makes it, for it has passwords.
SETTINGS = "piecework-settings"
_SETTINGS_FOLDER = "/etc/piecework"
_HOME = "/var/lib/piecework"
_OURS = {"app.kubernetes.io/managed-by": "piecework"}
_RBAC = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]
_USER = 65532
_METRICS_PORT = 9102


def render_namespaces(pools: Sequence[Pool]) -> list[Object]:
    """The pools' namespaces, each held to the restricted Pod Security standard."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                "labels": {
                    **_OURS,
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        }
        for namespace in namespaces_of(pools)
    ]


def namespaces_of(pools: Sequence[Pool]) -> list[str]:
    """The pools' namespaces, each once."""
    return list(dict.fromkeys(pool.namespace for pool in pools))


def other_namespaces_of(pools: Sequence[Pool]) -> list[str]:
    """Where else pods for the pools may be: of people who make their pods themselves."""
    named = [name for pool in pools for name in pool.other_namespaces]
    return [name for name in dict.fromkeys(named) if name not in namespaces_of(pools)]


def render_priority() -> Object:
    """The priority class of all jobs: nothing is preempted for them; the keeper orders them."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": PRIORITY_CLASS, "labels": _OURS},
        "value": 0,
        "preemptionPolicy": "Never",
        "globalDefault": False,
        "description": "Jobs of piecework. They wait for machines of their own.",
    }


def render_gang_services(pools: Sequence[Pool]) -> list[Object]:
    """Gives each pod of a gang a name in its namespace's DNS, from the moment it has an address."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": GANG_SERVICE, "namespace": namespace, "labels": _OURS},
            "spec": {
                "clusterIP": "None",
                "selector": {**_OURS, labels.GANG: "true"},
                "publishNotReadyAddresses": True,
            },
        }
        for namespace in namespaces_of(pools)
    ]


def render_access(pools: Sequence[Pool]) -> list[Object]:
    """Service accounts and roles. The keeper lives in the first pool's namespace."""
    home = namespaces_of(pools)[0]
    # Cluster roles have no namespace: those of another keeper's pools shall not be written over.
    own, meters = f"{KEEPER}-{home}", f"{METER}-{home}"
    objects: list[Object] = [
        _account(KEEPER, home),
        _account(SUBMITTER, home),
        *_job_accounts(pools),
        _role("ClusterRole", own, None, _keeper_everywhere(pools)),
        _binding("ClusterRoleBinding", own, None, KEEPER, home),
        {**_account(METER, home), "automountServiceAccountToken": False},
        _role("ClusterRole", meters, None, [_rule("", ["nodes/metrics"], ["get"])]),
        _binding("ClusterRoleBinding", meters, None, METER, home),
        _role("Role", METER, home, [_token_of_meter()]),
        _binding("RoleBinding", METER, home, KEEPER, home),
    ]
    for namespace in namespaces_of(pools):
        objects += [
            _role("Role", KEEPER, namespace, _keeper_in_namespace(pools, namespace)),
            _binding("RoleBinding", KEEPER, namespace, KEEPER, home),
            _role("Role", SUBMITTER, namespace, _submitter_in_namespace(pools, namespace)),
            _binding("RoleBinding", SUBMITTER, namespace, SUBMITTER, home),
            *_render_drivers(pools, namespace),
        ]
    for namespace in other_namespaces_of(pools):
        objects += [
            _role("Role", KEEPER, namespace, _keeper_of_pods()),
            _binding("RoleBinding", KEEPER, namespace, KEEPER, home),
        ]
    return objects


def _render_drivers(pools: Sequence[Pool], namespace: str) -> list[Object]:
    """The account of Spark's drivers; those of pools with an account of their own have that one."""
    named = {p.service_account for p in pools if p.namespace == namespace and p.service_account}
    binding = _binding("RoleBinding", DRIVER_ACCOUNT, namespace, DRIVER_ACCOUNT, namespace)
    for name in sorted(named):
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        binding["subjects"].append(subject)
    return [
        {**_account(DRIVER_ACCOUNT, namespace), "automountServiceAccountToken": False},
        _role("Role", DRIVER_ACCOUNT, namespace, _driver_in_namespace()),
        binding,
    ]


def _driver_in_namespace() -> list[Object]:
    """Executors are made, watched and ended; without `patch` nobody opens a gate."""
    return [_rule("", ["pods"], [*_READ, "create", "delete", "deletecollection"])]


def driver_rights() -> list[tuple[str, str, str]]:
    """What Spark's drivers must be allowed in each namespace: verb, API group, resource."""
    return _spread(_driver_in_namespace())


def _keeper_everywhere(pools: Sequence[Pool]) -> list[Object]:
    """Reading what is on machines, wherever it comes from; marking and giving back machines."""
    rules = [
        _rule("", ["pods", "events", "namespaces"], _READ),
        _rule("", ["nodes"], [*_READ, "patch"]),
    ]
    if any(pool.provider == "karpenter" for pool in pools):
        rules += [
            _rule("karpenter.sh", ["nodeclaims"], [*_READ, "patch", "delete"]),
            _rule("karpenter.sh", ["nodepools"], _READ),
        ]
    return rules


def _token_of_meter() -> Object:
    return {**_rule("", ["serviceaccounts/token"], ["create"]), "resourceNames": [METER]}


def _keeper_in_namespace(pools: Sequence[Pool], namespace: str) -> list[Object]:
    """Its lease, and what it learned of machines; and all that it does with pods, and with what
    stands for some.
    """
    kueue = [_rule("kueue.x-k8s.io", ["workloads"], ["delete"])]
    return [
        *_keeper_of_pods(),
        *(kueue if any(pool.queue for pool in pools) else ()),
        *_applications(pools, namespace, [*_READ, "patch", "delete"]),
        _rule("", ["configmaps"], [*_READ, "create", "update", "patch", "delete"]),
        _rule("coordination.k8s.io", ["leases"], ["get", "create", "update", "patch"]),
    ]


def _keeper_of_pods() -> list[Object]:
    """Opening gates, ending pods, keeping logs."""
    return [
        _rule("", ["pods"], [*_READ, "patch", "delete"]),
        _rule("", ["pods/log"], ["get"]),
    ]


def _applications(pools: Sequence[Pool], namespace: str, verbs: list[str]) -> list[Object]:
    """What may be done with SparkApplications, where a pool says that there are any."""
    if not any(pool.spark_operator and pool.namespace == namespace for pool in pools):
        return []
    return [_rule("sparkoperator.k8s.io", ["sparkapplications"], verbs)]


def _submitter_in_namespace(pools: Sequence[Pool], namespace: str) -> list[Object]:
    """Starting, following and cancelling attempts; bringing their code, removing old code."""
    return [
        *_applications(pools, namespace, [*_READ, "create", "patch", "delete"]),
        _rule("", ["pods"], [*_READ, "create", "patch", "delete"]),
        _rule("", ["pods/log"], ["get"]),
        _rule("", ["events"], _READ),
        _rule("", ["configmaps"], [*_READ, "create", "patch", "delete"]),
    ]


def submitter_rights(pools: Sequence[Pool]) -> list[tuple[str, str, str, str]]:
    """What a submitter must be allowed: verb, API group, resource, and namespace."""
    return [
        (*right, namespace)
        for namespace in namespaces_of(pools)
        for right in _spread(_submitter_in_namespace(pools, namespace))
    ]


def keeper_rights(pools: Sequence[Pool]) -> list[tuple[str, str, str, str | None]]:
    """What the keeper must be allowed: verb, API group, resource, and namespace (None: all).

    The token for kubelets is not among them: without it, no more is lost than what containers use.
    """
    rights: list[tuple[str, str, str, str | None]] = [
        (*right, None) for right in _spread(_keeper_everywhere(pools))
    ]
    for namespace in namespaces_of(pools):
        granted = _spread(_keeper_in_namespace(pools, namespace))
        rights += [(*right, namespace) for right in granted]
    for namespace in other_namespaces_of(pools):
        rights += [(*right, namespace) for right in _spread(_keeper_of_pods())]
    return rights


def _spread(rules: Sequence[Object]) -> list[tuple[str, str, str]]:
    return [
        (verb, group, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def render_keeper(pools: Sequence[Pool], image: str, secret: str | None = None) -> Object:
    """Two keepers, of which one acts. Their settings come from the Secret `piecework-settings`.

    `secret` is the one of [data], whose keys become variables where it is there: for the store.
    """
    namespace = namespaces_of(pools)[0]
    named = {"app.kubernetes.io/name": KEEPER}
    credentials = {"envFrom": [{"secretRef": {"name": secret, "optional": True}}]}
    container = {
        **(credentials if secret else {}),
        "name": "keeper",
        "image": image,
        "command": ["piecework", "keeper", "--json-logs", f"--metrics-port={_METRICS_PORT}"],
        "ports": [{"name": "metrics", "containerPort": _METRICS_PORT}],
        "env": [
            {"name": "PIECEWORK_CONFIG", "value": f"{_SETTINGS_FOLDER}/piecework.toml"},
            {"name": "PIECEWORK_HOME", "value": _HOME},
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "settings", "mountPath": _SETTINGS_FOLDER, "readOnly": True},
            {"name": "home", "mountPath": _HOME},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - in the container
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": KEEPER, "namespace": namespace, "labels": {**_OURS, **named}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": named},
            "template": {
                "metadata": {"labels": {**_OURS, **named}},
                "spec": {
                    "serviceAccountName": KEEPER,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": _USER,
                        "runAsGroup": _USER,
                        "fsGroup": _USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [
                        {"name": "settings", "secret": {"secretName": SETTINGS}},
                        {"name": "home", "emptyDir": {}},
                        {"name": "scratch", "emptyDir": {}},
                    ],
                },
            },
        },
    }


def _account(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "labels": _OURS},
    }


def _job_accounts(pools: Sequence[Pool]) -> list[Object]:
    """Those that pools name for their pods, each once."""
    named = {(pool.service_account, pool.namespace): None for pool in pools if pool.service_account}
    return [
        {**_account(str(name), namespace), "automountServiceAccountToken": False}
        for name, namespace in named
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _role(kind: str, name: str, namespace: str | None, rules: list[Object]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "rules": rules,
    }


def _binding(kind: str, name: str, namespace: str | None, account: str, home: str) -> Object:
    """Gives the role of that name to an account of the namespace `home`."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind.removesuffix("Binding"), "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": home}],
    }


def _metadata(name: str, namespace: str | None) -> Object:
    metadata: Object = {"name": name, "labels": _OURS}
    return metadata if namespace is None else {**metadata, "namespace": namespace}
