"""The faults.

Each is a block: its beginning breaks something, and its end mends it, if necessary.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dns.message
import grpc
import psutil
import trustme
from headwater.commands.query import question
from headwater.serve.service import QUERY, pack, unpack
from headwater.wire.names import name as wire_name

from tests.faults.test_damage import LEAF, PAGE, pages
from tests.harness.arena import ROOM, SERVICES, SETTLE, pause, slice_of
from tests.harness.attack import Attack, has_a_great_head, never_reads, says_nothing, sends_slowly, talks_nonsense
from tests.harness.plane import PlaneError
from tests.harness.processes import wait_until
from tests.siege.ground import MERGE, Ground, Note
from tests.wire.elsewhere import Elsewhere

#: The promised time to replace a hung process, with a margin for a busy machine, in seconds.
ANSWERED: Final = 5.0
WATCH_HUNG: Final = 20.0
HEALED: Final = 20.0
SLACK: Final = 15.0
#: Connections of an attack: more than the descriptors that the instance may have.
CONNECTIONS: Final = 300
ARRIVALS: Final = 200
ALIASES: Final = 40
#: KiB that are free for some time before the disk has room again: enough for one list, not for two.
PARTLY: Final = (100, 200, 300, 500, 800)
PART: Final = 1.3  # seconds of each: a commit is tried again every second

#: The function of a fault. It yields nothing, and writes what the judge needs into the note.
Act = Callable[[Ground, Note], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One row of the table of faults."""

    name: str
    act: Act
    holds: bool
    """Whether it may delay changes."""
    mended: float
    """Seconds after its end within which everything recovers on an idle machine."""
    kind: str
    """Two faults of one kind are not combined."""


# Processes that hang


@contextmanager
def _stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def hang(*titles: str) -> Act:
    @contextmanager
    def act(ground: Ground, note: Note) -> Iterator[None]:
        pids = ground.complete_pids()
        note.proofs += [ground.rises(f'headwater_process_killed_total.*"{title}"') for title in titles]
        began = time.monotonic()
        with _stopped(*(pids[title] for title in titles)):
            if any(title.startswith("answer") for title in titles):
                note.hung.append((began, began + ANSWERED))
            yield

            def replaced() -> bool:
                now = ground.headwater.pids()
                return all(now.get(title, pids[title]) != pids[title] for title in titles)

            wait_until(replaced, WATCH_HUNG + SLACK, f"{titles} are replaced")
            note.remarks.append(f"replaced within {time.monotonic() - began:.1f} s")

    return act


@contextmanager
def hang_forkserver(ground: Ground, note: Note) -> Iterator[None]:
    """Stop the forkserver while a process has to be forked."""
    pids = ground.complete_pids()
    old = ground.headwater.forkserver().pid
    note.proofs.append(ground.rises('headwater_process_exits_total.*"answer 1"'))
    with _stopped(old):
        began = time.monotonic()
        ground.headwater.kill9("answer 1")
        yield
        wait_until(
            lambda: ground.headwater.pids().get("answer 1", pids["answer 1"]) != pids["answer 1"],
            SETTLE, "answer 1 is back",
        )  # fmt: skip
        note.remarks.append(f"answer 1 back within {time.monotonic() - began:.1f} s")


# The admin port


def abuse(*acts: Callable[[socket.socket], None]) -> Act:
    def anything(client: socket.socket) -> None:
        random.choice(acts)(client)

    @contextmanager
    def act(ground: Ground, note: Note) -> Iterator[None]:
        port = ground.headwater.admin_port
        with Attack(port, CONNECTIONS, anything) as attack:
            began = time.monotonic()
            wait_until(ground.headwater.is_ready, SETTLE, "a probe gets its place")
            waited = time.monotonic() - began
            _kill_watch(ground)  # the new process needs descriptors
            yield
        note.remarks.append(f"{attack.opened:,} connections; a probe waited {waited:.1f} s")

    return act


# Credentials and the API server's certificate


def spoil(*ways: str) -> Act:
    @contextmanager
    def act(ground: Ground, note: Note) -> Iterator[None]:
        note.proofs.append(ground.rises('headwater_watch_errors_total.*"credentials"|headwater_process_exits.*"78"'))
        way = ways[ground.turn() % len(ways)]
        ground.kubeconfig.spoil("credentials", way)
        try:
            _kill_watch(ground)
            yield
        finally:
            ground.kubeconfig.mend("credentials")
        note.remarks.append(f"kubeconfig: {way}")

    return act


def _rotate(ground: Ground) -> bytes:
    """Give the API server a certificate of a new CA for its next start. Return the CA."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    base = ground.folder / f"apiserver-{ground.turn()}"
    certificate, key = base.with_suffix(".crt"), base.with_suffix(".key")
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    ground.plane.serve_with(certificate, key, authority.cert_pem.bytes())
    return authority.cert_pem.bytes()


def _restart_api_server(ground: Ground) -> None:
    with contextlib.suppress(PlaneError):  # another fault has stopped it
        ground.plane.kill("kube-apiserver")
    ground.plane.start("kube-apiserver")


@contextmanager
def server_rotates_first(ground: Ground, note: Note) -> Iterator[None]:
    note.proofs.append(ground.rises('headwater_watch_errors_total.*"unverified"'))
    authority = _rotate(ground)
    _restart_api_server(ground)
    try:
        yield
    finally:
        ground.kubeconfig.trust(authority)


@contextmanager
def kubeconfig_rotates_first(ground: Ground, note: Note) -> Iterator[None]:
    note.proofs.append(ground.rises('headwater_watch_errors_total.*"unverified"'))
    ground.kubeconfig.trust(_rotate(ground))
    _kill_watch(ground)  # an open connection would not ask for the certificate again
    yield
    _restart_api_server(ground)


# The disk


def _leave(ground: Ground, kib: int) -> None:
    """Fill the state directory's file system, and leave this much free."""
    ballast = ground.headwater.state_dir / "ballast"
    status = os.statvfs(ground.headwater.state_dir)
    free = status.f_bavail * status.f_frsize
    size = ballast.stat().st_size if ballast.exists() else 0
    wanted = max(0, size + free - kib * 1024)
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        if wanted < size:
            file.truncate(wanted)
        while file.tell() < wanted:
            file.write(bytes(min(1 << 16, wanted - file.tell())))


@contextmanager
def full_disk(ground: Ground, note: Note) -> Iterator[None]:
    """Have three lists while the disk has no room, a little, then more:
    one is taken, another refused.

    The instance must miss all changes, so that the lists have them: spoilt credentials cut it off.
    """
    assert ground.headwater.state_dir.is_mount(), "no file system could be mounted"
    note.proofs += [
        ground.rises("headwater_commit_failures_total", 2),
        ground.rises(r"headwater_watch_relists_total\b", 2),
    ]
    ground.kubeconfig.spoil("disk", "empty")
    try:
        _kill_watch(ground)
        _change_much(ground)
        ground.plane.compact()
        _restart_api_server(ground)
        _leave(ground, 0)
    finally:
        ground.kubeconfig.mend("disk")
    try:
        _kill_watch(ground)
        yield
        failed = note.proofs[-2]
        with contextlib.suppress(TimeoutError):  # another fault may prevent the lists
            wait_until(lambda: ground.risen(failed) >= failed.least, SLACK, "the lists have met the disk")
        for kib in PARTLY:
            _leave(ground, kib)
            pause(PART)
    finally:
        (ground.headwater.state_dir / "ballast").unlink()


def _change_much(ground: Ground) -> None:
    """Write all Services again without a change for DNS, and add endpoints that need room."""
    stage, turn = ground.arena.stage, ground.turn()
    for number in range(SERVICES):
        ground.plane.api(
            "PATCH", f"/api/v1/namespaces/{stage.namespace}/services/svc-{number}",
            {"spec": {"sessionAffinity": ("None", "ClientIP")[turn % 2]}}, content_type=MERGE,
        )  # fmt: skip
    for number in range(ROOM):
        piece = slice_of(f"room-{number}", f"11.{2 + turn % 2}.{number}", 100)
        with contextlib.suppress(PlaneError):  # there is none the first time
            ground.plane.api("DELETE", f"{stage.slices}/room-{number}")
        ground.plane.api("POST", stage.slices, piece)


def _kill_watch(ground: Ground) -> None:
    """Kill -9 the watch process, unless another fault was faster."""
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        ground.headwater.kill9("watch")


@contextmanager
def damage(ground: Ground, note: Note) -> Iterator[None]:
    """Overwrite every page that has a Service's name with zeros."""
    stage = ground.arena.stage
    current = (ground.headwater.state_dir / "current").resolve()
    name = wire_name(stage.qname(f"svc-{ground.turn() % SERVICES}"))
    # The bytes of a page below `upper` in its header are free, and may be remains of other pages.
    chosen = [
        number
        for number, flags, page in pages(current / "data.mdb")
        if flags & LEAF and name in page[int.from_bytes(page[14:16], "little") :]
    ]
    assert chosen, "no page has the name"
    began = time.monotonic()
    with (current / "data.mdb").open("r+b") as file:
        for number in chosen:
            os.pwrite(file.fileno(), bytes(PAGE), number * PAGE)
    note.damaged.append((began, began + HEALED))
    yield
    # A new store needs a list from the API server, and room on the disk.
    note.damaged.append((began, time.monotonic() + HEALED))
    wait_until(
        lambda: (ground.headwater.state_dir / "current").resolve() != current, SETTLE, "another store is published"
    )
    note.remarks.append(f"{len(chosen)} pages; another store after {time.monotonic() - began:.1f} s")


# Strangers at the DNS port


def half_a_hello(client: socket.socket) -> None:
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(32))


@contextmanager
def flood(ground: Ground, note: Note) -> Iterator[None]:
    """Open silent and half-open connections; meanwhile one with a good certificate must get in."""

    def anything(client: socket.socket) -> None:
        random.choice((says_nothing, half_a_hello, talks_nonsense))(client)

    slowest = 0.0
    with ExitStack() as stack:
        attacks = [
            stack.enter_context(Attack(address.port, ARRIVALS, anything)) for address in ground.headwater.addresses
        ]
        yield
        for index in range(2):
            slowest = max(slowest, _newcomer(ground, index))
    opened = sum(attack.opened for attack in attacks)
    note.remarks.append(f"{opened:,} arrivals; one with a certificate was served after {slowest:.1f} s")
    note.waited = slowest


def _newcomer(ground: Ground, worker: int) -> float:
    """Return the seconds that a new connection with a good certificate takes to get an answer."""
    folder = ground.pki.folder
    ca, key, certificate = ((folder / file).read_bytes() for file in ("ca.crt", "client.key", "client.crt"))
    options = (("grpc.ssl_target_name_override", "headwater.test"), ("grpc.use_local_subchannel_pool", 1))
    began = time.monotonic()
    asked = pack(question(ground.arena.stage.qname("svc-1"), "A"))
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    with grpc.secure_channel(str(ground.headwater.addresses[worker]), credentials, options) as channel:
        call: Any = channel.unary_unary(QUERY)
        reply = dns.message.from_wire(unpack(call(asked, timeout=SETTLE, wait_for_ready=True)))
    assert reply.answer, reply
    return time.monotonic() - began


@contextmanager
def tar_pit(ground: Ground, note: Note) -> Iterator[None]:
    """Ask all the time for external names whose server never answers."""
    note.proofs.append(ground.rises('headwater_upstream_lookups_total.*"(failed|refused)"', 10))
    stop = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", ground.arena.coredns.port))
            while not stop.wait(0.02):
                name = f"ext-{asked % ALIASES}.{EXTERNAL}.svc.cluster.local"
                client.send(dns.message.make_query(name, "A").to_wire())
                asked += 1

    thread = threading.Thread(target=ask, name="tar pit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    note.remarks.append(f"{asked} questions")


EXTERNAL: Final = "external"


def silent_upstream() -> Elsewhere:
    return Elsewhere(lambda _query, _tcp: None)


def external_names(ground_plane: Any) -> None:
    """Create the Services with external names."""
    ground_plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": EXTERNAL}})
    for number in range(ALIASES):
        spec = {"type": "ExternalName", "externalName": f"n{number}.example.org"}
        body = {"metadata": {"name": f"ext-{number}"}, "spec": spec}
        ground_plane.api("POST", f"/api/v1/namespaces/{EXTERNAL}/services", body)


@contextmanager
def nothing(_ground: Ground, _note: Note) -> Iterator[None]:
    yield


_ADMIN: Final = (never_reads, sends_slowly, says_nothing, talks_nonsense, has_a_great_head)

FAULTS: Final = [
    Fault("none", nothing, False, 2.0, "none"),
    Fault("watch hangs", hang("watch"), True, 5.0, "hung"),
    Fault("answer 0 hangs", hang("answer 0"), False, 2.0, "hung"),
    Fault("watch and answer 0 hang", hang("watch", "answer 0"), True, 5.0, "hung"),
    Fault("forkserver hangs, answer 1 is killed", hang_forkserver, False, 5.0, "forkserver"),
    Fault("admin: pipelined, never read", abuse(never_reads), True, 5.0, "admin"),
    Fault("admin: everything at once", abuse(*_ADMIN), True, 5.0, "admin"),
    Fault("credentials spoilt, watch killed", spoil("empty", "half", "a folder"), True, 12.0, "credentials"),
    Fault("CA rotates, server first", server_rotates_first, True, 10.0, "CA"),
    Fault("CA rotates, kubeconfig first", kubeconfig_rotates_first, True, 10.0, "CA"),
    Fault("disk full, then partly, in relists", full_disk, True, 10.0, "disk"),
    Fault("pages of zeros", damage, False, 5.0, "damage"),
    Fault("flood of handshakes", flood, False, 2.0, "flood"),
    Fault("upstream is a tar pit", tar_pit, False, 8.0, "tar pit"),
]
