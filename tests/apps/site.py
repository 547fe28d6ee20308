"""A node with CoreDNS on it, Headwater beside it, and the pods of one StatefulSet.

    with Site(folder, rabbitmq, root=root) as site:
        first = site.member(0, "10.44.1.1")
        client = site.client()
        ...
        again = site.replace(first, "10.44.2.1")

The site writes what a control plane would have written of its pods: on manifests, or with `plane`
through a real API server, to a Service without a selector. `tests.apps.stateful` has real
StatefulSets instead. `Dns` says who answers CoreDNS's questions.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from tests.apps.judge import History, judge
from tests.apps.pods import DNS, GATEWAY, NAMESPACE, ZONE, Network, Pod, PodError
from tests.apps.wire import Wire
from tests.harness.instance import Headwater
from tests.harness.plane import PlaneError
from tests.harness.processes import Running, require_tool, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from tests.harness.plane import Plane
    from tests.harness.prober import Verdict

START: Final = 30.0  # seconds until DNS answers, or until it has a change
CLIENT: Final = "10.44.9.9"
REVERSE: Final = "10.44.0.0/16"
_LOG: Final = '"{type} {name} {proto} {remote} {rcode} {>rflags} {rsize} {duration}"'
_LOGGED: Final = re.compile(r"\[INFO\] (\S+) (\S+) (udp|tcp) (\S+) (\S+) ")
#: Names above all others: they exist, and have no addresses.
_ABOVE: Final = (ZONE, f"svc.{ZONE}", f"{NAMESPACE}.svc.{ZONE}")


class System(Protocol):
    """What runs in the pods."""

    @property
    def name(self) -> str:
        """The StatefulSet's: its pods are NAME-0 and so on."""

    @property
    def service(self) -> str:
        """The headless Service's."""

    @property
    def ports(self) -> dict[str, int]:
        """The Service's, by name."""

    @property
    def publish_not_ready(self) -> bool:
        """The Service's publishNotReadyAddresses."""

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        """Start the server in a pod; `first` has to make the cluster, where one has to."""

    def whole(self, pods: Sequence[Pod]) -> bool:
        """Return whether each of these pods says that all of them are the cluster.

        Raises PodError, or AssertionError with what is missing.
        """


@dataclass(frozen=True)
class Dns:
    """Who answers CoreDNS's questions, and for how long answers are kept."""

    backend: str = "headwater"  # or "kubernetes": CoreDNS's own plugin, which needs a plane
    ttl: int = 5
    cache: int = 0  # seconds of CoreDNS's `cache`; 0 for none
    reverse: tuple[str, ...] = (REVERSE,)

    def __str__(self) -> str:
        name = "Headwater" if self.backend == "headwater" else "CoreDNS's `kubernetes`"
        return f"{name}, `cache {self.cache}`, TTL {self.ttl}" if self.cache else name


HEADWATER: Final = Dns()


class Site:
    """Everything that runs for one system. `folder` gets logs, disks and manifests.

    `root` is the pods' file system; None is the machine's own. `publishes` is False where real
    controllers write the Service and its slices.
    """

    def __init__(
        self,
        folder: Path,
        system: System,
        *,
        root: Path | None = None,
        dns: Dns = HEADWATER,
        plane: Plane | None = None,
        publishes: bool = True,
    ) -> None:
        self.folder, self.system, self.root, self.dns, self.plane = folder, system, root, dns, plane
        self.service_name = f"{system.service}.{NAMESPACE}.svc.{ZONE}"
        """The headless name."""
        self.members: dict[str, Pod] = {}
        """The pods that the Service selects, by name."""
        self.lines: list[str] = []
        """What `say` said."""
        self.headwater: Headwater | None = None
        self.history: dict[str, History] = {name: [(0.0, frozenset())] for name in _ABOVE}
        """By name, and by address the names that PTR gives: (since when, value), oldest first."""
        self.in_dns = 0.0
        """Seconds from the last `replace`'s publication to its answer."""
        self.past: Callable[[str], History] = lambda name: self.history.get(name, [])
        """The truth by name, or by address for PTR."""
        self.disks = folder / "disks"
        self._names: dict[str, str] = {}
        self._publishes = publishes
        self.clients: list[Pod] = []
        """Pods that no Service selects."""
        self._began = time.monotonic()
        self._stack = ExitStack()
        self._version = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.network = self._stack.enter_context(Network())
        self._stack.callback(self._end_pods)
        self._socket = self._stack.enter_context(
            contextlib.closing(self.network.socket(socket.AF_INET, socket.SOCK_DGRAM))
        )
        self._socket.setblocking(False)  # dnspython waits by itself
        if self._publishes:
            self.publish()
        if self.dns.backend == "headwater":
            source = self._manifests if self.plane is None else self.plane.kubeconfig
            self.headwater = self._stack.enter_context(
                Headwater(
                    self.folder, "--manifests" if self.plane is None else "--kubeconfig", source,
                    "--ttl", str(self.dns.ttl), *(f"--reverse-zone={zone}" for zone in self.dns.reverse),
                )
            )  # fmt: skip
            block = self.headwater.grpc_corefile_stanza()
        else:
            assert self.plane is not None
            self._stack.enter_context(_Relay(self.network, int(self.plane.server.rpartition(":")[2])))
            reverse = " ".join(self.dns.reverse)
            block = (
                f"{ZONE}:53 {reverse} {{\n    errors\n    kubernetes {ZONE} {reverse} {{\n"
                f"        kubeconfig {self.plane.kubeconfig}\n        ttl {self.dns.ttl}\n    }}\n}}\n"
            )
        more = f"    bind {DNS}\n    log . {_LOG}\n    errors\n"
        cached = f"{more}    cache {self.dns.cache}\n" if self.dns.cache else more
        corefile = self.folder / "Corefile"
        corefile.write_text(
            re.sub(r"^    errors\n", lambda _: cached, block, flags=re.MULTILINE)
            + f"\n. {{\n{more}    template ANY ANY {{\n        rcode NXDOMAIN\n    }}\n}}\n"
        )
        self.log = self.folder / "coredns.log"
        self.coredns = Running(
            "coredns", self.network.command(require_tool("coredns"), "-conf", corefile), self.log, cwd=self.folder
        )
        self._stack.callback(self.coredns.terminate)
        self.wire = self._stack.enter_context(Wire(self.network))
        wait_until(self._answers, START, f"CoreDNS answers (see {self.log})", ignoring=(OSError, dns.exception.Timeout))

    def _answers(self) -> bool:
        self.coredns.require_running()
        return bool(self.ask(f"dns-version.{ZONE}", "TXT"))

    def _end_pods(self) -> None:
        for pod in [*self.members.values(), *self.clients]:
            pod.delete()

    # -- what is said

    def say(self, what: str) -> None:
        """Note an event with its time, for the report of a test."""
        line = f"{time.monotonic() - self._began:7.2f} s  {what}"
        self.lines.append(line)
        print(line, flush=True)

    def timed(self, condition: Any, timeout: float, what: str, *, interval: float = 0.25) -> float:
        """Wait until `condition` holds, say so, and return the seconds that it took.

        An error of a pod or of the plane means "not yet".
        """
        began = time.monotonic()
        wait_until(condition, timeout, what, interval=interval, ignoring=NOT_YET)
        took = time.monotonic() - began
        self.say(f"{what}: after {took:.1f} s")
        return took

    # -- pods

    def member(self, number: int, address: str, *, publish: bool = True) -> Pod:
        """Make the StatefulSet's pod of this number, on the disk that it had, and publish it."""
        name = f"{self.system.name}-{number}"
        pod = Pod(
            self.network, self.folder, name, address, service=self.system.service, root=self.root,
            disk=self.disks / name,
        )  # fmt: skip
        self.members[name] = pod
        if publish:
            self.publish()
        return pod

    def client(self, address: str = CLIENT, *, root: Path | None = None) -> Pod:
        """Make a pod that no Service selects, with the members' root unless another is given."""
        pod = Pod(self.network, self.folder, f"client-{address.rpartition('.')[2]}", address, root=root or self.root)
        self.clients.append(pod)
        return pod

    def client_at(self, address: str) -> Pod:
        """Return the client with this address, made if there is none."""
        return next((pod for pod in self.clients if pod.address == address), None) or self.client(address)

    def remove(self, pod: Pod, how: str = "killed", *, publish: bool = True, grace: float = 30.0) -> None:
        """End a member: "killed" (SIGKILL to all of it) or "stopped" (SIGTERM). Its disk stays.

        As in a cluster, a stopped pod leaves DNS first, and a killed one after its death.
        """
        assert how in ("killed", "stopped"), how
        self.members.pop(pod.name, None)
        if how == "stopped":
            if publish:
                self.publish()
            pod.stop(grace)
        else:
            pod.delete()
            if publish:
                self.publish()
        self.say(f"{pod.name} ({pod.address}) is {how}")

    def replace(self, pod: Pod, address: str, how: str = "killed", *, first: bool = False) -> Pod:
        """End a member, make its successor under another address, and start the server there."""
        self.remove(pod, how)
        again = self.member(int(pod.name.rpartition("-")[2]), address)
        if self.publishes(again):
            self.in_dns = self.wait_dns(again.fqdn, [address])
            self.say(f"{again.name} is {address} in DNS {self.in_dns * 1000:.0f} ms later")
        self.system.start(again, first=first)
        return again

    def publishes(self, pod: Pod) -> bool:
        return pod.ready or self.system.publish_not_ready

    def set_ready(self, *pods: Pod) -> None:
        """Let a readiness probe succeed; return when DNS has the pods."""
        for pod in pods:
            pod.ready = True
        self.publish()
        for pod in pods:
            self.wait_dns(pod.fqdn, [pod.address])

    # -- what the control plane would have written

    @property
    def _manifests(self) -> Path:
        return self.folder / "manifests"

    def objects(self) -> list[dict[str, Any]]:
        """Return the Service and its slice."""
        meta = {"namespace": NAMESPACE}
        ports = [{"name": name, "port": port, "protocol": "TCP"} for name, port in self.system.ports.items()]
        service = {
            "apiVersion": "v1", "kind": "Service", "metadata": meta | {"name": self.system.service},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": ports,
                     "publishNotReadyAddresses": self.system.publish_not_ready},
        }  # fmt: skip
        # A slice's conditions are those that the slice controller writes: with
        # publishNotReadyAddresses every endpoint counts as ready.
        endpoints = [
            {
                "addresses": [pod.address], "hostname": pod.name, "nodeName": "node-a",
                "conditions": {"ready": self.publishes(pod), "serving": pod.ready, "terminating": False},
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": NAMESPACE},
            }
            for pod in self.members.values()
        ]  # fmt: skip
        piece = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": meta
            | {"name": f"{self.system.service}-1", "labels": {"kubernetes.io/service-name": self.system.service}},
            "ports": ports, "endpoints": endpoints,
        }  # fmt: skip
        return [service, piece]

    def publish(self) -> None:
        """Write the Service and its slice as the pods now are."""
        objects = self.objects()
        self._note()
        if self.plane is not None:
            for path, item in zip(("/api/v1", "/apis/discovery.k8s.io/v1"), objects, strict=True):
                kind = "services" if item["kind"] == "Service" else "endpointslices"
                self._put(f"{path}/namespaces/{NAMESPACE}/{kind}", item)
            return
        if not self._manifests.exists():
            self._manifests.mkdir()
        partial = self.folder / "objects.partial"
        partial.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1))
        partial.rename(self._manifests / "objects.json")

    def _put(self, path: str, item: dict[str, Any]) -> None:
        assert self.plane is not None
        name = item["metadata"]["name"]
        try:
            if item["kind"] == "Service":
                self.plane.api("GET", f"{path}/{name}")
            else:
                self.plane.api("PUT", f"{path}/{name}", item)
        except PlaneError as error:
            if ": 404 " not in str(error):
                raise
            self.plane.api("POST", path, item)

    def _note(self) -> None:
        """Add what is true from now on to the history."""
        now: dict[str, frozenset[str] | None] = dict.fromkeys(self._names)
        published = [pod for pod in self.members.values() if self.publishes(pod)]
        for pod in published:
            now[pod.fqdn] = frozenset({pod.address})
            now[pod.address] = frozenset({pod.fqdn})
        now[self.service_name] = frozenset(pod.address for pod in published) or None
        moment = time.monotonic()
        for name, value in now.items():
            self._names[name] = name
            past = self.history.setdefault(name, [(0.0, None)])
            if past[-1][1] != value:
                past.append((moment, value))

    # -- what DNS says

    def ask(self, name: str, qtype: str = "A", *, timeout: float = 2.0) -> list[str]:
        """Ask CoreDNS from the node; return the rdata of this type, sorted.

        Raises dns.exception.Timeout, and RuntimeError for another rcode than NOERROR and NXDOMAIN.
        """
        query = dns.message.make_query(name, qtype)
        reply = dns.query.udp(
            query, DNS, timeout=timeout, sock=self._socket, ignore_unexpected=True, ignore_errors=True
        )
        if reply.rcode() not in (0, 3):
            raise RuntimeError(f"{qtype} {name}: {dns.rcode.to_text(reply.rcode())}")
        wanted = dns.rdatatype.from_text(qtype)
        return sorted(rdata.to_text() for rrset in reply.answer for rdata in rrset if rrset.rdtype == wanted)

    def wait_dns(self, name: str, addresses: Sequence[str], timeout: float = START) -> float:
        """Wait until DNS has exactly these addresses; return the seconds."""
        began = time.monotonic()
        wait_until(
            lambda: self.ask(name) == sorted(addresses), timeout, f"{name} is {addresses}", interval=0.005,
            ignoring=(RuntimeError, dns.exception.Timeout),
        )  # fmt: skip
        return time.monotonic() - began

    # -- what the pods were told

    def verdict(self, mark: int = 0, fault: tuple[float, float] = (0.0, 0.0)) -> Verdict:
        """Judge what DNS told the pods since a mark of `wire`."""
        return judge(self.wire.exchanges(mark), self.past, fault)

    def assert_true(self, mark: int = 0, fault: tuple[float, float] = (0.0, 0.0), *, refused: bool = False) -> Verdict:
        """Assert that the pods were told nothing wrong, and no failure unless `refused`."""
        verdict = self.verdict(mark, fault)
        wrong = verdict.wrong()[:5]
        assert not wrong, f"of {verdict.asked}: {wrong}"
        assert refused or verdict.refused[:5] == []
        return verdict

    def asked_by_log(self) -> Counter[tuple[str, str, str]]:
        """Count (client's address, type, name) in CoreDNS's log, without the node's questions."""
        found: Counter[tuple[str, str, str]] = Counter()
        for qtype, name, _proto, remote, _rcode in _LOGGED.findall(self.log.read_text()):
            if remote not in (DNS, *NODE):
                found[remote, qtype, name.rstrip(".").lower()] += 1
        return found


NODE: Final = (GATEWAY,)
#: Errors of a command in a pod, of DNS and of the plane while something starts.
NOT_YET: Final = (PodError, RuntimeError, OSError, ValueError, KeyError, PlaneError, dns.exception.DNSException)


class _Relay:
    """Lends the node a port of this machine's loopback under the same number: the API server's."""

    def __init__(self, network: Network, port: int) -> None:
        self._port = port
        self._listener = network.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        partner: dict[socket.socket, socket.socket] = {}
        while not self._stop.is_set():
            for one in select.select([self._listener, *partner], [], [], 0.2)[0]:
                if one is self._listener:
                    near, _ = self._listener.accept()
                    try:
                        far = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                    except OSError:
                        near.close()
                        continue
                    partner[near], partner[far] = far, near
                elif one in partner:
                    try:
                        data = one.recv(65536)
                        if data:
                            partner[one].sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        other = partner.pop(one)
                        del partner[other]
                        one.close()
                        other.close()
        for one in partner:
            one.close()
