"""Whatever fault a request meets, the store ends equal to a fresh list,
and no name is wrong meanwhile.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from headwater.cluster.objects import Resource

from tests.fakeapi import faults
from tests.fakeapi.cluster import APP, EVERYTHING, app, cluster
from tests.fakeapi.faults import error_event, lines_first, metadata
from tests.fakeapi.role import IMPATIENT
from tests.fakeapi.server import FakeApiServer, Fault, Verb, status_body
from tests.fakeapi.watching import DEADLINE, Watching, longest_rush
from tests.harness.processes import wait_until

#: The most requests without a pause between them.
_PATIENT: Final = 3
#: How many requests meet a fault: enough to notice a loop without a pause.
_MET: Final = _PATIENT + 2

_HTML: Final = b"<html><body>Please log in</body></html>"
_DEEP: Final = b'{"metadata":' * 100_000

#: Faults of lists and watches.
BOTH: Final[dict[str, Fault]] = {
    "500": faults.status(500),
    "502 of a proxy": faults.text(502, b"Bad Gateway"),
    "503": faults.status(503),
    "504": faults.status(504),
    "400": faults.status(400),
    "401": faults.status(401),
    "403": faults.status(403),
    "404 of a proxy": faults.text(404, b"no such page"),
    "429": faults.status(429),
    "a version too large": faults.too_large,
    "a hang": faults.hang,
    "a reset before the head": faults.reset,
    "a reset at the first byte": faults.cut(1),
    "a reset in the body": faults.cut(300),
    "silence at the first byte": faults.silent(0),
    "silence in the body": faults.silent(300),
    "an end in the middle": faults.short(300),
    "an end without a length": faults.closed(300),
    "an empty body": faults.short(0),
    "a login page": faults.text(200, _HTML),
    "not UTF-8": faults.text(200, b"\xff\xfe\xfd\n", "application/json"),
    "no JSON": faults.text(200, b"{]\n", "application/json"),
    "nested without an end": faults.text(200, _DEEP + b"\n", "application/json"),
    "a Status with 200": faults.text(200, status_body(500, "InternalError", "injected"), "application/json"),
    "said to be gzip": faults.not_gzip,
    "not HTTP": faults.raw(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "a status alone": faults.raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a redirect": faults.raw(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"),
    "a header without an end": faults.raw(b"HTTP/1.1 200 OK\r\nX: " + bytes(200_000)),
    "a chunk without a size": faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "half a gzip": faults.gzip_cut,
}
LIST: Final[dict[str, Fault]] = {
    **BOTH,
    "410": faults.status(410),
    "no resourceVersion": metadata(resourceVersion=None),
    "an empty resourceVersion": metadata(resourceVersion=""),
    "metadata of another type": faults.text(200, b'{"metadata":[],"items":[]}', "application/json"),
    "items of another type": faults.text(200, b'{"metadata":{"resourceVersion":"9"},"items":7}', "application/json"),
    "not UTF-8 in an object": faults.more_items(b'{"metadata":{"name":"\xff"}'),
    "an item that does not end": faults.more_items(b'{"metadata":{"name":"x"}'),
}
WATCH: Final[dict[str, Fault]] = {
    **{name: fault for name, fault in BOTH.items() if name != "half a gzip"},
    "410 as a status": faults.status(410),
    "410 as an event": lines_first(error_event(410)),
    "500 as an event": lines_first(error_event(500)),
    "504 as an event": lines_first(error_event(504)),
    "an error of no kind": lines_first(b'{"type":"ERROR","object":null}\n'),
    "a version too large as an event": lines_first(error_event(504, "Too large resource version: 9, current: 1")),
    "a line of garbage": lines_first(b"garbage\n"),
    "a line that is not UTF-8": lines_first(b'{"type":"ADDED","object":{"metadata":{"name":"\xff\xfe"}}}\n'),
    "an event without an object": lines_first(b'{"type":"ADDED"}\n'),
    "a list of events": lines_first(b"[]\n"),
    "an end at once": lambda exchange: exchange.serve(events=lambda _: ()),
}  # fmt: skip


#: One process meets one fault with each of these resources at a time.
_RESOURCES: Final[tuple[Resource, ...]] = ("endpointslices", "services", "pods", "namespaces", "serviceimports")


def batches(table: Mapping[str, Fault]) -> list[Any]:
    """Return the faults of a table as parameters, five at a time, each for another resource."""
    names = list(table)
    found = []
    for at in range(0, len(names), len(_RESOURCES)):
        some = names[at : at + len(_RESOURCES)]
        batch = {resource: table[name] for resource, name in zip(_RESOURCES, some, strict=False)}
        found.append(pytest.param(batch, id=", ".join(some)))
    return found


def suffer(api: FakeApiServer, watching: Watching, verb: Verb, batch: Mapping[Resource, Fault]) -> None:
    """Break every watch, answer only with its resource's fault for a while, then heal and compare.

    The while ends when the fault was met often enough, or if the fault leaves a watch open.
    """
    began = time.monotonic()
    for resource, fault in batch.items():
        api.on(verb, resource, fault, times=float("inf"))
    api.break_watches()

    def enough(resource: Resource) -> bool:
        asked = api.asked(verb, resource, began)
        is_open = verb == "watch" and asked[-1].status == 200 and not asked[-1].ended
        return is_open or len(asked) >= _MET

    for resource in batch:
        watching.until_asked(1, verb, resource, since=began)
        wait_until(functools.partial(enough, resource), DEADLINE, f"{resource} has met its fault")
    api.heal()
    watching.until(APP, "10.44.9.2")
    watching.check()
    for resource in batch:
        assert longest_rush(api.asked(resource=resource, since=began)) <= _PATIENT, resource


@pytest.mark.parametrize(
    ("mode", "batch"),
    [
        *(pytest.param("pages", *batch.values, id=f"pages: {batch.id}") for batch in batches(LIST)),
        *(pytest.param("stream", *batch.values, id=f"stream: {batch.id}") for batch in batches(WATCH)),
    ],
)
def test_list_that_fails_is_taken_again_with_patience(
    mode: str, batch: Mapping[Resource, Fault], tmp_path: Path
) -> None:
    """Once at the start, with SERVFAIL until a list succeeds, and again
    when everything is listed again.
    """
    verb: Verb = "list" if mode == "pages" else "watch"
    with cluster(tmp_path, *EVERYTHING, "--list", mode, timing=IMPATIENT) as (api, watching):
        for resource, fault in batch.items():
            api.on(verb, resource, fault)
        watching.ready()
        api.truth.put(app(2))
        api.truth.compact()
        suffer(api, watching, verb, batch)


@pytest.mark.parametrize("batch", batches(WATCH))
def test_watch_that_fails_is_resumed_with_patience(batch: Mapping[Resource, Fault], tmp_path: Path) -> None:
    with cluster(tmp_path, timing=IMPATIENT) as (api, watching):
        watching.ready()
        api.truth.put(app(2))
        suffer(api, watching, "watch", batch)


# Strange, but harmless


@pytest.mark.parametrize("mode", ["pages", "stream"])
@pytest.mark.parametrize(
    "fault",
    [faults.split(1), faults.split(7), faults.gzipped, faults.items(lambda given: given)],
    ids=["byte by byte", "in sevens", "gzip", "as it is"],
)
def test_body_may_come_in_any_pieces_and_compressed(fault: Fault, mode: str, tmp_path: Path) -> None:
    """Every object has characters of two, three and four bytes."""
    with cluster(tmp_path, "--list", mode) as (api, watching):
        api.on(None, "endpointslices", fault, times=float("inf"))
        api.on(None, "services", fault, times=float("inf"))
        watching.ready()
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert api.count(resource="endpointslices") == (2 if mode == "pages" else 1)
