"""MariaDB with Galera, Debian's mariadb-server and galera-4.

`ready` joins through the headless name of a Service that has ready members only. `named` has the
three pod names in gcomm://, with publishNotReadyAddresses. `own` is the mistake between the two:
the headless name, and publishNotReadyAddresses. Galera takes the first address that getaddrinfo
gives, once. glibc sorts by the longest common prefix (RFC 6724, rule 9), so that the pod's own
address is first as soon as it is in the set, and Galera leaves itself out: no peer remains.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.apps.pods import Pod
    from tests.apps.site import Site
    from tests.harness.processes import Running

FORMS: Final = 90.0  # seconds for a member; about 5 on an idle machine
_USER: Final = "mysql"

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
        self.ports = {"mysql": 3306, "galera": 4567}

    def start(self, pod: Pod, *, first: bool = False) -> Running:
        if not (pod.disk / "data").exists():
            self._prepare(pod)
        peers = pod.subdomain
        if self.joins == "named":
            peers = ",".join(f"{self.name}-{number}.{pod.subdomain}" for number in range(self.members))
        volume = pod.volume
        (pod.disk / "my.cnf").write_text(f"""\
[mysqld]
datadir={volume}/data
socket={volume}/mysqld.sock
pid-file={volume}/mysqld.pid
bind-address=0.0.0.0
skip-name-resolve
binlog_format=ROW
default_storage_engine=InnoDB
innodb_autoinc_lock_mode=2
innodb_flush_log_at_trx_commit=2
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
performance_schema=OFF
key_buffer_size=1M
wsrep_on=ON
wsrep_provider=/usr/lib/galera/libgalera_smm.so
wsrep_provider_options="gcache.size=16M;gmcast.peer_timeout=PT3S;evs.suspect_timeout=PT5S"
wsrep_cluster_name=headwater
wsrep_cluster_address=gcomm://{peers}
wsrep_node_name={pod.name}
wsrep_node_address={pod.address}
wsrep_sst_method=rsync
""")
        return pod.start(
            "/usr/sbin/mariadbd", f"--defaults-file={volume}/my.cnf", f"--user={_USER}",
            *(["--wsrep-new-cluster"] if first else []), log=pod.folder / f"{pod.name}.log",
        )  # fmt: skip

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
        self.sql(
            pods[0],
            "CREATE DATABASE app; CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40));"
            "CREATE USER app IDENTIFIED BY 'app'; GRANT ALL ON app.* TO app",
        )
        return pods

    def most_advanced(self, pods: Sequence[Pod]) -> int:
        """Return which of stopped members may make the cluster again (grastate.dat)."""
        for number, pod in enumerate(pods):
            if "safe_to_bootstrap: 1" in (pod.disk / "data" / "grastate.dat").read_text():
                return number
        raise ValueError("no member may make the cluster")

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write rows through a host. Raises PodError."""
        client.run("python3", "-c", _CLIENT, host, *texts)

    def get(self, client: Pod, host: str) -> list[str]:
        """Read all rows through a host, in their order. Raises PodError."""
        return re.findall(r".+", client.run("python3", "-c", _CLIENT, host))
