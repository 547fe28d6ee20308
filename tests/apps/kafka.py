"""Apache Kafka in KRaft mode: three servers, each a broker and a controller, known by pod names.

`bootstrap` is `examples/kafka`, which names the controllers in controller.quorum.bootstrap.servers
(KIP-853). `voters` has the static controller.quorum.voters of earlier versions instead.

`KafkaClient.java` is Kafka's own client, in a pod that no Service selects. What it says of the
cluster is what `whole` goes by.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Final

from tests.apps import examples, java
from tests.apps.pods import PodError
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.apps.pods import Pod
    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 180.0  # seconds; about 13 on an idle machine
MEMBERS: Final = 3
WATCHES: Final = "10.44.9.8"
_HEAP: Final = 256  # MiB of a server
_CLIENT_HEAP: Final = 96
#: A state is of the present for so long; the client gives one every 0.3 s.
_FRESH: Final = 1.5  # seconds
_CLUSTER: Final = "4L6g3nShT-eMCtK--X86sw"
_DIRECTORIES: Final = ("JEXY6aqzQY-32P5TStzaFg", "MvDxzVmcRsaTz33bUuRU6A", "07R5amHmR32VDA6jHkGbTA")
_STATE: Final = re.compile(r"^(\d+) state (.*)$", re.MULTILINE)
_EVENT: Final = re.compile(r"^(\d+) event (.*)$", re.MULTILINE)
_STARTED: Final = "Kafka Server started"

#: What the image has on its PATH, for `start.sh` of the example.
_PROGRAMS: Final = {
    "kafka-storage.sh": 'exec java $JAVA kafka.tools.StorageTool "$@"\n',
    "kafka-server-start.sh": 'exec java $JAVA $KAFKA_OPTS kafka.Kafka "$@"\n',
}
#: Besides the example's configuration: less of the machine.
_SMALL: Final = """
offsets.topic.num.partitions=3
group.initial.rebalance.delay.ms=0
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=10485760
"""

LOG4J: Final = """\
status = error
appenders = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1} %m%n%throwable{3}
rootLogger.level = INFO
rootLogger.appenderRefs = out
rootLogger.appenderRef.out.ref = out
"""


class Kafka:
    """The system. `quick` JVMs keep an address for 5 s, as in the example; others for 30."""

    name = "kafka"
    service = "kafka"

    def __init__(self, quorum: str = "bootstrap", *, quick: bool = True, publish_not_ready: bool = True) -> None:
        assert quorum in ("bootstrap", "voters"), quorum
        self.quorum, self.quick, self.publish_not_ready = quorum, quick, publish_not_ready
        self.ports = examples.ports(self.name)
        self._watch: Path | None = None
        self._started: dict[str, int] = {}

    # -- servers

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        config = examples.config(self.name)
        config["server.properties"] += _SMALL
        if self.quorum == "voters":
            config["server.properties"] = re.sub(
                r"(?m)^controller\.quorum\.bootstrap\.servers=.*$",
                "controller.quorum.voters="
                + ",".join(f"{number}@{self.name}-{number}.{pod.subdomain}:9093" for number in range(MEMBERS)),
                config["server.properties"],
            )
            config["start.sh"] = re.sub(r" \\\n +--initial-controllers .*", "", config["start.sh"])
        if not self.quick:
            config["dns.security"] = ""
        for name, text in (config | _PROGRAMS | {"log4j2.properties": LOG4J}).items():
            (pod.disk / name).write_text(text)
            (pod.disk / name).chmod(0o755)
        log = pod.folder / f"{pod.name}.log"
        self._started[pod.name] = log.read_text().count(_STARTED) if log.exists() else 0
        container = examples.one(self.name, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        options = [*java.options(_HEAP), f"-Dlog4j2.configurationFile={pod.volume}/log4j2.properties"]
        env = {one["name"]: one["value"] for one in container["env"]} | {
            "PATH": f"{pod.volume}:{os.environ['PATH']}",
            "CONFIG": pod.volume, "DATA": f"{pod.volume}/data",
            "CLASSPATH": f"{java.folder('kafka')}/*",
            "JAVA": " ".join(options),
        }  # fmt: skip
        (pod.disk / "data").mkdir(exist_ok=True)
        return pod.start("sh", f"{pod.volume}/start.sh", log=log, env=env)

    def has_started(self, pod: Pod) -> bool:
        """Return whether the server that was started last in a pod says that it serves."""
        return (pod.folder / f"{pod.name}.log").read_text().count(_STARTED) > self._started[pod.name]

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Start all members at once, as Parallel does; return when they are one cluster."""
        pods = [site.member(number, address) for number, address in enumerate(addresses)]
        self.start_all(site, pods)
        self.watch(site)
        site.timed(lambda: self.whole(pods), FORMS, "one cluster")
        return pods

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start members that had all ended, at the same time."""
        for pod in pods:
            self.start(pod)

    def answers(self, pod: Pod) -> bool:
        """Return what the example's readiness probe would find."""
        return self.has_started(pod)

    # -- what its client sees

    def watch(self, site: Site, *, bootstrap: str = "") -> None:
        """Start a client that writes, reads and says what it sees; it stays."""
        pod = site.client(WATCHES)
        self._watch = site.folder / "watch.log"
        pod.start(*self._client(site.folder), "watch", bootstrap or f"{site.service_name}:9092", log=self._watch)

    def _client(self, folder: Path) -> list[str]:
        classes = folder / "classes"
        if not classes.exists():
            source = java.HERE / "KafkaClient.java"
            subprocess.run(
                ["javac", "-cp", f"{java.folder('kafka')}/*", "-d", classes, source], check=True, capture_output=True
            )
            (classes / "log4j2.properties").write_text(LOG4J.replace("= INFO", "= ERROR"))
            (classes / "dns.security").write_text(examples.config(self.name)["dns.security"] if self.quick else "")
        return [
            "java", *java.options(_CLIENT_HEAP), "-cp", f"{classes}:{java.folder('kafka')}/*",
            f"-Dlog4j2.configurationFile={classes}/log4j2.properties",
            f"-Djava.security.properties={classes}/dns.security", "KafkaClient",
        ]  # fmt: skip

    def state(self) -> str:
        """Return what the client saw last. Raises PodError if that is of the past."""
        assert self._watch is not None
        states = _STATE.findall(self._watch.read_text())
        if not states or time.time() - int(states[-1][0]) / 1000 > _FRESH:
            raise PodError(f"the client has seen nothing for {_FRESH:g} s, before: {states[-1:]}")
        return str(states[-1][1])

    def events(self, since: int = 0) -> list[str]:
        """Return what the client noticed, all but the first `since`."""
        assert self._watch is not None
        return [text for _, text in _EVENT.findall(self._watch.read_text())][since:]

    def whole(self, pods: Sequence[Pod]) -> bool:
        """Return whether all serve and, by the client that stays, have what the others have."""
        ids = ",".join(sorted(pod.name.rpartition("-")[2] for pod in pods))
        for pod in pods:
            assert self.has_started(pod), f"{pod.name} has not started"
        if self._watch is None:
            return True
        state = self.state()
        assert f"brokers={ids} " in state, state
        assert re.search(rf"isr=0:./{ids};1:./{ids};2:./{ids} voters={ids} leader=", state), state
        return True

    def settled(self, site: Site) -> None:
        """Wait until all that was acknowledged has been read."""
        wait_until(
            lambda: " late=0" in self.state(), FORMS, "every acknowledged record is read", interval=0.3,
            ignoring=(PodError,),
        )  # fmt: skip

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write texts to a topic of three replicas, each acknowledged by all. Raises PodError."""
        client.run(*self._client(client.folder), "put", f"{host}:9092", *texts)

    def get(self, client: Pod, host: str) -> list[str]:
        """Return all texts, sorted. Raises PodError."""
        return sorted(client.run(*self._client(client.folder), "get", f"{host}:9092").split())
