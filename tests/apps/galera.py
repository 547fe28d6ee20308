"""MariaDB with Galera, Debian's mariadb-server and galera-4.

`named` is `examples/galera`: the three pod names in gcomm://, with publishNotReadyAddresses; its
script decides who makes the cluster. `ready` joins through the headless name of a Service that has
ready members only. `own` is the mistake between the two: the headless name, and
publishNotReadyAddresses. Galera takes the first address that getaddrinfo gives, once. glibc sorts
by the longest common prefix (RFC 6724, rule 9), so that the pod's own address is first as soon as
it is in the set, and Galera leaves itself out: no peer remains.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

from tests.apps import examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.apps.pods import Pod
    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 90.0  # seconds for a member; about 5 on an idle machine
_USER: Final = "mysql"
_SERVER: Final = ("/usr/sbin/mariadbd", "--defaults-file=/disk/my.cnf", f"--user={_USER}")
#: Around the example's configuration: where things are, less of the machine, and shorter waits for
#: a member that is dead.
_SMALL: Final = """\
[mysqld]
datadir={volume}/data
socket={volume}/mysqld.sock
pid-file={volume}/mysqld.pid
innodb_flush_log_at_trx_commit=2
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
performance_schema=OFF
key_buffer_size=1M
wsrep_provider_options="gcache.size=16M;gmcast.peer_timeout=PT3S;evs.suspect_timeout=PT5S"
!include {volume}/galera.cnf
"""

_CLIENT: Final = """
import pymysql, sys
connection = pymysql.connect(host=sys.argv[1], user="app", password="app", database="app", connect_timeout=5)
cursor = connection.cursor()
for text in sys.argv[2:]:
    cursor.execute("INSERT INTO t (v) VALUES (%s)", text)
connection.commit()
cursor.execute("SELECT v FROM t ORDER BY id")
print(*(row[0] for row in cursor.fetchall()), sep="\\n")
"""


class Galera:
    """The system; `joins` is "ready", "named" or "own", for `members` servers."""

    name = "galera"
    service = "galera"

    def __init__(self, joins: str = "ready", members: int = 3) -> None:
        self.joins, self.members = joins, members
        self.publish_not_ready = joins != "ready"
        self.ports = examples.ports(self.name)

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        """Start the server; whether `first` matters only where no script decides."""
        if not (pod.disk / "data").exists():
            self._prepare(pod)
        config = examples.config(self.name)
        if self.joins != "named":
            address = f"wsrep_cluster_address=gcomm://{pod.subdomain}"
            config["galera.cnf"] = re.sub(r"(?m)^wsrep_cluster_address=.*$", address, config["galera.cnf"])
        for name, text in config.items():
            (pod.disk / name).write_text(text)
        (pod.disk / "my.cnf").write_text(_SMALL.format(volume=pod.volume))
        log = pod.folder / f"{pod.name}.log"
        if self.joins != "named":
            new = ["--wsrep-new-cluster"] if first else []
            return pod.start(*_SERVER, f"--wsrep-node-address={pod.address}", *new, log=log)
        entrypoint = pod.disk / "bin" / "docker-entrypoint.sh"
        entrypoint.parent.mkdir(exist_ok=True)
        entrypoint.write_text(f'#!/bin/sh\nshift\nexec {" ".join(_SERVER)} "$@"\n')
        entrypoint.chmod(0o755)
        pod.run("mount", "--bind", f"{pod.volume}/data", "/var/lib/mysql")
        env = {"PATH": f"{pod.volume}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "POD_IP": pod.address}
        return pod.start("bash", f"{pod.volume}/start.sh", log=log, env=env)

    def _prepare(self, pod: Pod) -> None:
        pod.run("chown", f"{_USER}:{_USER}", pod.volume)
        # All begin with the same empty database: its making takes seconds.
        fresh = pod.disk.parent / "fresh"
        if not fresh.exists():
            pod.run(
                "mariadb-install-db", "--no-defaults", f"--datadir={pod.volume}/data",
                "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", user=_USER,
            )  # fmt: skip
            subprocess.run(["cp", "-a", pod.disk / "data", fresh], check=True)
        else:
            subprocess.run(["cp", "-a", fresh, pod.disk / "data"], check=True)

    def sql(self, pod: Pod, text: str) -> str:
        """Run SQL as root in a pod. Raises PodError."""
        return pod.run(
            "mariadb", "--no-defaults", f"--socket={pod.volume}/mysqld.sock", "-uroot", "-NBe", text, timeout=20
        ).strip()

    def status(self, pod: Pod) -> dict[str, str]:
        """Return the wsrep_ status variables of a server."""
        lines = self.sql(pod, "SHOW STATUS LIKE 'wsrep_%'").splitlines()
        return dict(line.split("\t", 1) for line in lines if "\t" in line)

    def is_member(self, pod: Pod, pods: Sequence[Pod]) -> bool:
        """Return whether a server is in the primary component, of as many as these, and synced."""
        status = self.status(pod)
        seen = (status["wsrep_cluster_size"], status["wsrep_cluster_status"], status["wsrep_local_state_comment"])
        assert seen == (str(len(pods)), "Primary", "Synced"), f"{pod.name} is {seen}"
        return True

    def answers(self, pod: Pod) -> bool:
        """Return what the example's readiness probe would find."""
        status = self.status(pod)
        return status["wsrep_cluster_status"] == "Primary" and status["wsrep_local_state_comment"] == "Synced"

    def whole(self, pods: Sequence[Pod]) -> bool:
        return all(self.is_member(pod, pods) for pod in pods)

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Start the members one after the other, as OrderedReady does: the first makes the cluster.

        Return when all have joined and are ready.
        """
        pods: list[Pod] = []
        for number, address in enumerate(addresses):
            pod = site.member(number, address)
            pods.append(pod)
            self.start(pod, first=number == 0)
            site.timed(lambda pod=pod: self.is_member(pod, pods), FORMS, f"{pod.name} has joined")
            site.set_ready(pod)
        self.make_database(pods[0])
        return pods

    def make_database(self, pod: Pod) -> None:
        """Make the clients' table and user through a server."""
        self.sql(
            pod,
            "CREATE DATABASE app; CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40));"
            "CREATE USER app IDENTIFIED BY 'app'; GRANT ALL ON app.* TO app",
        )

    def most_advanced(self, pods: Sequence[Pod]) -> int:
        """Return which of stopped members may make the cluster again (grastate.dat)."""
        for number, pod in enumerate(pods):
            if "safe_to_bootstrap: 1" in (pod.disk / "data" / "grastate.dat").read_text():
                return number
        raise ValueError("no member may make the cluster")

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start members that had all stopped: the newest makes the cluster, the others join it."""
        if self.joins == "named":
            for pod in pods:
                self.start(pod)
            return
        first = pods[self.most_advanced(pods)]
        self.start(first, first=True)
        site.timed(lambda: self.is_member(first, [first]), FORMS, "the first is back")
        site.set_ready(first)
        for pod in pods:
            if pod is not first:
                self.start(pod)

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write rows through a host. Raises PodError."""
        client.run("python3", "-c", _CLIENT, host, *texts)

    def get(self, client: Pod, host: str) -> list[str]:
        """Read all rows through a host, in their order. Raises PodError."""
        return re.findall(r".+", client.run("python3", "-c", _CLIENT, host))
