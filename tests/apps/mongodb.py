"""MongoDB's client pymongo, on FerretDB: not MongoDB, which no package registry has.

FerretDB speaks MongoDB's wire protocol and stores in SQLite. Three of them over one folder are one
database. What stands before each tells drivers what it is (tools/ferretdb): "mongos", as one of
the routers of a sharded cluster, or "rs0", as a member of a replica set. What the driver does by it
is real: it is what these tests are about. How a replica set elects is not tried here.

`PUT`, `GET` and `WATCH` are programs for a pod of the tests, run by the tests' own Python.
"""

from __future__ import annotations

import re
import socket
import sys
from typing import TYPE_CHECKING, Final

import dns.message

from tests.apps import examples
from tests.apps.pods import PodError
from tests.harness.processes import require_tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.apps.pods import Pod
    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 60.0  # seconds; 1 on an idle machine
PORT: Final = 27017
WATCHES: Final = "10.44.9.8"

#: FerretDB reads the list of collections when it opens the database: the first member makes it.
_MAKE: Final = """
import pymongo, sys
pymongo.MongoClient(sys.argv[1], directConnection=True).hw.create_collection("t")
"""
_PUT: Final = """
import pymongo, sys
client = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=20000)
client.hw.t.insert_many([{"_id": text} for text in sys.argv[2:]])
"""
_GET: Final = """
import pymongo, sys
client = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=20000)
print(*sorted(str(one["_id"]) for one in client.hw.t.find({"once": None})), sep="\\n")
"""
#: Write and read five times a second, and say what the driver thinks the deployment is. A line is
#: "SECONDS state SERVER=TYPE ..." or "SECONDS event ...".
_WATCH: Final = """
import pymongo, sys, time
from pymongo import monitoring

def say(*words):
    print("%.3f" % time.time(), *words, flush=True)

class Topology(monitoring.TopologyListener):
    def opened(self, event): pass
    def closed(self, event): pass
    def description_changed(self, event):
        servers = event.new_description.server_descriptions()
        say("state", *sorted("%s=%s" % (host, one.server_type_name) for (host, _), one in servers.items()))

client = pymongo.MongoClient(
    sys.argv[1], serverSelectionTimeoutMS=8000, connectTimeoutMS=3000, socketTimeoutMS=4000,
    heartbeatFrequencyMS=2000, event_listeners=[Topology()],
)
good, failing = time.time(), False
while True:
    try:
        one = client.hw.t.insert_one({"once": False}).inserted_id
        assert client.hw.t.find_one({"_id": one})
        if time.time() - good > 1.5:
            say("event nothing for %.1f s" % (time.time() - good))
        good, failing = time.time(), False
    except Exception as error:
        if not failing:
            say("event fails:", type(error).__name__, str(error)[:120].replace("\\n", " "))
        failing = True
    time.sleep(0.2)
"""
_STATE: Final = re.compile(r"^[\d.]+ state ?(.*)$", re.MULTILINE)
_EVENT: Final = re.compile(r"^[\d.]+ event (.*)$", re.MULTILINE)


class MongoDB:
    """The system: `says` is "mongos" or "rs0", and `port` the name of the Service's port.

    A member is ready when it takes connections. The Service of routers has ready ones only; that of
    a replica set has all members, which have to find one another before they are ready.
    """

    name = "mongodb"
    service = "mongodb"

    def __init__(self, says: str = "mongos", *, port: str = "", members: int = 3) -> None:
        assert says in ("mongos", "rs0"), says
        self.says, self.members = says, members
        self.publish_not_ready = says == "rs0"
        self.ports = {port: PORT} if port else examples.ports(self.name)
        self._site: Site | None = None
        self._watch: Path | None = None
        self._watch_began = 0
        self._since: dict[str, int] = {}

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        if self._site is not None:
            self._since[pod.name] = self._site.wire.mark()
        folder = pod.folder / "shared"
        folder.mkdir(exist_ok=True)
        hosts = ",".join(f"{self.name}-{number}.{pod.subdomain}:{PORT}" for number in range(self.members))
        return pod.start(
            require_tool("ferretdb"), "-listen", f":{PORT}", "-folder", folder, "-says", self.says,
            "-me", f"{pod.fqdn}:{PORT}", "-hosts", hosts, log=pod.folder / f"{pod.name}.log",
        )  # fmt: skip

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Start the members one after the other, as OrderedReady does; return when all serve."""
        self._site = site
        pods: list[Pod] = []
        for number, address in enumerate(addresses):
            pods.append(site.member(number, address))
            self.start(pods[-1])
            site.timed(lambda: self.whole(pods), FORMS, f"{pods[-1].name} serves")
            if number == 0:
                self.make_database(pods[0])
        return pods

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start members that had all ended, at the same time."""
        for pod in pods:
            self.start(pod)

    def make_database(self, pod: Pod) -> None:
        """Make the collection that clients use, at one member. Raises PodError."""
        pod.run(sys.executable, "-c", _MAKE, f"mongodb://{pod.fqdn}:{PORT}")

    def answers(self, pod: Pod) -> bool:
        """Return what the example's readiness probe finds, from the node. Raises OSError."""
        with pod.network.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect((pod.address, PORT))
        return True

    def whole(self, pods: Sequence[Pod]) -> bool:
        """Return whether all serve, and the client that stays sees them.

        Where no kubelet does it, probe the pods, and publish those that serve as ready.
        """
        for pod in pods:
            self.answers(pod)
        if self._site is not None and (waiting := [pod for pod in pods if not pod.ready]):
            self._site.set_ready(*waiting)
        if self._watch is not None:
            state = self.state()
            for pod in pods:
                assert f"{pod.fqdn}=" in state, state
                assert f"{pod.fqdn}=Unknown" not in state, state
                # The driver may not have noticed yet that the pod is another one.
                asked = self._site is None or self._watch_began > self._since[pod.name] or self._told(pod)
                assert asked, f"not asked for {pod.fqdn}"
        return True

    def _told(self, pod: Pod) -> bool:
        """Return whether DNS has told the client that stays where this pod is."""
        assert self._site is not None
        return any(
            one.client == WATCHES and one.name == pod.fqdn and one.qtype == "A" and one.rcode == "NOERROR"
            and pod.address in {str(rdata) for rrset in dns.message.from_wire(one.reply).answer for rdata in rrset}
            for one in self._site.wire.exchanges(self._since[pod.name])
        )  # fmt: skip

    # -- what its client sees

    def uri(self, host: str) -> str:
        """Return the URI by which drivers find all members through DNS."""
        return f"mongodb+srv://{host}/?tls=false" + ("&replicaSet=rs0" if self.says == "rs0" else "")

    def watch(self, site: Site) -> None:
        """Start a client by the headless name that writes, reads and says what it sees."""
        self._watch, self._watch_began = site.folder / "watch.log", site.wire.mark()
        site.client_at(WATCHES).start(sys.executable, "-c", _WATCH, self.uri(site.service_name), log=self._watch)

    def state(self) -> str:
        """Return what the driver last took the deployment to be. Raises PodError if nothing yet."""
        assert self._watch is not None
        states = _STATE.findall(self._watch.read_text())
        if not states:
            raise PodError(f"the client has seen nothing yet: {self._watch.read_text()[-1000:]}")
        return str(states[-1])

    def events(self, since: int = 0) -> list[str]:
        """Return what failed, all but the first `since`."""
        assert self._watch is not None
        return [str(text) for text in _EVENT.findall(self._watch.read_text())][since:]

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write texts through a member, or through the headless name. Raises PodError."""
        client.run(sys.executable, "-c", _PUT, self._uri_of(host), *texts)

    def get(self, client: Pod, host: str) -> list[str]:
        """Return all texts, sorted. Raises PodError."""
        return client.run(sys.executable, "-c", _GET, self._uri_of(host)).split()

    def _uri_of(self, host: str) -> str:
        if host.startswith(f"{self.name}-"):
            return f"mongodb://{host}:{PORT}/?directConnection=true"
        return self.uri(host)
