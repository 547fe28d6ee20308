"""An answer process's reports of failed queries: bugs, and pages that cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import dns.message
import dns.rcode
import lmdb
import pytest
from headwater.answer.resolver import Resolver
from headwater.serve import queries as module
from headwater.serve.queries import Failed, Queries
from headwater.serve.upstream import Upstream
from headwater.store.environment import Reader, Snapshot
from headwater.store.identity import is_condemned

from tests.harness.small import Small, cluster_ip

WEB = dns.message.make_query("web.default.svc.cluster.local", "A").to_wire()


@pytest.fixture
def serving(tmp_path: Path) -> tuple[Queries, Reader, Resolver]:
    small = Small(tmp_path).fill(cluster_ip("web", "172.16.0.1"))
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    resolver = Resolver(reader, small.settings)
    return Queries(reader, resolver, Upstream([])), reader, resolver


def test_a_page_that_cannot_be_read_is_servfail_and_the_writer_is_told(
    serving: tuple[Queries, Reader, Resolver], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queries, reader, resolver = serving
    answer = resolver.answer
    broken = [True]

    def damaged(query: bytes, snapshot: Snapshot | None) -> object:
        if snapshot is not None and broken.pop():
            broken.append(False)
            raise lmdb.CorruptedError("mdb_get")
        return answer(query, snapshot)

    monkeypatch.setattr(resolver, "answer", damaged)
    session = queries.begin()
    replies = [session.answer(WEB), session.answer(WEB)]
    session.end()
    first, second = (dns.message.from_wire(reply) for reply in replies if isinstance(reply, bytes))
    assert (first.rcode(), [str(item) for item in first.question]) == (
        dns.rcode.SERVFAIL, ["web.default.svc.cluster.local. IN A"],
    )  # fmt: skip
    assert second.rcode() == dns.rcode.NOERROR
    assert second.answer, "the same batch goes on, from another transaction"
    assert is_condemned((tmp_path / "current").resolve())
    assert (queries.snapshot().damage, queries.snapshot().failures) == (1, 0)
    reader.close()


def test_a_bug_is_logged_once_a_minute_with_how_many_there_were(
    serving: tuple[Queries, Reader, Resolver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queries, reader, resolver = serving
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(resolver, "answer", lambda *_: 1 // 0)
    for moment in (1000.0, 1001.0, 1002.0, 1061.0):
        now[0] = moment
        with pytest.raises(Failed):
            queries.answer(WEB)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert lines == [
        "a query could not be answered",
        "a query could not be answered (2 more since the last line)",
    ]
    assert queries.snapshot().failures == 4
    reader.close()
