"""How long a JVM goes on with what DNS no longer says, by its settings."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import java
from tests.apps.kafka import Kafka
from tests.apps.roots import LONG, require_pods
from tests.apps.site import Site
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.coredns,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=java"),
]

#: By the options' `ttl`: seconds for which a JVM keeps an address, and a failure.
KEPT: Final = {None: (30, 10), 5: (5, 5), 0: (0, 0)}
#: A JVM that asks ten times a second may be so late on a busy machine, in seconds.
LATE: Final = 15.0


def test_a_jvm_keeps_an_address_for_30_s_and_a_failure_for_10_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    require_pods()
    java.require("kafka")
    source = java.HERE / "Resolve.java"
    subprocess.run(["javac", "-d", tmp_path, source], check=True, capture_output=True)
    with Site(tmp_path / "site", Kafka()) as site:
        pod = site.member(0, "10.44.1.1")
        site.wait_dns(pod.fqdn, [pod.address])
        absent = pod.fqdn.replace("kafka-0", "kafka-1")
        client = site.client()
        logs = {}
        began = time.monotonic()
        for ttl in KEPT:
            for name in (pod.fqdn, absent):
                log = logs[ttl, name] = tmp_path / f"{name}-{ttl}.log"
                client.start("java", *java.options(16, ttl=ttl), "-cp", tmp_path, "Resolve", name, log=log)

        def said(address: str) -> bool:
            return all(
                log.read_text().split()[-1:] == [address if name == pod.fqdn else "none"]
                for (_, name), log in logs.items()
            )

        wait_until(lambda: said("10.44.1.1"), 60.0, "each JVM has asked")
        site.remove(pod)
        site.member(0, "10.44.2.1", publish=False)
        other = site.member(1, "10.44.2.2")
        site.wait_dns(pod.fqdn, ["10.44.2.1"])
        site.wait_dns(other.fqdn, ["10.44.2.2"])
        changed = time.monotonic()
        seen: dict[tuple[int | None, str], float] = {}

        def all_seen() -> bool:
            for (ttl, name), log in logs.items():
                if log.read_text().split()[-1] == ("10.44.2.1" if name == pod.fqdn else "10.44.2.2"):
                    seen.setdefault((ttl, name), time.monotonic())
            return len(seen) == len(logs)

        wait_until(all_seen, 60.0, "each JVM has the new address", interval=0.1)
        for ttl, (address, failure) in KEPT.items():
            for name, kept in ((pod.fqdn, address), (absent, failure)):
                took = seen[ttl, name]
                site.say(f"{name.partition('.')[0]}, ttl {ttl}: {took - changed:.1f} s after DNS had it")
                # It asked for the first time after `began`, and may have asked again just before.
                assert took <= changed + kept + LATE, (ttl, name)
                assert kept < 10 or took >= began + kept, (ttl, name)
        site.assert_true()
