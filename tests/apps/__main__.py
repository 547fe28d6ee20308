"""`make apps-record` and `make apps-table`: what each system asks, and how fast it recovers.

python -m tests.apps record [SYSTEM ...]    write recorded/SYSTEM.txt anew
python -m tests.apps table [SYSTEM ...]     write the table of docs/systems/README.md anew
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.apps import measure, recorded, roots
from tests.apps.cassandra import Cassandra
from tests.apps.cluster import ADDRESSES, BACK, Clustered
from tests.apps.galera import Galera
from tests.apps.kafka import Kafka
from tests.apps.mongodb import MongoDB
from tests.apps.rabbitmq import RabbitMQ
from tests.apps.site import Site

SYSTEMS: Final[dict[str, Callable[[], Clustered]]] = {
    "rabbitmq": RabbitMQ,
    "galera": Galera,
    "kafka": Kafka,
    "mongodb": MongoDB,
    "cassandra": Cassandra,
}


def record(system: Clustered) -> None:
    """Run a system through its phases, and write what it asked."""
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder), system, root=roots.of(system.name)) as site:
        recording = recorded.Recording(site)
        pods = system.form(site, ADDRESSES)
        recording.phase("form")
        client = site.client()
        system.put(client, site.service_name, "one")
        system.get(client, pods[2].fqdn)
        recording.phase("client")
        pods[2] = site.replace(pods[2], "10.44.2.3")
        site.timed(lambda: system.whole(pods), BACK, "a member is back")
        site.set_ready(*pods)
        recording.phase("replace")
        recording.write()
        site.assert_true()


def main() -> int:
    verb, *names = sys.argv[1:] or [""]
    if verb == "record":
        for name in names or SYSTEMS:
            record(SYSTEMS[name]())
    elif verb == "table":
        print(measure.write(names or list(measure.SYSTEMS)))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
