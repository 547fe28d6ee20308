"""`make apps-record` writes `recorded/` anew: what each system asks, by a run of each."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.apps import recorded, roots
from tests.apps.cluster import Clustered
from tests.apps.galera import Galera
from tests.apps.rabbitmq import RabbitMQ
from tests.apps.site import Site

SYSTEMS: Final[dict[str, Callable[[], Clustered]]] = {"rabbitmq": RabbitMQ, "galera": Galera}


def record(system: Clustered) -> None:
    """Run a system through its phases, and write what it asked."""
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder), system, root=roots.make()) as site:
        recording = recorded.Recording(site)
        pods = system.form(site, [f"10.44.1.{number + 1}" for number in range(3)])
        recording.phase("form")
        client = site.client()
        system.put(client, site.service_name, "one")
        system.get(client, pods[2].fqdn)
        recording.phase("client")
        pods[2] = site.replace(pods[2], "10.44.2.3")
        site.timed(lambda: system.whole(pods), 120, "a member is back")
        site.set_ready(*pods)
        recording.phase("replace")
        recording.write()
        site.assert_true()


def main() -> int:
    for name in sys.argv[1:] or SYSTEMS:
        record(SYSTEMS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
