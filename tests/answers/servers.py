"""The servers: CoreDNS with `kubernetes`, and CoreDNS with `grpc` and Headwater, on one API server.

Each configuration is a set of flags and an equivalent Corefile. Together they have every flag that
shapes answers. All run at the same time, and all see all seeds.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from headwater.commands.corefile import cidrs_of, stanzas_by_zone

from tests.answers.generate import NAMESPACE_SELECTOR, SELECTOR, served_namespaces
from tests.answers.objects import SHARED
from tests.harness.instance import START_TIMEOUT, Headwater
from tests.harness.plane import SERVICE_CIDR, Plane
from tests.harness.processes import CoreDNS, wait_until

CLUSTER: Final = "cluster.local"
CLUSTERSET: Final = "clusterset.local"
#: The range of cluster IPs of the second family, as large as the API server allows.
SERVICE_CIDR_6: Final = "fd77::/108"
_IMPORTS: Final = Path(__file__).resolve().parents[1] / "cluster" / "serviceimport-crd.yaml"


#: The topology zone of every client.
PLACE: Final = "zone-a"
#: A policy that has nothing to say, in as many words.
_POLICY: Final = "answers_policy"
_RULES: Final = """\
from headwater.policy.api import Decision

def decide(service, endpoints):
    return Decision(why="as it is") if len(endpoints) % 2 else None
"""


@contextlib.contextmanager
def _policy(folder: Path) -> Iterator[None]:
    """Write the policy where an instance finds it, whose working directory the folder is."""
    (folder / f"{_POLICY}.py").write_text(_RULES)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@dataclass(frozen=True)
class Configuration:
    """One set of flags."""

    name: str
    zones: tuple[str, ...] = (CLUSTER,)
    reverse: tuple[str, ...] = ()
    """Reverse zones as --reverse-zone and the Corefile take them."""
    imports: bool = False
    """Whether ServiceImports are served in CLUSTERSET."""
    pods: str = "disabled"
    ttl: int = 5
    zonal: bool = False
    endpoint_pod_names: bool = False
    ignore_empty_service: bool = False
    some_namespaces: bool = False
    namespace_labels: str = ""
    labels: str = ""
    asked: bool = False
    """Whether all that owners and the operator may ask for is on, and nobody asks for anything: a
    topology zone's socket, at which every client is, the client option, and a policy."""
    everywhere: bool = False
    """Whether the oracle listens on all addresses; bound to some, it has no others (boundIPs)."""

    def flags(self, kubeconfig: Path, upstream: str, seeds: Sequence[int]) -> list[str]:
        """Return the arguments of `headwater serve`, but for those that name what must be there."""
        words = ["--kubeconfig", str(kubeconfig), "--upstream", upstream, "--pods", self.pods]
        words += ["--ttl", str(self.ttl), "--negative-ttl", str(self.ttl)]
        words += [word for zone in self.zones for word in ("--zone", zone)]
        words += [word for zone in self.reverse for word in ("--reverse-zone", zone)]
        words += ["--multicluster-zone", CLUSTERSET] if self.imports else []
        for flag in ("zonal", "endpoint_pod_names", "ignore_empty_service"):
            words += [f"--{flag.replace('_', '-')}"] if getattr(self, flag) else []
        words += [word for namespace in self._namespaces(seeds) for word in ("--namespace", namespace)]
        words += ["--namespace-labels", self.namespace_labels] if self.namespace_labels else []
        if self.asked:
            words += ["--zone-cidr", f"{PLACE}=127.0.0.0/8", "--client-option", "65518"]
        return [*words, "--labels", self.labels] if self.labels else words

    def corefile(self, kubeconfig: Path, upstream: str, seeds: Sequence[int]) -> str:
        """Return the Corefile with CoreDNS's `kubernetes`, and `forward` for names outside."""
        zones = (*self.zones, *([CLUSTERSET] if self.imports else ()), *self.reverse)
        options = [f"kubeconfig {kubeconfig}", f"pods {self.pods}", f"ttl {self.ttl}"]
        options += [f"multicluster {CLUSTERSET}"] if self.imports else []
        options += ["zonal"] if self.zonal else []
        options += ["endpoint_pod_names"] if self.endpoint_pod_names else []
        options += ["ignore empty_service"] if self.ignore_empty_service else []
        options += [f"namespaces {' '.join(self._namespaces(seeds))}"] if self.some_namespaces else []
        options += [f'namespace_labels "{self.namespace_labels}"'] if self.namespace_labels else []
        options += [f'labels "{self.labels}"'] if self.labels else []
        lines = "\n".join(f"        {option}" for option in options)
        return (
            f"{' '.join(f'{zone}:53' for zone in zones)} {{\n    errors\n"
            f"    kubernetes {' '.join(zones)} {{\n{lines}\n    }}\n}}\n"
            f".:53 {{\n    errors\n    forward . {upstream}\n}}\n"
        )

    def _namespaces(self, seeds: Sequence[int]) -> list[str]:
        if not self.some_namespaces:
            return []
        return [SHARED, *(namespace for seed in seeds for namespace in served_namespaces(seed))]


CONFIGURATIONS: Final = (
    Configuration("plain", reverse=("in-addr.arpa", "ip6.arpa"), everywhere=True),
    Configuration(
        "insecure", pods="insecure", endpoint_pod_names=True, ttl=30,
        reverse=("10.64.0.0/12", "172.16.0.0/12", "fd64::/16", "fd77::/18"),
    ),
    Configuration("verified", pods="verified", reverse=("in-addr.arpa", "ip6.arpa"), ignore_empty_service=True),
    Configuration("zones", zones=(CLUSTER, "example.test", f"deep.{CLUSTER}"), pods="insecure", ttl=0),
    Configuration("zonal", zonal=True, endpoint_pod_names=True, reverse=("ip6.arpa",)),
    Configuration("namespaces", some_namespaces=True, pods="verified", reverse=("in-addr.arpa",)),
    Configuration(
        "namespace-labels", namespace_labels=NAMESPACE_SELECTOR, pods="insecure", imports=True,
        reverse=("10.in-addr.arpa",),
    ),
    Configuration("labels", labels=SELECTOR, pods="verified", zonal=True, imports=True, reverse=("in-addr.arpa",)),
    Configuration(
        "asked", asked=True, zonal=True, pods="verified", reverse=("in-addr.arpa", "ip6.arpa"),
    ),
    Configuration(
        "imports", imports=True, ignore_empty_service=True, endpoint_pod_names=True, zonal=True,
        zones=("example.test", CLUSTER),
    ),
)  # fmt: skip


class AnswersPlane(Plane):
    """A control plane with cluster IPs of both families, ServiceImports, and the
    namespace that all seeds share.
    """

    def start(self, name: str | None = None) -> None:
        super().start(name)
        if name is None:
            definition = yaml.safe_load(_IMPORTS.read_text())
            self.api("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
            namespace = {"metadata": {"name": SHARED, "labels": {"answers": "yes"}}}
            self.api("POST", "/api/v1/namespaces", namespace)
            wait_until(self._has_imports, START_TIMEOUT, "the API serves ServiceImports")

    def _has_imports(self) -> bool:
        groups = self.api("GET", "/apis")["groups"]
        return any(group["name"] == "multicluster.x-k8s.io" for group in groups)

    def _arguments(self, name: str) -> list[str]:
        both = f"{SERVICE_CIDR},{SERVICE_CIDR_6}"
        return [word.replace(SERVICE_CIDR, both) for word in super()._arguments(name)]


#: Names outside the cluster: existing ones, chains, a loop, a dangling one, and one with more
#: addresses than fit into 512 bytes.
_OUTSIDE: Final = """\
$ORIGIN outside.test.
@        300 IN SOA ns.outside.test. hostmaster.outside.test. 1 7200 1800 86400 60
@        300 IN NS  ns.outside.test.
ns        60 IN A 192.0.2.53
www       60 IN A 192.0.2.1
www       60 IN A 192.0.2.2
www       60 IN AAAA 2001:db8::1
six       60 IN AAAA 2001:db8::6
text      60 IN TXT "no address"
alias    120 IN CNAME www
chain     90 IN CNAME chain-1
chain-1   80 IN CNAME chain-2
chain-2   70 IN CNAME www
loop      60 IN CNAME loop-1
loop-1    60 IN CNAME loop
dangling  60 IN CNAME nothing
back      60 IN CNAME web.default.svc.cluster.local.
"""


def outside(folder: Path) -> CoreDNS:
    """Return the upstream server of both: a small zone, one that it refuses, and one that fails."""
    many = "".join(f"many 60 IN A 192.0.2.{number}\n" for number in range(1, 61))
    (folder / "outside.db").write_text(_OUTSIDE + many)
    template = "template ANY ANY {{\n        rcode {}\n    }}"
    blocks = {
        "outside.test": "file outside.db",
        "refused.test": template.format("REFUSED"),
        "broken.test": template.format("SERVFAIL"),
        ".": template.format('NXDOMAIN\n        authority ". 60 IN SOA ns. hostmaster. 1 2 3 4 60"'),
    }
    return CoreDNS(folder, "".join(f"{zone}:53 {{\n    {text}\n}}\n" for zone, text in blocks.items()), name="outside")


@dataclass
class Pair:
    """The two servers that are compared, under one configuration."""

    configuration: Configuration
    headwater: Headwater
    oracle: CoreDNS
    ours: CoreDNS
    reverse_names: dict[str, None] = field(default_factory=dict)
    """Reverse names of all seeds so far, which share the names
    between a zone and their addresses.
    """

    @property
    def reverse_zones(self) -> tuple[str, ...]:
        """Return the reverse zones as names; a CIDR is one or several."""
        return self.headwater.settings.reverse_zones


@contextlib.contextmanager
def pairs(
    plane: Plane, folder: Path, seeds: Sequence[int], configurations: Sequence[Configuration] = CONFIGURATIONS
) -> Iterator[list[Pair]]:
    """Start all pairs in parallel, and yield them when they are ready."""
    with contextlib.ExitStack() as stack:

        def below(name: str) -> Path:
            (folder / name).mkdir(parents=True)
            return folder / name

        upstream = stack.enter_context(outside(below("outside")))
        started: list[Pair] = []
        for configuration in configurations:
            here = below(configuration.name)
            shape = (plane.kubeconfig, f"127.0.0.1:{upstream.port}", seeds)
            flags = configuration.flags(*shape)
            if configuration.asked:
                sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="hw-"))
                flags += ["--listen-zone", f"{PLACE}=unix:{sockets}/{PLACE}.sock", "--policy", f"{_POLICY}:decide"]
                stack.enter_context(_policy(here))
            headwater = Headwater(here, *flags, workers=1)
            oracle = CoreDNS(here, configuration.corefile(*shape), name="oracle", everywhere=configuration.everywhere)
            stanza = headwater.grpc_corefile_stanza()
            if configuration.asked:
                # Not the last block: CoreDNS sends questions of type DS there whatever `view` says.
                stanza = stanzas_by_zone(headwater.settings, cidrs_of(headwater.settings)).split("\n}\n")[0] + "\n}\n"
            ours = CoreDNS(here, stanza, name="ours")
            stack.callback(headwater.close)
            stack.callback(oracle.stop)
            stack.callback(ours.stop)
            headwater.exec()
            oracle.exec()
            started.append(Pair(configuration, headwater, oracle, ours))
        for pair in started:
            # Only now, because CoreDNS's back-off after refused connections grows to two minutes.
            wait_until(pair.headwater.is_ready, START_TIMEOUT, f"{pair.configuration.name} is ready")
            pair.ours.exec()
        for pair in started:
            pair.oracle.wait()
            pair.ours.wait()
        yield started
