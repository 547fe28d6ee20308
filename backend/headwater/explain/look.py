"""Find reasons in objects that are not watched: pods, StatefulSets, and the selectors of Services.

`gather` looks these objects up for one explanation, and `refine` makes the explanation more exact
with them. An object that could not be looked up is named as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Final, Protocol

import msgspec

from headwater.explain.advised import of_sets
from headwater.explain.explanation import Cause, Deciding, Explanation, Look, Ref, kubectl

#: A parsed Kubernetes object.
Item = Mapping[str, Any]

#: The most pods of a namespace that are looked up.
MOST_PODS: Final = 500
#: The least similarity of two labels' values for a typing error (difflib's ratio).
_ALIKE: Final = 0.6
#: The most pods that one sentence names.
_FEW: Final = 2
_OVER_CAPACITY: Final = "endpoints.kubernetes.io/over-capacity"
#: Shows the EndpointSlice controller's pods.
_CONTROLLERS: Final = "kubectl -n kube-system get pods -l component=kube-controller-manager"
_ENDED: Final = ("Succeeded", "Failed")


class NotSeen(RuntimeError):  # noqa: N818 (what happened)
    """An object could not be looked up; the text says why."""


class Objects(Protocol):
    """A source of objects: the API server, or manifests. Its methods raise NotSeen."""

    def get(self, kind: str, namespace: str, name: str) -> Item | None: ...
    def every(self, kind: str, namespace: str) -> Sequence[Item]:
        """Return the objects of a namespace; of Pods at most MOST_PODS."""


@dataclass(slots=True)
class Seen:
    """The objects that were looked up; `unknown` has the kinds that could not be, and why."""

    look: Look
    service: Item | None = None
    named: Item | None = None
    """The object that the look names."""
    pods: Sequence[Item] = ()
    sets: Sequence[Item] = ()
    services: frozenset[str] = frozenset()
    """The Services of the namespace."""
    unknown: dict[str, str] = field(default_factory=dict)


def gather(looks: Iterable[Look], objects: Objects) -> list[Seen]:
    """Look up all objects that an explanation asks for."""
    return [_gathered(look, objects) for look in looks if look.kind != "name"]


def _gathered(look: Look, objects: Objects) -> Seen:
    seen = Seen(look)

    def get(kind: str, name: str) -> Item | None:
        try:
            return objects.get(kind, look.namespace, name)
        except NotSeen as why:
            seen.unknown.setdefault(kind, str(why))
            return None

    def every(kind: str) -> Sequence[Item]:
        try:
            return objects.every(kind, look.namespace)
        except NotSeen as why:
            seen.unknown.setdefault(kind, str(why))
            return ()

    if look.name:
        seen.named = get(look.kind, look.name)
    if look.kind == "Pod":
        seen.service = get("Service", look.service) if look.service else None
        seen.pods = every("Pod")
        seen.sets = every("StatefulSet")
        seen.services = frozenset(_name(item) for item in every("Service"))
    return seen


def refine(found: Explanation, seen: Sequence[Seen]) -> Explanation:
    """Return the explanation, made more exact with the objects that were looked up."""
    changes: dict[str, Any] = {}
    left: list[Look] = [look for look in found.looks if look.kind == "name"]
    unknown = list(found.unknown)
    hints = list(found.hints)
    deciding = list(found.deciding)
    commands = list(found.commands)
    advice: list[str] = []
    for one in seen:
        if one.service is not None and one.sets:
            advice += of_sets(one.service, one.sets)
        told = _judged(found, one)
        if told is None:
            if one.unknown:
                left.append(one.look)
                unknown += one.unknown.values()
            continue
        if told.cause is not None:
            changes["cause"] = told.cause
        if told.verdict:
            changes["verdict"] = told.verdict
            # The hints before were guesses.
            hints = hints if told.keeps_hints else []
        deciding = [*told.deciding, *deciding]
        commands = [*told.commands, *commands]
        hints += told.hints
    return msgspec.structs.replace(
        found, looks=left, unknown=list(dict.fromkeys(unknown)), hints=list(dict.fromkeys([*hints, *advice])),
        deciding=deciding, commands=list(dict.fromkeys(commands)), **changes,
    )  # fmt: skip


@dataclass(slots=True)
class _Told:
    """The result of one look-up. Without a verdict the previous one stays."""

    cause: Cause | None = None
    verdict: str = ""
    deciding: tuple[Deciding, ...] = ()
    commands: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    keeps_hints: bool = True


def _judged(found: Explanation, seen: Seen) -> _Told | None:
    """Return what follows from one look-up; None when nothing does."""
    match seen.look.kind:
        case "Namespace" | "Service":
            return _left_out(seen)
        case "Endpoints":
            return _cut(seen)
        case "Pod":
            pass
        case _:
            return None
    if "Pod" in seen.unknown:
        return None
    match found.cause:
        case Cause.NO_SLICES | Cause.NO_ENDPOINTS | Cause.EMPTY_SERVICE:
            return _selected(seen)
        case Cause.NONE_READY | Cause.HOST_NOT_READY | Cause.HOST_TERMINATING:
            return _not_ready(found, seen)
        case Cause.HOST_HAS_NO_HOSTNAME | Cause.HOST_UNKNOWN | Cause.NOT_HEADLESS | Cause.HOST_ELSEWHERE:
            return _nameless(seen, found.zone)
    return None


def _left_out(seen: Seen) -> _Told | None:
    """Explain a Service or a namespace that is not stored: left out by a selector, or missing."""
    look, item = seen.look, seen.named
    if item is None:
        return None
    labels = ", ".join(f"{key}={value}" for key, value in sorted(_labels(item).items())) or "none"
    flag = "--labels" if look.kind == "Service" else "--namespace-labels"
    what = f"{look.kind} {look.namespace}/{look.name}".replace(" /", " ")
    return _Told(
        Cause.SERVICE_LEFT_OUT if look.kind == "Service" else Cause.NAMESPACE_LEFT_OUT,
        f"{what} is there, but its labels ({labels}) do not match {flag}.",
        (Deciding(_ref(look.kind, item), "metadata.labels", labels),),
    )


def _cut(seen: Seen) -> _Told | None:
    """Say whether an Endpoints object was cut at 1,000 addresses; its
    mirrored slices have no more.
    """
    if seen.named is None:
        return None
    value = (seen.named.get("metadata", {}).get("annotations") or {}).get(_OVER_CAPACITY)
    if value is None:
        return _Told()
    ref = _ref("Endpoints", seen.named)
    return _Told(
        deciding=(Deciding(ref, f"metadata.annotations[{_OVER_CAPACITY}]", str(value)),),
        hints=(
            f"{ref} is cut at 1,000 addresses, and its slices mirror no more: write EndpointSlices instead.",
        ),
    )  # fmt: skip


# Pods that a Service selects


def _selected(seen: Seen) -> _Told | None:
    """Explain a Service without endpoints by the pods that its selector matches."""
    service, namespace = seen.service, seen.look.namespace
    if service is None:
        return None
    what = f"Service {namespace}/{_name(service)}"
    ref = _ref("Service", service)
    selector = _dict(_dict(service, "spec"), "selector")
    if not selector:
        return _Told(
            Cause.NO_SELECTOR,
            f"{what} has no selector: somebody else has to write its EndpointSlices or Endpoints, and there are none.",
            (Deciding(ref, "spec.selector", "absent"),),
            (kubectl(namespace, "get", "endpoints", _name(service)),),
        )
    text = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    matching = [pod for pod in seen.pods if selector.items() <= _labels(pod).items()]
    see = (kubectl(namespace, "get", "pods", "-l", text, "-o", "wide"),)
    if not matching:
        deciding: tuple[Deciding, ...] = (Deciding(ref, "spec.selector", text),)
        headless = _dict(service, "spec").get("clusterIP") == "None"
        verdict = f"{what} {'is headless' if headless else 'has no endpoint'}, and its selector {text} matches no pod"
        if near := _nearest_pod(selector, seen.pods):
            labels = _labels(near)
            wrong = [f"{key}={labels[key]}" if key in labels else f"no label {key}"
                     for key, value in sorted(selector.items()) if labels.get(key) != value]  # fmt: skip
            verdict += f"; pod {_name(near)} comes nearest, and has {' and '.join(wrong)}"
            deciding = (*deciding, Deciding(_ref("Pod", near), "metadata.labels", _pairs(labels)))
            see = (kubectl(namespace, "get", "pods", "--show-labels"),)
        elif not seen.pods:
            verdict += f": there is no pod in namespace {namespace}"
        return _Told(Cause.SELECTOR_MATCHES_NOTHING, f"{verdict}.", deciding, see)
    return _of_matching(matching, what, text, see, service)


def _of_matching(
    matching: Sequence[Item], what: str, selector: str, see: tuple[str, ...], service: Item
) -> _Told:  # fmt: skip
    """Explain why no slice has the pods that the selector matches."""
    unfit = [(pod, why) for pod in matching if (why := _unfit(pod)) is not None]
    if len(unfit) == len(matching):
        told = "; ".join(f"{_name(pod)} {why.text}" for pod, why in unfit[:_FEW])
        more = f"; and {len(unfit) - _FEW} more" if len(unfit) > _FEW else ""
        count = f"{len(matching)} pod{'s' if len(matching) > 1 else ''}"
        return _Told(
            Cause.PODS_UNFIT,
            f"The selector of {what} matches {count}, and none can be an endpoint: {told}{more}.",
            tuple(why.deciding(pod) for pod, why in unfit[:_FEW]),
            (_describe(unfit[0][0]), *see),
        )
    fit = next(pod for pod in matching if _unfit(pod) is None)
    return _Told(
        Cause.SLICES_BEHIND,
        f"Pod {_name(fit)} matches the selector of {what} and has an address, but no EndpointSlice has it: the "
        "EndpointSlice controller (in kube-controller-manager) is behind, or does not run.",
        (Deciding(_ref("Pod", fit), "status.podIP", str(fit["status"].get("podIP"))),
         Deciding(_ref("Service", service), "spec.selector", selector)),
        (_CONTROLLERS, *see),
    )  # fmt: skip


def _nearest_pod(selector: Mapping[str, Any], pods: Sequence[Item]) -> Item | None:
    """Return the pod with the most of the selector's labels, or with
    similar values; None without one.
    """

    def score(pod: Item) -> tuple[int, float]:
        labels = _labels(pod)
        alike = [SequenceMatcher(None, str(value), str(labels.get(key, ""))).ratio() for key, value in selector.items()]
        return sum(labels.get(key) == value for key, value in selector.items()), max(alike)

    best = max(pods, key=score, default=None)
    if best is None:
        return None
    equal, alike = score(best)
    return best if equal or alike >= _ALIKE else None


# Pods that are endpoints, and not ready


def _not_ready(found: Explanation, seen: Seen) -> _Told | None:
    pod, look = seen.named, seen.look
    if not look.name:
        return None
    if pod is None:
        return _Told(
            Cause.SLICES_BEHIND,
            f"There is no pod {look.namespace}/{look.name} any more, and an EndpointSlice still names it: the "
            "EndpointSlice controller is behind.",
        )
    why = _unready(pod)
    if why is None:
        return _Told(
            Cause.SLICES_BEHIND,
            f"Pod {look.namespace}/{look.name} is ready, and its EndpointSlice says that it is not: the EndpointSlice "
            "controller (in kube-controller-manager) is behind, or does not run.",
            (Deciding(_ref("Pod", pod), "status.conditions[Ready].status", "True"),),
            (_CONTROLLERS,),
        )
    return _Told(
        None, f"{found.verdict[:-1]}: pod {look.name} {why.text}.",
        (why.deciding(pod),), (_describe(pod),),
    )  # fmt: skip


@dataclass(slots=True)
class _Why:
    """Why a pod is not an endpoint, or not ready: words that follow its name, and the field."""

    text: str
    path: str
    value: str

    def deciding(self, pod: Item) -> Deciding:
        return Deciding(_ref("Pod", pod), self.path, self.value)


def _unfit(pod: Item) -> _Why | None:
    """Return why no slice can have a pod; None if one can."""
    status = _dict(pod, "status")
    phase = str(status.get("phase", "Unknown"))
    if phase in _ENDED:
        return _Why(f"has ended ({phase})", "status.phase", phase)
    if not status.get("podIP"):
        reason = ""
        for condition in _list(status, "conditions"):
            if condition.get("status") != "True" and condition.get("message"):
                reason = f": {_short(condition['message'])}"
                break
        reason = reason or next(
            (f": {text}" for _, text in _waiting(status)), ""
        )  # fmt: skip
        return _Why(f"has no address yet ({phase}{reason})", "status.podIP", "absent")
    return None


def _unready(pod: Item) -> _Why | None:
    """Return why a pod is not ready; None when it is."""
    status, spec = _dict(pod, "status"), _dict(pod, "spec")
    if (why := _unfit(pod)) is not None:
        return why
    ready = next((item for item in _list(status, "conditions") if item.get("type") == "Ready"), {})
    if ready.get("status") == "True":
        if not _dict(pod, "metadata").get("deletionTimestamp"):
            return None
        return _Why("is being deleted", "metadata.deletionTimestamp", str(pod["metadata"]["deletionTimestamp"]))
    for container, text in _waiting(status):
        place = f"status.containerStatuses[{container}]"
        return _Why(f"is not ready, for container {container} {text}", f"{place}.ready", "false")
    for item in _list(status, "containerStatuses"):
        if not item.get("ready"):
            name = str(item.get("name"))
            return _Why(
                f"is not ready: container {name} runs, and {_probe(spec, name)}",
                f"status.containerStatuses[{name}].ready", "false",
            )  # fmt: skip
    for gate in _list(spec, "readinessGates"):
        wanted = gate.get("conditionType")
        have = next((item for item in _list(status, "conditions") if item.get("type") == wanted), {})
        if have.get("status") != "True":
            return _Why(f"waits for its readiness gate {wanted}", f"status.conditions[{wanted}].status",
                        str(have.get("status", "absent")))  # fmt: skip
    message = f": {_short(ready['message'])}" if ready.get("message") else ""
    return _Why(f"is not ready{message}", "status.conditions[Ready].status", str(ready.get("status", "absent")))


def _waiting(status: Item) -> Iterator[tuple[str, str]]:
    """Yield (container, its state) of the containers that do not run."""
    for item in [*_list(status, "initContainerStatuses"), *_list(status, "containerStatuses")]:
        state = _dict(item, "state")
        name = str(item.get("name"))
        if waiting := state.get("waiting"):
            text = f"waits ({waiting.get('reason', 'no reason given')})"
            if restarts := item.get("restartCount"):
                text += f", restarted {restarts} times"
            yield name, text
        elif (ended := state.get("terminated")) and not item.get("ready"):
            yield name, f"has ended with code {ended.get('exitCode')} ({ended.get('reason', 'no reason given')})"


def _probe(spec: Item, container: str) -> str:
    """Describe a container's readiness probe."""
    for item in _list(spec, "containers"):
        if item.get("name") != container:
            continue
        probe = item.get("readinessProbe") or {}
        if "httpGet" in probe:
            get = probe["httpGet"]
            return f"its readiness probe (GET {get.get('path', '/')} on port {get.get('port')}) does not succeed"
        if "tcpSocket" in probe:
            return f"its readiness probe (TCP port {probe['tcpSocket'].get('port')}) does not succeed"
        if "grpc" in probe:
            return f"its readiness probe (gRPC on port {probe['grpc'].get('port')}) does not succeed"
        if "exec" in probe:
            words = " ".join(map(str, probe["exec"].get("command") or ()))
            return f"its readiness probe ({_short(words)}) does not succeed"
    return "its state says no more"


# Pods without a name


def _nameless(seen: Seen, zone: str) -> _Told | None:
    """Explain a pod's name below a Service that has no endpoint of that name."""
    look, pod = seen.look, seen.named
    namespace, service, label = look.namespace, look.service, look.name
    if pod is None:
        return _no_pod(seen)
    spec = _dict(pod, "spec")
    hostname, subdomain = spec.get("hostname") or "", spec.get("subdomain") or ""
    ref = _ref("Pod", pod)
    see: tuple[str, ...] = (kubectl(namespace, "get", "pod", label, "-o",
                   "jsonpath={.spec.hostname} {.spec.subdomain}"),)  # fmt: skip
    if subdomain != service:
        what = f"Pod {label} has spec.subdomain {subdomain}" if subdomain else f"Pod {label} has no spec.subdomain"
        verdict = f"{what}, so it has no name below Service {service}"
        deciding = [Deciding(ref, "spec.subdomain", subdomain or "absent")]
        owner = next((item for item in seen.sets if _owns(item, pod)), None)
        if owner is not None:
            named = _dict(owner, "spec").get("serviceName") or ""
            deciding.append(Deciding(_ref("StatefulSet", owner), "spec.serviceName", named or "absent"))
            says = f"has serviceName: {named}" if named else "has no serviceName"
            verdict += f": its StatefulSet {_name(owner)} {says}"
            see = (kubectl(namespace, "get", "statefulset", _name(owner), "-o",
                           "jsonpath={.spec.serviceName}"), *see)  # fmt: skip
            if named and "Service" not in seen.unknown and named not in seen.services:
                verdict += f", and there is no Service {named}"
        elif not hostname:
            verdict += ", and no spec.hostname either: a Deployment's pods have none"
        if subdomain in seen.services and hostname:
            verdict += f". Its name is {hostname}.{subdomain}.{namespace}.svc.{zone}"
        return _Told(Cause.SUBDOMAIN_OTHER, f"{verdict}.", tuple(deciding), see, keeps_hints=False)
    if (hostname or "").lower() != label.lower():
        verdict = (
            f"Pod {label} has spec.hostname {hostname}: that is its name below Service {service}"
            if hostname
            else (f"Pod {label} has spec.subdomain {service}, but no spec.hostname, so it has no name of its own there")
        )
        return _Told(Cause.HOSTNAME_OTHER, f"{verdict}.", (Deciding(ref, "spec.hostname", hostname or "absent"),), see)
    what = f"Service {namespace}/{service}"
    selector = _dict(_dict(seen.service, "spec"), "selector")
    if seen.service is not None and not selector.items() <= _labels(pod).items():
        text = _pairs(selector)
        return _Told(
            Cause.SELECTOR_MATCHES_NOTHING,
            f"Pod {label} names Service {service} in spec.subdomain, but the selector of that Service ({text}) does "
            "not match its labels.",
            (Deciding(_ref("Service", seen.service), "spec.selector", text),
             Deciding(ref, "metadata.labels", _pairs(_labels(pod)))),
            (kubectl(namespace, "get", "pod", label, "--show-labels"),),
        )  # fmt: skip
    if seen.service is None:
        return None
    return _of_matching([pod], what, _pairs(selector), see, seen.service)


def _no_pod(seen: Seen) -> _Told | None:
    look = seen.look
    stem, _, number = look.name.rpartition("-")
    owner = next((item for item in seen.sets if _name(item) == stem), None)
    text = f"There is no pod {look.namespace}/{look.name}"
    if owner is None or not number.isdigit():
        if "StatefulSet" in seen.unknown and number.isdigit():
            return _Told(Cause.POD_MISSING, f"{text}.")
        return _Told(Cause.POD_MISSING, f"{text}, and no endpoint is called {look.name}.")
    spec = _dict(owner, "spec")
    replicas = spec.get("replicas", 1)
    start = _dict(spec, "ordinals").get("start", 0)
    last = f"{stem}-{start} to {stem}-{start + replicas - 1}" if replicas else "none"
    if not start <= int(number[:10]) < start + replicas:
        return _Told(
            Cause.POD_MISSING, f"{text}: StatefulSet {stem} has {replicas} replicas ({last}).",
            (Deciding(_ref("StatefulSet", owner), "spec.replicas", str(replicas)),),
            (kubectl(look.namespace, "get", "statefulset", stem),),
        )  # fmt: skip
    return _Told(
        Cause.POD_MISSING, f"{text} now, though StatefulSet {stem} wants it ({replicas} replicas).",
        (Deciding(_ref("StatefulSet", owner), "spec.replicas", str(replicas)),),
        (kubectl(look.namespace, "describe", "statefulset", stem),),
    )  # fmt: skip


# The pod that asks


def of_client(pod: Item, name: str, zone: str) -> list[str]:
    """Return sentences on where a client's question goes, from the specification of its pod.

    `name` is the name that was explained, and `zone` is the first zone that is served here.
    """
    spec = _dict(pod, "spec")
    who = f"Pod {_dict(pod, 'metadata').get('namespace', 'default')}/{_name(pod)}"
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    found = []
    if policy == "None":
        servers = ", ".join(map(str, _dict(spec, "dnsConfig").get("nameservers") or ())) or "none"
        found.append(f"{who} has dnsPolicy None: it asks the nameservers of its dnsConfig ({servers}), which need not "
                     "be the cluster's.")  # fmt: skip
    elif policy == "Default":
        found.append(f"{who} has dnsPolicy Default: it asks its node's servers, never the cluster's DNS.")
    elif spec.get("hostNetwork") and policy == "ClusterFirst":
        found.append(f"{who} has hostNetwork and dnsPolicy ClusterFirst: it asks its node's servers, never the "
                     "cluster's DNS. It needs dnsPolicy: ClusterFirstWithHostNet.")  # fmt: skip
    ndots = 5 if policy != "Default" else 1
    for option in _list(_dict(spec, "dnsConfig"), "options"):
        if option.get("name") == "ndots" and str(option.get("value", "")).isdigit():
            ndots = int(str(option["value"])[:4])
    dots = name.rstrip(".").count(".")
    if dots < ndots and name.endswith(zone):
        found.append(f"{name} has {dots} dots, fewer than ndots ({ndots}): the client tries its search list first, up "
                     "to 5 names that do not exist. A dot at the end of the name avoids that.")  # fmt: skip
    return found


# Pieces of objects


def _ref(kind: str, item: Item) -> Ref:
    meta = _dict(item, "metadata")
    namespace = "" if kind == "Namespace" else str(meta.get("namespace", "default"))
    return Ref(kind, namespace, _name(item), str(meta.get("resourceVersion", "")))


def _name(item: Item) -> str:
    return str(_dict(item, "metadata").get("name", ""))


def _labels(item: Item) -> dict[str, Any]:
    return dict(_dict(_dict(item, "metadata"), "labels"))


def _dict(item: Any, key: str) -> Mapping[str, Any]:
    """Return a mapping in a mapping; an empty one if it is missing."""
    found = item.get(key) if isinstance(item, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(item: Item, key: str) -> list[Item]:
    found = item.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _owns(owner: Item, pod: Item) -> bool:
    return any(
        ref.get("kind") == "StatefulSet" and ref.get("name") == _name(owner)
        for ref in _list(_dict(pod, "metadata"), "ownerReferences")
    )


def _pairs(labels: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


def _short(text: object) -> str:
    words = " ".join(str(text).split()).rstrip(".")
    return words if len(words) <= 160 else f"{words[:159]}…"


def _describe(pod: Item) -> str:
    namespace = str(_dict(pod, "metadata").get("namespace", "default"))
    return kubectl(namespace, "describe", "pod", _name(pod))
