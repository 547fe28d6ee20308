"""What `headwater explain` says, as data: the same for people, for `--json` and for the admin page.

docs/explain.md has the schema. Fields are only ever added.
"""

from __future__ import annotations

import shlex
from enum import StrEnum

from msgspec import Struct, field


class Outcome(StrEnum):
    """What a reply amounts to."""

    ANSWER = "answer"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    REFUSED = "refused"


class Cause(StrEnum):
    """Why it is so: one word for each reason, for scripts to match."""

    ANSWERED = "answered"
    BELOW_IT = "names-below"
    """The name has names below it and no records of its own."""
    NOT_A_NAME = "not-a-name"
    ZONE_NOT_SERVED = "zone-not-served"
    NOT_READY = "not-ready"
    STALE = "stale"
    NO_SUCH_FORM = "no-such-form"
    WILDCARD = "wildcard"
    PODS_DISABLED = "pods-disabled"
    POD_UNKNOWN = "pod-unknown"
    NOT_AN_ADDRESS = "not-an-address"
    NAMESPACE_UNKNOWN = "namespace-unknown"
    NAMESPACE_LEFT_OUT = "namespace-left-out"
    SERVICE_UNKNOWN = "service-unknown"
    SERVICE_LABEL_MISSING = "service-label-missing"
    """The name of a pod, asked for without the label of its Service."""
    IMPORT_UNKNOWN = "import-unknown"
    NAME_TOO_LONG = "name-too-long"
    NO_SLICES = "no-slices"
    NO_ENDPOINTS = "no-endpoints"
    NONE_READY = "none-ready"
    EMPTY_SERVICE = "empty-service"
    """A Service with a cluster IP, without ready endpoints, under --ignore-empty-service."""
    NO_CLUSTER_IP = "no-cluster-ip"
    NOT_HEADLESS = "not-headless"
    HOST_UNKNOWN = "host-unknown"
    HOST_NOT_READY = "host-not-ready"
    HOST_TERMINATING = "host-terminating"
    HOST_HAS_NO_HOSTNAME = "host-has-no-hostname"
    HOST_ELSEWHERE = "host-under-another-service"
    HOST_LEFT_OUT = "host-left-out"
    """Its hostname cannot be a label."""
    PORT_UNKNOWN = "port-unknown"
    PORT_HAS_NO_NAME = "port-has-no-name"
    PORTS_EMPTY = "ports-empty"
    """The slices have no ports: a named targetPort is in no container."""
    OTHER_FAMILY = "other-family"
    OTHER_TYPE = "other-type"
    EXTERNAL_ADDRESS = "external-name-is-an-address"
    EXTERNAL_DEAD = "external-name-leads-nowhere"
    EXTERNAL_ELSEWHERE = "external-name-is-asked-elsewhere"
    ZONAL_DISABLED = "zonal-disabled"
    ADDRESS_UNKNOWN = "address-unknown"
    # What only a look at the API server tells
    SERVICE_LEFT_OUT = "service-left-out"
    NO_SELECTOR = "no-selector"
    SELECTOR_MATCHES_NOTHING = "selector-matches-no-pod"
    PODS_UNFIT = "pods-cannot-be-endpoints"
    """They have no address, or have ended."""
    SLICES_BEHIND = "slices-contradict-pods"
    SUBDOMAIN_OTHER = "subdomain-names-another-service"
    HOSTNAME_OTHER = "pod-has-another-hostname"
    POD_MISSING = "no-such-pod"


class Ref(Struct, frozen=True, omit_defaults=True):
    """A Kubernetes object as it is held here."""

    kind: str
    namespace: str
    name: str
    resource_version: str = ""

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}"


class Deciding(Struct, frozen=True):
    """The field that decides: where it is, and what it says."""

    object: Ref
    path: str
    """As kubectl explain writes it: endpoints[2].conditions.ready."""
    value: str


class Origin(Struct, frozen=True, omit_defaults=True):
    """Where a record comes from."""

    object: Ref
    """The slice of an endpoint; the Service of a cluster IP."""
    pod: str = ""
    node: str = ""
    zone: str = ""
    since: float | None = None
    """When the record came (seconds since 1970), where the history reaches back so far."""


class Shown(Struct, frozen=True, omit_defaults=True):
    """One record of the reply."""

    name: str
    type: str
    ttl: int
    data: str
    origins: list[Origin] = field(default_factory=list)


class Near(Struct, frozen=True):
    """A name that does answer, and why somebody might have meant it."""

    name: str
    why: str


class Look(Struct, frozen=True, omit_defaults=True):
    """What only the API server can tell: an object that is not watched here."""

    kind: str
    """Pod, StatefulSet, Service or Namespace."""
    namespace: str
    name: str = ""
    """Empty: those that `service` selects."""
    service: str = ""
    why: str = ""


class Explanation(Struct, omit_defaults=True):
    """One name, explained."""

    name: str
    type: str
    outcome: Outcome
    cause: Cause
    verdict: str
    """One sentence."""
    zone: str = ""
    records: list[Shown] = field(default_factory=list)
    more_records: int = 0
    """Records that the reply has besides those shown."""
    deciding: list[Deciding] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """What to type to see it, or to mend it."""
    nearest: list[Near] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    """What else is worth knowing: caches, the client's side."""
    looks: list[Look] = field(default_factory=list)
    """What is not known here, and was not asked for yet."""
    unknown: list[str] = field(default_factory=list)
    """What could not be found out, and why."""
    changed: float | None = None
    """When the name's answer last changed (seconds since 1970), where that is known."""
    until: float | None = None
    """Until when clients and caches may hold the answer before that."""
    contradiction: str = ""
    """Where the objects and the reply do not agree: a bug of ours, or a store that is being written."""


def command(*words: str) -> str:
    """A command that can be pasted: names come from whoever may create objects, so they are quoted for a shell."""
    return shlex.join(words)


def kubectl(namespace: str, *words: str) -> str:
    """kubectl in a namespace."""
    return command("kubectl", "-n", namespace, *words)
