"""Nodes and pods without machines: KWOK plays the kubelets, for tests with thousands.

What enters are Node objects with the label `NO_KUBELET`, made here or by Karpenter; what leaves
are nodes that stay ready and pods that run on them, and succeed after the time that their
annotation `RUN_FOR` says. Everything else (API server, scheduler, autoscaler) is real.
"""

from __future__ import annotations

from pathlib import Path

from testbed import components, programs
from testbed.api import Api
from testbed.certificates import issue, write_kubeconfig
from testbed.place import Place
from testbed.provider import NO_KUBELET

NAME = "kwok"
RUN_FOR = "testbed.piecework.dev/run-for"
_FINISH = Path(__file__).parent / "manifests" / "kwok-pod-finish.yaml"
_PORT = 10247
_STAGES = ("stage/node/fast", "stage/node/heartbeat-with-lease", "stage/pod/fast")
_CONFIGURATION = """apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  enablePodsOnNodeSyncStreamWatch: true
  nodeLeaseParallelism: 4
  podPlayStageParallelism: 4
  nodePlayStageParallelism: 4
  nodePort: {port}
  cidr: 172.31.0.0/16
  manageAllNodes: false
  manageNodesWithAnnotationSelector: ''
  manageNodesWithLabelSelector: '{label}=true'
  nodeLeaseDurationSeconds: 40
"""
_ROLE = Path(__file__).parent / "manifests" / "kwok.yaml"


def start(place: Place) -> None:
    """Starts KWOK; does nothing where it runs."""
    with Api(place.admin) as api:
        api.apply_text(_ROLE.read_text())
    program = programs.find("kwok")
    kubeconfig = write_kubeconfig(place, place.folder / "kwok.kubeconfig", "kwok-controller")
    certificate, key = issue(place, "kwok-server", "kwok", hosts=[place.hub])
    folder = program.parent / "kustomize"
    texts = [_CONFIGURATION.format(port=_PORT, label=NO_KUBELET)]
    for stage in _STAGES:
        texts += [path.read_text() for path in sorted((folder / stage).glob("[np]o*.yaml"))]
    texts.append(_FINISH.read_text())
    configuration = place.folder / "kwok.yaml"
    configuration.write_text("\n---\n".join(texts))
    components.start(
        place,
        NAME,
        [
            str(program), f"--kubeconfig={kubeconfig}", f"--config={configuration}",
            f"--node-ip={place.hub}", f"--server-address={place.hub}:{_PORT}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
        ],
    )  # fmt: skip
