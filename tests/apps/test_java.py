"""How long a JVM goes on with what DNS said, by its settings: seen by how often it asks again."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import examples, java
from tests.apps.kafka import Kafka
from tests.apps.roots import LONG, require_pods
from tests.apps.site import Site
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.apps.pods import Pod

pytestmark = [
    pytest.mark.coredns,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=java"),
]

#: By its options: seconds for which a JVM keeps an address, and a failure. The options that people
#: give do not shorten the second: conf/security/java.security sets it, and that counts first.
KEPT: Final = {
    "": (30, 10),
    "-Dsun.net.inetaddr.ttl=5 -Dsun.net.inetaddr.negative.ttl=1": (5, 10),
    "-Djava.security.properties={file}": (5, 1),
}
#: What a JVM that asks ten times a second may be late on a busy machine, in seconds.
LATE: Final = 4.0
#: A capture and a clock of the JVM's own.
EARLY: Final = 0.5


def test_a_jvm_keeps_an_address_for_30_s_and_a_failure_for_10_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    require_pods()
    java.require("kafka")
    subprocess.run(["javac", "-d", tmp_path, java.HERE / "Resolve.java"], check=True, capture_output=True)
    file = tmp_path / "dns.security"
    file.write_text(examples.config("kafka")["dns.security"])
    with Site(tmp_path / "site", Kafka()) as site:
        there = site.member(0, "10.44.1.1").fqdn
        absent = there.replace("kafka-0", "kafka-1")
        site.wait_dns(there, ["10.44.1.1"])
        clients: dict[str, Pod] = {}
        for number, options in enumerate(KEPT):
            clients[options] = client = site.client(f"10.44.9.{number + 10}")
            for name in (there, absent):
                words = [*java.options(16), *options.format(file=file).split(), "-cp", str(tmp_path)]
                client.start("java", *words, "Resolve", name, log=tmp_path / f"{client.name}-{name}.log")

        def asked(options: str, name: str) -> list[float]:
            return [
                one.sent
                for one in site.wire.exchanges()
                if (one.client, one.name, one.qtype) == (clients[options].address, name, "A")
            ]

        pairs = [(options, name) for options in KEPT for name in (there, absent)]
        wait_until(
            lambda: all(len(asked(*pair)) >= 3 for pair in pairs), 200.0, "each has asked three times", interval=1.0
        )
        for options, kept in KEPT.items():
            for name, seconds in zip((there, absent), kept, strict=True):
                soonest = min(after - before for before, after in pairwise(asked(options, name)))
                site.say(f"{options or 'no option'}: {name.partition('.')[0]} again after {soonest:.2f} s")
                assert seconds - EARLY <= soonest <= seconds + LATE, (options, name)
        site.assert_true()
