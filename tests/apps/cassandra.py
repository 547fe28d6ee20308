"""Apache Cassandra: nodes whose seeds are names.

`pods` is `examples/cassandra`: two pods are seeds, by names of their own. `headless` is the
mistake: the headless name, with resolve_multiple_ip_addresses_per_dns_record, makes each node one
of its own seeds.

The clients are the Python driver's, in a pod of the tests, run by the tests' own Python.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.apps import examples, java
from tests.apps.pods import PodError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.apps.pods import Pod
    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 300.0  # seconds for a node; about 20 on an idle machine
WATCHES: Final = "10.44.9.8"
_HEAP: Final = 384  # MiB of a node
_TOOL_HEAP: Final = 64
_STARTED: Final = "Startup complete"
_FRESH: Final = 2.0  # seconds for which a state is of the present; the client gives four a second

#: Packages of the JDK that Cassandra needs (conf/jvm17-server.options).
_EXPORTED: Final = (
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.unsupported/sun.misc",
)
_OPENED: Final = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac",
    "jdk.management/com.sun.management.internal",
)
_MODULES: Final = (
    *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTED),
    *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENED),
)
#: Besides the example's configuration: less of the machine, and a ring that settles sooner.
_SMALL: Final[dict[str, Any]] = {
    "commitlog_segment_size": "8MiB",
    "memtable_heap_space": "32MiB",
    "memtable_offheap_space": "32MiB",
    "concurrent_reads": 4,
    "concurrent_writes": 4,
    "concurrent_counter_writes": 4,
    "file_cache_enabled": False,
    "networking_cache_size": "16MiB",
    "auto_snapshot": False,
}
#: Cassandra waits 30 s for the ring, 8 s for gossip and 10 s for its first role: long enough for
#: rings of hundreds of nodes.
_SOON: Final = ("ring_delay_ms=5000", "skip_wait_for_gossip_to_settle=0", "superuser_setup_delay_ms=0")
_LOGBACK: Final = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level [%thread] %logger{0} %msg%n%ex{3}</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""

_CONNECT: Final = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import ConstantReconnectionPolicy, RoundRobinPolicy, WhiteListRoundRobinPolicy

def connect(host, policy, level=ConsistencyLevel.QUORUM):
    profile = ExecutionProfile(load_balancing_policy=policy, consistency_level=level, request_timeout=10)
    return Cluster(
        [host], execution_profiles={EXEC_PROFILE_DEFAULT: profile}, protocol_version=5, connect_timeout=10,
        control_connection_timeout=10, reconnection_policy=ConstantReconnectionPolicy(2, None),
    )

def schema(session):
    three = "{'class': 'NetworkTopologyStrategy', 'dc1': 3}"
    session.execute("CREATE KEYSPACE IF NOT EXISTS hw WITH replication = " + three, timeout=60)
    for table in ("once", "t"):
        session.execute("CREATE TABLE IF NOT EXISTS hw.%s (id text PRIMARY KEY, at bigint)" % table, timeout=60)
"""
_PUT: Final = f"""{_CONNECT}
session = connect(sys.argv[1], RoundRobinPolicy()).connect()
schema(session)
for text in sys.argv[2:]:
    session.execute("INSERT INTO hw.once (id, at) VALUES (%s, %s)", (text, time.time_ns()))
"""
#: The coordinator is the named host alone.
_GET: Final = f"""{_CONNECT}
import socket
host = socket.gethostbyname(sys.argv[1])
session = connect(host, WhiteListRoundRobinPolicy([host])).connect()
rows = session.execute("SELECT id, at FROM hw.once")
print(*(row.id for row in sorted(rows, key=lambda row: row.at)), sep="\\n")
"""
#: Rows of which there is one copy each: `make` them, or count those that are found.
_SINGLE: Final = f"""{_CONNECT}
session = connect(sys.argv[1], RoundRobinPolicy(), ConsistencyLevel.ONE).connect()
if sys.argv[2] == "make":
    one = "{{'class': 'NetworkTopologyStrategy', 'dc1': 1}}"
    session.execute("CREATE KEYSPACE single WITH replication = " + one, timeout=60)
    session.execute("CREATE TABLE single.t (id int PRIMARY KEY)", timeout=60)
    for number in range(int(sys.argv[3])):
        session.execute("INSERT INTO single.t (id) VALUES (%s)", (number,))
rows = session.execute("SELECT id FROM single.t")
print(len(list(rows)))
"""
#: What a node says of the members: it asks for the PTR record of each (the column "hostname").
_GOSSIP: Final = f"""{_CONNECT}
session = connect(sys.argv[1], WhiteListRoundRobinPolicy([sys.argv[1]]), ConsistencyLevel.ONE).connect()
rows = session.execute("SELECT * FROM system_views.gossip_info")
print(json.dumps({{row.address: str(row.status_with_port or row.status) for row in rows}}))
"""
#: Whom each of several nodes has in its ring, itself included.
_RINGS: Final = f"""{_CONNECT}
for host in sys.argv[1:]:
    with connect(host, WhiteListRoundRobinPolicy([host]), ConsistencyLevel.ONE) as cluster:
        rows = cluster.connect().execute("SELECT peer FROM system.peers_v2")
        print(*sorted({{host, *(str(row.peer) for row in rows)}}))
"""
#: Write and read at quorum four times a second. A line is "SECONDS state ADDRESS+ ADDRESS- ..." or
#: "SECONDS event ...".
_WATCH: Final = f"""{_CONNECT}
def say(*words):
    print("%.3f" % time.time(), *words, flush=True)

while True:
    try:
        cluster = connect(sys.argv[1], RoundRobinPolicy())
        session = cluster.connect()
        schema(session)
        break
    except Exception as error:
        say("event not yet:", str(error)[:100].replace("\\n", " "))
        time.sleep(1)
good, failing, number = time.time(), False, 0
while True:
    number += 1
    try:
        session.execute("INSERT INTO hw.t (id) VALUES (%s)", (str(number),))
        assert session.execute("SELECT id FROM hw.t WHERE id = %s", (str(number),)).one()
        if time.time() - good > 1.5:
            say("event no quorum for %.1f s" % (time.time() - good))
        good, failing = time.time(), False
    except Exception as error:
        if not failing:
            say("event fails:", type(error).__name__)
        failing = True
    hosts = cluster.metadata.all_hosts()
    say("state", *sorted(host.address + ("+" if host.is_up else "-") for host in hosts))
    time.sleep(0.25)
"""
_STATE: Final = re.compile(r"^([\d.]+) state ?(.*)$", re.MULTILINE)
_EVENT: Final = re.compile(r"^[\d.]+ event (.*)$", re.MULTILINE)


class Cassandra:
    """The system; `seeds` is "pods" or "headless"."""

    name = "cassandra"
    service = "cassandra"
    publish_not_ready = True

    def __init__(self, seeds: str = "pods") -> None:
        assert seeds in ("pods", "headless"), seeds
        self.seeds = seeds
        self.ports = examples.ports(self.name)
        self._watch: Path | None = None
        self._started: dict[str, int] = {}

    def start(self, pod: Pod, *, first: bool = False, seeds: str = "") -> Running:
        """Start the server in a pod; `seeds` is another choice for this node alone."""
        files = examples.config(self.name)
        config = yaml.safe_load(files["cassandra.yaml"]) | _SMALL
        if (seeds or self.seeds) == "headless":
            config["seed_provider"][0]["parameters"] = [
                {"seeds": pod.subdomain, "resolve_multiple_ip_addresses_per_dns_record": "true"}
            ]
        files["cassandra.yaml"] = yaml.safe_dump(config)
        for name, text in (files | {"logback.xml": _LOGBACK}).items():
            (pod.disk / name).write_text(text)
        log = pod.folder / f"{pod.name}.log"
        self._started[pod.name] = log.read_text().count(_STARTED) if log.exists() else 0
        jars, volume = java.folder("cassandra"), pod.volume
        container = examples.one(self.name, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        (extra,) = (one["value"] for one in container["env"] if one["name"] == "JVM_EXTRA_OPTS")
        (jamm,) = jars.glob("jamm-*.jar")
        return pod.start(
            "java", *java.options(_HEAP), *extra.split(), f"-javaagent:{jamm}", "-XX:MaxDirectMemorySize=256m",
            *_MODULES, "-Djdk.attach.allowAttachSelf=true", "-Dio.netty.tryReflectionSetAccessible=true",
            f"-Dcassandra.config=file://{volume}/cassandra.yaml",
            f"-Dcassandra-rackdc.properties=file://{volume}/cassandra-rackdc.properties",
            f"-Dlogback.configurationFile={volume}/logback.xml",
            f"-Dcassandra.storagedir={volume}/data", f"-Dcassandra.logdir={volume}", "-Dcassandra-foreground=yes",
            *(f"-Dcassandra.{name}" for name in _SOON), "-Dcassandra.jmx.local.port=7199",
            "-Dio.netty.allocator.type=unpooled", "-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon",
            log=log,
        )  # fmt: skip

    def log(self, pod: Pod) -> str:
        """Return what the servers of this name have said."""
        return (pod.folder / f"{pod.name}.log").read_text()

    def nodetool(self, pod: Pod, *words: str) -> str:
        """Run an operator's command at a node, and return what it says. Raises PodError."""
        return pod.run(
            "java", *java.options(_TOOL_HEAP), *_MODULES, f"-Duser.home={pod.volume}",  # where it keeps a history
            f"-Dlogback.configurationFile={pod.volume}/logback.xml",
            "-cp", f"{java.folder(self.name)}/*", "org.apache.cassandra.tools.NodeTool", *words, timeout=FORMS,
        )  # fmt: skip

    def answers(self, pod: Pod) -> bool:
        """Return whether the server that was started last in a pod has joined."""
        assert self.log(pod).count(_STARTED) > self._started[pod.name], f"{pod.name} has not started"
        return True

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Start the nodes one after the other, as OrderedReady does; return when all are up."""
        pods: list[Pod] = []
        for number, address in enumerate(addresses):
            pods.append(site.member(number, address))
            self.start(pods[-1])
            site.timed(lambda: self.answers(pods[-1]), FORMS, f"{pods[-1].name} has joined")
            pods[-1].ready = True
        site.timed(lambda: self.agreed(pods), FORMS, "all have one another in their rings")
        return pods

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start nodes that had all ended, at the same time."""
        for pod in pods:
            self.start(pod)

    def gossip(self, pod: Pod) -> dict[str, str]:
        """Return the members that a node knows, by address, with their status. Raises PodError."""
        found: dict[str, str] = json.loads(pod.run(sys.executable, "-c", _GOSSIP, pod.address))
        return {address.lstrip("/"): status for address, status in found.items()}

    def agreed(self, pods: Sequence[Pod]) -> bool:
        """Return whether each has all of them in its ring, and nobody else. Raises PodError."""
        addresses = sorted(pod.address for pod in pods)
        rings = pods[0].run(sys.executable, "-c", _RINGS, *addresses).splitlines()
        assert rings == [" ".join(addresses)] * len(pods), rings
        return True

    def whole(self, pods: Sequence[Pod]) -> bool:
        """Return whether all have joined, each has all in its ring, and a node or client sees them.

        That is the client that stays, if there is one, and else the first node.
        """
        for pod in pods:
            self.answers(pod)
        addresses = {pod.address for pod in pods}
        self.agreed(pods)
        if self._watch is not None:
            seen = self.state().split()
            assert {f"{address}+" for address in addresses} <= set(seen), seen
        else:
            normal = {address for address, status in self.gossip(pods[0]).items() if "NORMAL" in status}
            assert normal == addresses, normal
        return True

    # -- what its client sees

    def watch(self, site: Site) -> None:
        """Start a client by the headless name that writes, reads and says what it sees."""
        self._watch = site.folder / f"watch-{time.monotonic_ns()}.log"
        site.client_at(WATCHES).start(sys.executable, "-c", _WATCH, site.service_name, log=self._watch)

    def state(self) -> str:
        """Return what the client saw last. Raises PodError if that is of the past."""
        assert self._watch is not None
        states = _STATE.findall(self._watch.read_text())
        if not states or time.time() - float(states[-1][0]) > _FRESH:
            raise PodError(f"the client has seen nothing for {_FRESH:g} s, before: {states[-1:]}")
        return str(states[-1][1])

    def events(self, since: int = 0) -> list[str]:
        """Return what the client noticed, all but the first `since`."""
        assert self._watch is not None
        return [str(text) for text in _EVENT.findall(self._watch.read_text())][since:]

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write texts at quorum, found by a host. Raises PodError."""
        client.run(sys.executable, "-c", _PUT, host, *texts, timeout=120)

    def get(self, client: Pod, host: str) -> list[str]:
        """Read all texts at quorum, through one host alone, the newest last. Raises PodError."""
        return client.run(sys.executable, "-c", _GET, host).split()

    def make_single(self, client: Pod, host: str, rows: int) -> int:
        """Write rows of which there is one copy each; return how many are found."""
        return int(client.run(sys.executable, "-c", _SINGLE, host, "make", str(rows), timeout=120))

    def count_single(self, client: Pod, host: str) -> int:
        """Return how many of those rows are found. Raises PodError."""
        return int(client.run(sys.executable, "-c", _SINGLE, host, "count", timeout=120))
