"""The result of `headwater explain` as data, for the terminal, for `--json` and for the admin page.

docs/explain.md has the schema. Fields are only ever added.
"""

from __future__ import annotations

import shlex
from enum import StrEnum

from msgspec import Struct, field


class Outcome(StrEnum):
    """The kind of a reply."""

    ANSWER = "answer"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    REFUSED = "refused"


class Cause(StrEnum):
    """Why a name has its answer: one word for each reason, for scripts to match."""

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
    """The name is that of a pod, without the label of its Service."""
    IMPORT_UNKNOWN = "import-unknown"
    NAME_TOO_LONG = "name-too-long"
    NO_SLICES = "no-slices"
    NO_ENDPOINTS = "no-endpoints"
    NONE_READY = "none-ready"
    EMPTY_SERVICE = "empty-service"
    """The Service has a cluster IP and no ready endpoint, and --ignore-empty-service is set."""
    NO_CLUSTER_IP = "no-cluster-ip"
    NOT_HEADLESS = "not-headless"
    HOST_UNKNOWN = "host-unknown"
    HOST_NOT_READY = "host-not-ready"
    HOST_TERMINATING = "host-terminating"
    HOST_HAS_NO_HOSTNAME = "host-has-no-hostname"
    HOST_ELSEWHERE = "host-under-another-service"
    HOST_LEFT_OUT = "host-left-out"
    POLICY = "policy"
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
    # Reasons that only the API server can give (`look`)
    SERVICE_LEFT_OUT = "service-left-out"
    NO_SELECTOR = "no-selector"
    SELECTOR_MATCHES_NOTHING = "selector-matches-no-pod"
    PODS_UNFIT = "pods-cannot-be-endpoints"
    """The pods have no address, or have ended."""
    SLICES_BEHIND = "slices-contradict-pods"
    SUBDOMAIN_OTHER = "subdomain-names-another-service"
    HOSTNAME_OTHER = "pod-has-another-hostname"
    POD_MISSING = "no-such-pod"


class Ref(Struct, frozen=True, omit_defaults=True):
    """A Kubernetes object, with the version that is stored here."""

    kind: str
    namespace: str
    name: str
    resource_version: str = ""

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}"


class Deciding(Struct, frozen=True):
    """A field that decides the answer, and its value."""

    object: Ref
    path: str
    """The field as `kubectl explain` writes it: endpoints[2].conditions.ready."""
    value: str


class Origin(Struct, frozen=True, omit_defaults=True):
    """The object that a record comes from."""

    object: Ref
    """The slice of an endpoint; the Service of a cluster IP."""
    pod: str = ""
    node: str = ""
    zone: str = ""
    since: float | None = None
    """When the record was added (seconds since 1970), if the history reaches back that far."""


class Shown(Struct, frozen=True, omit_defaults=True):
    """One record of the reply."""

    name: str
    type: str
    ttl: int
    data: str
    origins: list[Origin] = field(default_factory=list)


class Near(Struct, frozen=True):
    """An existing name that may have been meant, and why."""

    name: str
    why: str


class Look(Struct, frozen=True, omit_defaults=True):
    """An object that is not watched here, and has to be looked up in the API server."""

    kind: str
    """Pod, StatefulSet, Service or Namespace."""
    namespace: str
    name: str = ""
    """If empty, the objects that `service` selects."""
    service: str = ""
    why: str = ""


class Explanation(Struct, omit_defaults=True):
    """The explanation of one name's answer."""

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
    """Commands that show the cause, or remove it."""
    nearest: list[Near] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    """Further facts, such as those on caches and on the client."""
    looks: list[Look] = field(default_factory=list)
    """Objects that are not watched here and were not looked up yet."""
    unknown: list[str] = field(default_factory=list)
    """What could not be found out, and why."""
    changed: float | None = None
    """When the name's answer last changed (seconds since 1970), if that is known."""
    until: float | None = None
    """Until when clients and caches may hold the previous answer (seconds since 1970)."""
    contradiction: str = ""
    """How objects and reply disagree, if they do: a bug here, or a store that is being written."""


def command(*words: str) -> str:
    """Return a command to paste into a shell.

    Words are quoted, because tenants choose object names.
    """
    return shlex.join(words)


def kubectl(namespace: str, *words: str) -> str:
    """Return a kubectl command in a namespace."""
    return command("kubectl", "-n", namespace, *words)
