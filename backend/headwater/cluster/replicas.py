"""The pods that Headwater runs in, and what each says on its admin port, through the API server.

A pod is one of Headwater's by a container port of the name `headwater-http`, as the manifests in
deploy/ give it, and has a second instance by one called `headwater-twin`, among the pods of these
labels: those of deploy/base, and those of CoreDNS, which
deploy/overlays/patch-coredns adds the sidecar to. It looks in their namespaces only, unless it is
told others: whoever may create pods elsewhere could answer in Headwater's place.
"""

from __future__ import annotations

import datetime as dt
import http.client
from collections.abc import Iterator, Sequence
from typing import Final, Protocol
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct, field

from headwater.cluster.podport import PodPort, Unreachable, get
from headwater.cluster.reflector import RequestFailed

#: Where deploy/base and deploy/overlays/patch-coredns put them.
NAMESPACES: Final = ("headwater", "kube-system")
SELECTORS: Final = ("app.kubernetes.io/name=headwater", "k8s-app=kube-dns")
PORT_NAME: Final = "headwater-http"
#: Of the second instance in a pod.
TWIN_PORT_NAME: Final = "headwater-twin"
#: The admin port's number where no container names it.
PORT: Final = 9353
#: Bytes of a reply.
_MOST: Final = 4 << 20


class NotThere(RuntimeError):  # noqa: N818 (what is the matter)
    """Nobody can be asked: the text says why, and what to do."""


class Replica(Struct, frozen=True):
    """A pod, or one of two instances in it."""

    namespace: str
    pod: str
    node: str
    ready: bool
    """By its readiness probes."""
    created: float | None
    """Seconds since 1970."""
    restarts: int
    """Of Headwater's container."""
    port: int
    """Its admin port."""
    twin: bool = False
    """Whether it is the second instance of its pod."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}" + (" (twin)" if self.twin else "")


class Server(Protocol):
    """The API server (`api.ApiServer`)."""

    def read(self, path: str) -> bytes | None: ...
    def open_port(self, namespace: str, pod: str, port: int) -> PodPort: ...


class _Port(Struct, rename="camel"):
    name: str = ""
    container_port: int = 0


class _Container(Struct, rename="camel"):
    name: str = ""
    ports: list[_Port] | None = None


class _Spec(Struct, rename="camel"):
    node_name: str = ""
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _Condition(Struct):
    type: str = ""
    status: str = ""


class _State(Struct, rename="camel"):
    name: str = ""
    restart_count: int = 0


class _Status(Struct, rename="camel"):
    phase: str = ""
    conditions: list[_Condition] | None = None
    container_statuses: list[_State] | None = None
    init_container_statuses: list[_State] | None = None


class _Meta(Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    creation_timestamp: str | None = None


class _Pod(Struct):
    metadata: _Meta = field(default_factory=_Meta)
    spec: _Spec = field(default_factory=_Spec)
    status: _Status = field(default_factory=_Status)


class _Pods(Struct):
    items: list[_Pod] = field(default_factory=list)


def find(server: Server, namespace: str, selector: str, port: int) -> tuple[list[Replica], list[str]]:
    """Return Headwater's running pods in their order, and what could not be looked at.

    `namespace` and `selector`: "" for the usual ones; every pod of a given selector counts.
    `port`: the admin port, 0 for the one that the containers name. Raises NotThere when there is no
    pod.
    """
    namespaces = (namespace,) if namespace else NAMESPACES
    found: dict[tuple[str, str, bool], Replica] = {}
    problems: list[str] = []
    for where in namespaces:
        for labels in (selector,) if selector else SELECTORS:
            path = f"/api/v1/namespaces/{quote(where, safe='')}/pods?{urlencode({'labelSelector': labels})}"
            try:
                body = server.read(path)
            except RequestFailed as error:
                problems.append(_of_list(error, where))
                break
            for pod in _decoded(body, path).items:
                for replica in _replicas(pod, port, taken=bool(selector)):
                    found[replica.namespace, replica.pod, replica.twin] = replica
    if found:
        return [found[key] for key in sorted(found)], problems
    looked = f"no pod of Headwater runs in {' or '.join(namespaces)}"
    labels = selector or " or ".join(SELECTORS)
    advice = (
        "" if selector else f", and a container port called {PORT_NAME}: -n NAMESPACE, or -l SELECTOR, names others"
    )
    raise NotThere("\n".join(problems) or f"{looked} with the labels {labels}{advice}")


def ask(server: Server, replica: Replica, path: str) -> tuple[int, bytes]:
    """Return the status and the body of a page of its admin port. Raises NotThere."""
    try:
        return get(server.open_port(replica.namespace, replica.pod, replica.port), path, _MOST)
    except RequestFailed as error:
        raise NotThere(_of_port(error, replica)) from None
    except Unreachable as error:
        raise NotThere(f"{replica}: port {replica.port}: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotThere(
            f"{replica}: port {replica.port}: {why}. Does Headwater listen there (--admin)? Another: --container-port"
        ) from None


def _replicas(pod: _Pod, port: int, *, taken: bool) -> Iterator[Replica]:
    """Nothing for a pod that is not one of Headwater's, or does not run."""
    if pod.status.phase != "Running":
        return
    containers = [*(pod.spec.init_containers or ()), *(pod.spec.containers or ())]
    states = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
    ours: dict[str, tuple[str, int]] = {}
    for item in containers:
        for one in item.ports or ():
            ours.setdefault(one.name, (item.name, one.container_port))
    named: list[str] = [name for name in (PORT_NAME, TWIN_PORT_NAME) if name in ours]
    # A port that is given is one of them, or the only one.
    named = [name for name in named if ours[name][1] == port] or named[:1] if port else named
    for name in named or ([""] if taken else ()):
        container, number = ours.get(name, ("", PORT))
        yield Replica(
            pod.metadata.namespace, pod.metadata.name, pod.spec.node_name,
            any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or ()),
            _seconds(pod.metadata.creation_timestamp),
            sum(item.restart_count for item in states if item.name == container),
            port or number, name == TWIN_PORT_NAME,
        )  # fmt: skip


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _decoded(body: bytes | None, path: str) -> _Pods:
    try:
        return _Pods() if body is None else msgspec.json.decode(body, type=_Pods)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotThere(f"{path}: no list of pods: {error}") from None


def _of_list(error: RequestFailed, namespace: str) -> str:
    if error.status != 403:
        return str(error)
    return _may_not(error, namespace, ("get", "list"), "pods")


def _of_port(error: RequestFailed, replica: Replica) -> str:
    if error.status == 404:
        return f"{replica}: the pod is gone"
    if error.status != 403:
        return f"{replica}: {error}"
    # A WebSocket is opened by a GET, and since 1.35 the API server wants `create` for it as well.
    return _may_not(error, replica.namespace, ("get", "create"), "pods/portforward")


def _may_not(error: RequestFailed, namespace: str, verbs: Sequence[str], resource: str) -> str:
    """What is missing, and who can give it how."""
    name = f"headwater-{resource.replace('/', '-')}"
    return (
        f"{error}\n"
        f"Whoever may can give it:\n"
        f"  kubectl -n {namespace} create role {name} --verb={','.join(verbs)} --resource={resource}\n"
        f"  kubectl -n {namespace} create rolebinding {name} --role={name} --user=YOU"
    )
