"""RabbitMQ, Debian's rabbitmq-server, with long node names: rabbit@NAME.SERVICE…

`dns` is `examples/rabbitmq`: peers by the headless name and PTR (rabbitmq.com, cluster formation,
DNS backend). `classic` has the three names in its configuration instead.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from tests.apps import examples
from tests.apps.pods import Pod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 120.0  # seconds; about 20 on an idle machine
_BIN: Final = "/usr/lib/rabbitmq/bin"
_USER: Final = "rabbitmq"
_HANGS: Final = 40.0  # seconds of a start, of which the node says that it tries to undo a deadlock
_TRIES: Final = b"Faking nodedown/nodeup"
_KILL: Final = 'for p in /proc/[0-9]*; do test "$(cat $p/comm)" = beam.smp && kill -9 ${p#/proc/}; done; true'
_COOKIE: Final = "HEADWATER"
#: Besides the example's configuration: a client without an account, and less of the machine.
SMALL: Final = """
loopback_users.guest = false
vm_memory_high_watermark.absolute = 200MB
disk_free_limit.absolute = 50MB
"""

#: Publish messages to a quorum queue, each confirmed by a majority.
PUT: Final = """
import pika, sys
connection = pika.BlockingConnection(pika.ConnectionParameters(sys.argv[1], connection_attempts=3, retry_delay=1))
channel = connection.channel()
channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
channel.confirm_delivery()
for text in sys.argv[2:]:
    channel.basic_publish("", "q", text.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
connection.close()
"""
#: Take all messages, and print them.
GET: Final = """
import pika, sys
connection = pika.BlockingConnection(pika.ConnectionParameters(sys.argv[1], connection_attempts=3, retry_delay=1))
channel = connection.channel()
while True:
    method, _, body = channel.basic_get("q", auto_ack=True)
    if method is None:
        break
    print(body.decode())
connection.close()
"""


class RabbitMQ:
    """The system; `discovery` is "dns" or "classic", for `members` nodes."""

    name = "rabbitmq"
    service = "rabbitmq-nodes"
    publish_not_ready = True

    def __init__(self, discovery: str = "dns", members: int = 3) -> None:
        self.discovery, self.members = discovery, members
        self.ports = examples.ports(self.name)
        self._logged: dict[Pod, int] = {}
        self._started: dict[Pod, float] = {}

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        if not (pod.disk / "rabbitmq.conf").exists():
            self._prepare(pod)
        log = pod.folder / f"{pod.name}.log"
        self._logged[pod] = log.stat().st_size if log.exists() else 0
        self._started[pod] = time.monotonic()
        return pod.start(f"{_BIN}/rabbitmq-server", log=log, user=_USER, env=self._environment(pod))

    def _prepare(self, pod: Pod) -> None:
        config = examples.config(self.name)
        if self.discovery != "dns":
            config["rabbitmq.conf"] = re.sub(r"(?m)^cluster_formation.*\n", "", config["rabbitmq.conf"])
            config["rabbitmq.conf"] += "cluster_formation.peer_discovery_backend = classic_config\n"
            config["rabbitmq.conf"] += "".join(
                f"cluster_formation.classic_config.nodes.{number + 1} = rabbit@{self.name}-{number}.{pod.subdomain}\n"
                for number in range(self.members)
            )
        (pod.disk / "mnesia").mkdir()
        (pod.disk / ".erlang.cookie").write_text(_COOKIE)
        (pod.disk / ".erlang.cookie").chmod(0o400)
        for name, text in config.items():
            (pod.disk / name).write_text(text + (SMALL if name == "rabbitmq.conf" else ""))
        pod.run("chown", "-R", f"{_USER}:{_USER}", pod.volume)

    def _environment(self, pod: Pod) -> dict[str, str]:
        volume = pod.volume
        return {
            "HOME": volume, "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"rabbit@{pod.fqdn}", "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_MNESIA_BASE": f"{volume}/mnesia", "RABBITMQ_LOG_BASE": volume,
            "RABBITMQ_CONFIG_FILE": f"{volume}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{volume}/enabled_plugins",
            "RABBITMQ_PID_FILE": "/run/rabbitmq.pid",
            # Two cores carry everything: schedulers that spin would take them.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }  # fmt: skip

    def has_started(self, pod: Pod) -> bool:
        """Return whether a node's log says so."""
        return b"Server startup complete" in self._said(pod)

    def _said(self, pod: Pod) -> bytes:
        """Return what the server that was started last has logged."""
        with (pod.folder / f"{pod.name}.log").open("rb") as log:
            log.seek(self._logged[pod])
            return log.read()

    def running(self, pod: Pod) -> list[str]:
        """Return the running nodes that a node sees, without "rabbit@". Raises PodError.

        rabbitmqctl would say the same, and take a second of a processor.
        """
        said = pod.run(
            "erl_call", "-name", f"rabbit@{pod.fqdn}", "-c", _COOKIE, "-timeout", "10",
            "-a", "rabbit_nodes all_running []", timeout=15.0,
        )  # fmt: skip
        return sorted(re.findall(r"rabbit@([\w.-]+)", said))

    def free(self, pod: Pod) -> None:
        """Kill a server that hangs as it starts, and start it again; an operator would.

        Before 3.10.9, RabbitMQ cannot undo a deadlock of Erlang 25.1's `global` between nodes that
        lose one another as they start (rabbitmq-server, issue 6034), and says only that it tries.
        """
        if time.monotonic() - self._started[pod] > _HANGS and _TRIES in self._said(pod) and not self.has_started(pod):
            pod.run("sh", "-c", _KILL)
            self.start(pod)

    def whole(self, pods: Sequence[Pod]) -> bool:
        names = sorted(pod.fqdn for pod in pods)
        for pod in pods:
            self.free(pod)
            assert self.has_started(pod), f"{pod.name} starts"
        for pod in pods:
            seen = self.running(pod)
            assert seen == names, f"{pod.name} sees {seen}"
        return True

    def answers(self, pod: Pod) -> bool:
        """Return what the example's readiness probe would find."""
        return self.has_started(pod) and pod.fqdn in self.running(pod)

    def is_member(self, pod: Pod, pods: Sequence[Pod]) -> bool:
        """Return whether one node sees all of these. It costs less than asking each."""
        seen = self.running(pod)
        assert seen == sorted(one.fqdn for one in pods), f"{pod.name} sees {seen}"
        return True

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Start the members one after the other, as OrderedReady does; return when they are one
        cluster.
        """
        pods: list[Pod] = []
        for number, address in enumerate(addresses):
            pod = site.member(number, address)
            pods.append(pod)
            self.start(pod)
            site.timed(lambda pod=pod: self.has_started(pod), FORMS, f"{pod.name} runs")
        site.timed(lambda: self.is_member(pods[0], pods), FORMS, "one cluster")
        return pods

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start members that had all ended, at the same time."""
        for pod in pods:
            self.start(pod)

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Publish messages to a quorum queue through a host. Raises PodError."""
        client.run("python3", "-c", PUT, host, *texts)

    def get(self, client: Pod, host: str) -> list[str]:
        """Take all messages of the queue through a host. Raises PodError."""
        return client.run("python3", "-c", GET, host).split()
