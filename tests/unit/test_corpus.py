"""The recorded questions: read as they were written, and answered as they were then."""

from __future__ import annotations

import json
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from headwater.explain.offline import opened
from headwater.settings.settings import Settings
from headwater.writer import once

from bench.serving import questions as benchmark
from tests.apps import corpus, recorded
from tests.apps.recorded import Line

SYSTEMS = corpus.systems()
#: All members are up, and one client asks: every answer is that of a whole cluster.
STEADY = "client"


def test_there_are_recordings() -> None:
    assert set(SYSTEMS) == {"cassandra", "galera", "kafka", "mongodb", "rabbitmq"}


def test_a_recording_is_a_world_and_its_questions() -> None:
    texts = ["# service db sql=3306 peer=4567", "# zone cluster.local", "# member db-0 10.44.1.1",
             "# member db-1 10.44.1.2", "# client client 10.44.9.9", "# member db-1 10.44.2.2"]  # fmt: skip
    lines = [
        Line(2, "db.default.svc.cluster.local.default.svc.cluster.local", "A", "NXDOMAIN", "client", "client"),
        Line(1, "2.1.44.10.in-addr.arpa", "PTR", "NOERROR", "db-0", "form"),
        Line(1, "_sql._tcp.db.default.svc.cluster.local", "SRV", "NOERROR", "client", "client"),
    ]
    found = corpus.parse("db", texts, lines)
    assert (found.service, found.ports) == ("db", (("sql", 3306), ("peer", 4567)))
    assert found.members == (("db-0", ("10.44.1.1",)), ("db-1", ("10.44.1.2", "10.44.2.2")))
    moved = [*found.questions("prod", "example.test", lambda address: address.replace("10.44.", "10.99."))]
    twice = ("db.prod.svc.example.test.prod.svc.example.test", "A")
    assert moved == [twice, twice, ("2.1.99.10.in-addr.arpa", "PTR"), ("_sql._tcp.db.prod.svc.example.test", "SRV")]
    addresses = [[item["addresses"] for item in found.objects(at=at)[1]["endpoints"]] for at in (0, -1)]
    assert addresses == [[["10.44.1.1"], ["10.44.1.2"]], [["10.44.1.1"], ["10.44.2.2"]]]


@pytest.mark.parametrize("texts", [["# member db-0 10.44.1.1"], ["# service db sql=1"]])
def test_a_recording_without_its_world_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="names its service and its members"):
        corpus.parse("db", texts, [Line(1, "db", "A", "NOERROR", "client", "client")])


def searched(system: str) -> list[Line]:
    """Return a client's first eight questions for the headless name, with its search list."""
    found = corpus.read(system)
    base = f"{found.service}.default.svc.cluster.local"
    lines = [line for line in found.lines if line.asker == "client" and line.phase == STEADY]
    lookup = [line for line in lines if line.name.startswith(base) and line.qtype in ("A", "AAAA")]
    return lookup[:8] if any(line.name != base for line in lookup) else []


def test_of_a_clients_lookup_of_the_headless_name_six_of_eight_are_nxdomain() -> None:
    """With ndots:5 the search list comes first, and getaddrinfo asks for A and AAAA."""
    lookups = {system: searched(system) for system in SYSTEMS}
    assert lookups["galera"]
    assert lookups["rabbitmq"]
    for system, lines in lookups.items():
        rcodes = [line.rcode for line in lines]
        assert rcodes.count("NXDOMAIN") == 6 or not lines, (system, rcodes)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_was_asked_of_the_whole_cluster_is_answered_as_it_was(system: str, tmp_path: Path) -> None:
    found = corpus.read(system)
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": found.objects(at=0)}))
    settings = Settings(manifests=(str(file),), reverse_zones=("in-addr.arpa",))
    once.write(settings, tmp_path / "state")
    steady = [line for line in found.lines if line.phase == STEADY]
    assert steady
    with opened(tmp_path / "state", settings) as (reader, resolver):
        snapshot = reader.begin()
        try:
            for line in steady:
                reply = resolver.answer(dns.message.make_query(line.name, line.qtype).to_wire(), snapshot)
                assert isinstance(reply, bytes)
                message = dns.message.from_wire(reply)
                rcode = dns.rcode.to_text(message.rcode())
                said = "NODATA" if rcode == "NOERROR" and not message.answer else rcode
                assert said == line.rcode, line
        finally:
            assert snapshot is not None
            snapshot.close()


def test_every_recording_is_a_mix_of_the_benchmark() -> None:
    titles = {case.title for case in benchmark.RECORDED}
    assert titles == {f"{system}, recorded" for system in SYSTEMS}
    for case, system in zip(benchmark.RECORDED, SYSTEMS, strict=True):
        asked = sum(line.count for line in recorded.read(system) if line.qtype != "PTR")
        assert len(case.questions) == asked
        assert all(name.endswith(".cluster.local") for name, _ in case.questions)
        assert case in benchmark.CASES
