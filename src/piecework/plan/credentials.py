"""Which Secrets and ConfigMaps the pods of jobs name, so that their programs reach their data.

What enters is the configuration's section [data]; what leaves are parts of a pod, for the pods
that piecework makes and for those that an engine makes for its attempt. Nothing secret is in them.
"""

from __future__ import annotations

from typing import Any

from piecework.spec.data import KERBEROS_CONFIG, KERBEROS_FOLDER, KEYTAB, KEYTAB_FOLDER, Data

Object = dict[str, Any]


def variables_from(data: Data) -> list[Object]:
    """A container's `envFrom`: the Secret's keys as variables; what is said otherwise wins."""
    return [{"secretRef": {"name": data.secret}}] if data.secret else []


def files_of(data: Data) -> tuple[list[Object], list[Object]]:
    """A pod's `volumes` and a container's `volumeMounts`: the files that Kerberos needs."""
    volumes: list[Object] = []
    mounts: list[Object] = []

    def mount(name: str, folder: str, source: Object) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": folder, "readOnly": True})

    kerberos = data.kerberos
    if kerberos is not None and kerberos.keytab_secret:
        items = [{"key": KEYTAB, "path": KEYTAB}]
        secret = {"secretName": kerberos.keytab_secret, "items": items, "defaultMode": 0o400}
        mount("keytab", KEYTAB_FOLDER, {"secret": secret})
    if kerberos is not None and kerberos.config_map:
        items = [{"key": KERBEROS_CONFIG, "path": KERBEROS_CONFIG}]
        config_map = {"name": kerberos.config_map, "items": items}
        mount("krb5", KERBEROS_FOLDER, {"configMap": config_map})
    return volumes, mounts
