"""`headwater compare` beside a server that lies: every class of difference, lateness, silence,
garbage, and manners.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from headwater.compare.asking import Manners
from headwater.compare.judgement import Kind
from headwater.compare.messages import encode_name
from headwater.compare.metrics import Metrics
from headwater.compare.report import Class, Report
from headwater.compare.session import CannotCompare, Plan, Session
from headwater.settings.address import Address
from headwater.settings.settings import Settings
from prometheus_client.exposition import generate_latest

from tests.harness.instance import Headwater
from tests.harness.liar import Liar, Lie, Truth, about, instead, question_of, truth_of
from tests.harness.processes import free_port, wait_until

ADDRESSES: Final = ", ".join(f"{{addresses: [10.1.0.{n}], conditions: {{ready: true}}}}" for n in range(1, 61))
MANIFESTS: Final = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: prod}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: prod}}
spec: {{clusterIP: 10.96.0.7, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: prod}}
spec: {{clusterIP: None, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: db-1, namespace: prod, labels: {{kubernetes.io/service-name: db}}}}
addressType: IPv4
endpoints:
- {{addresses: [10.0.9.1], hostname: db-0}}
- {{addresses: [10.0.9.2], hostname: db-1}}
- {{addresses: [10.0.9.3], hostname: db-2}}
ports: [{{name: sql, port: 5432}}]
---
apiVersion: v1
kind: Service
metadata: {{name: big, namespace: prod}}
spec: {{clusterIP: None}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: big-1, namespace: prod, labels: {{kubernetes.io/service-name: big}}}}
addressType: IPv4
endpoints: [{ADDRESSES}]
---
apiVersion: v1
kind: Service
metadata: {{name: none, namespace: prod}}
spec: {{clusterIP: None}}
"""
WEB: Final = "web.prod.svc.cluster.local"
DB: Final = "db.prod.svc.cluster.local"
SETTINGS: Final = Settings(reverse_zones=("in-addr.arpa",), zones=("cluster.local",))
FAST: Final = Manners(rate=5_000, in_flight=16, timeout=0.2)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    with truth_of(tmp_path_factory.mktemp("truth"), MANIFESTS, SETTINGS) as found:
        yield found


@pytest.fixture
def liar(truth: Truth) -> Iterator[Liar]:
    with Liar(truth.answer) as running:
        yield running


def compare(truth: Truth, theirs: Address, **changes: Any) -> Report:
    """One round in this process."""
    plan = {"theirs": theirs, "ours": "store", "manners": FAST, "patience": 0.3, **changes}
    told: list[str] = []
    return asyncio.run(Session(Plan(**plan), truth.settings, truth.reader, truth.resolver, told.append).run())


def classes(report: Report) -> dict[str, Class]:
    return {f"{item.kind}:{item.deviation}".rstrip(":"): item for item in report.classes}


def worth_telling(report: Report) -> dict[str, Class]:
    """Without those that an honest server has."""
    return {label: item for label, item in classes(report).items() if label not in ("same", "order")}


# -- an honest server


def test_server_with_the_same_answers_is_alike(truth: Truth, liar: Liar) -> None:
    report = compare(truth, liar.address, neighbours=8)
    assert report.agrees
    assert not worth_telling(report)
    assert report.ended == "complete"
    assert report.questions > 500
    # A truncated reply was asked for again over TCP, and is compared whole.
    assert report.messages["over_tcp_after_tc"] == liar.tcp_queries > 0
    # Everything that is known, and its neighbours.
    for question in (
        f"{WEB} A", f"{DB} SRV", "db-1.db.prod.svc.cluster.local AAAA", "_sql._tcp.db.prod.svc.cluster.local SRV",
        "7.0.96.10.in-addr.arpa PTR", "1.9.0.10.in-addr.arpa PTR", "none.prod.svc.cluster.local A",
        "prod.svc.cluster.local A", "cluster.local A", "dns-version.cluster.local A",
    ):  # fmt: skip
        assert liar.asked[question], question
    names = {item.partition(" ")[0] for item in liar.asked}
    assert {f"x.{WEB}", "webx.prod.svc.cluster.local", "web.nowhere.svc.cluster.local", f"_tcp.{DB}"} <= names
    # Which host answers decides these.
    assert not [item for item in liar.asked if item.startswith("ns.dns.")]


def test_all_questions_are_asked_over_tcp_on_few_connections(truth: Truth, liar: Liar) -> None:
    report = compare(truth, liar.address, manners=Manners(rate=5_000, in_flight=4, timeout=1.0, tcp=True))
    assert report.agrees
    assert liar.tcp_queries == len(liar.times) == report.messages["sent"]


def test_sample_is_no_more_than_was_asked_for(truth: Truth, liar: Liar) -> None:
    assert compare(truth, liar.address, sample=40).questions == 40


# -- every class


def reverse(message: dns.message.Message) -> None:
    (rrset,) = message.answer
    rdatas = [*rrset][::-1]
    message.answer = [dns.rrset.from_rdata(rrset.name, rrset.ttl, rdata) for rdata in rdatas]


def longer(message: dns.message.Message) -> None:
    message.answer[0].ttl = 30


def shouting(query: bytes, reply: bytes) -> Sequence[bytes]:
    """The owner spelled out in the place of a pointer; behind it an OPT at most, which has none."""
    end = 12 + len(WEB) + 2 + 4
    return [reply[:end] + encode_name(WEB.upper()) + reply[end + 2 :]]


def recursive(message: dns.message.Message) -> None:
    message.flags = dns.flags.Flag(message.flags & ~dns.flags.AA | dns.flags.RA)


def elsewhere(message: dns.message.Message) -> None:
    message.answer = [dns.rrset.from_text(f"{WEB}.", 5, "IN", "A", "10.96.0.8")]


def nothing(message: dns.message.Message) -> None:
    message.answer = []


def gone(message: dns.message.Message) -> None:
    message.set_rcode(dns.rcode.NXDOMAIN)


def failing(message: dns.message.Message) -> None:
    message.set_rcode(dns.rcode.SERVFAIL)


def truncated(message: dns.message.Message) -> None:
    """Over TCP, too."""
    message.flags = dns.flags.Flag(message.flags | dns.flags.TC)


def other_letters(query: bytes, reply: bytes) -> Sequence[bytes]:
    size = 12 + len(WEB) + 2
    return [reply[:12] + reply[12:size].upper() + reply[size:]]


def loop(query: bytes, reply: bytes) -> Sequence[bytes]:
    """A record whose owner is a pointer to itself."""
    end = 12 + len(WEB) + 2 + 4
    return [reply[:6] + b"\0\1\0\0\0\0" + reply[12:end] + (0xC000 | end).to_bytes(2, "big") + bytes(10)]


LIES: Final[dict[str, tuple[Lie, str]]] = {
    "a record in another place": (about(DB, "A", reverse), "order"),
    "a longer TTL": (about(WEB, "A", longer), "ttl"),
    "an owner in capitals": (instead(WEB, "A", shouting), "letter_case"),
    "a question in capitals": (instead(WEB, "A", other_letters), "letter_case"),
    "RA and no AA": (about(WEB, "A", recursive), "flags"),
    "another address": (about(WEB, "A", elsewhere), "unexplained"),
    "no record": (about(WEB, "A", nothing), "unexplained"),
    "NXDOMAIN": (about(WEB, "AAAA", gone), "unexplained"),
    "TC for ever": (about(WEB, "A", truncated), "unexplained"),
    "SERVFAIL": (about(WEB, "A", failing), "they_fail"),
    "REFUSED without a question": (
        instead(WEB, "A", lambda query, _: [query[:2] + b"\x81\x05" + bytes(8)]), "they_fail",
    ),
    "silence": (instead(WEB, "A", lambda *_: []), "they_are_silent"),
    "the query itself": (instead(WEB, "A", lambda query, _: [query]), "they_are_silent"),
    "another id": (instead(WEB, "A", lambda _, reply: [bytes([reply[0] ^ 1]) + reply[1:]]), "they_are_silent"),
    "another question": (
        instead(WEB, "A", lambda _, reply: [reply.replace(b"\3web", b"\3wob", 1)]), "they_are_silent",
    ),
    "a compression loop": (instead(WEB, "A", loop), "they_are_silent"),
    "half of it": (instead(WEB, "A", lambda _, reply: [reply[:40]]), "they_are_silent"),
    "nothing but bytes": (instead(WEB, "A", lambda query, _: [query[:2] + b"\xff" * 60_000]), "they_are_silent"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_in_its_class(lie: str, truth: Truth, liar: Liar) -> None:
    liar.lie, label = LIES[lie]
    report = compare(truth, liar.address)
    found = classes(report) if label == "order" else worth_telling(report)
    assert label in found, found
    assert set(worth_telling(report)) <= {label}, found
    examples = [(item.name.lower(), item.type) for item in found[label].examples]
    name = DB if label == "order" else WEB
    assert (name, "AAAA" if lie == "NXDOMAIN" else "A") in examples
    assert report.agrees == found[label].explained == (label in ("order", "ttl", "letter_case", "flags"))


def test_forged_datagrams_are_not_in_the_way_of_the_reply(truth: Truth, liar: Liar) -> None:
    liar.lie = instead(WEB, "A", lambda _, reply: [
        b"", b"\0", bytes([reply[0] ^ 1]) + reply[1:], reply.replace(b"\3web", b"\3wob", 1), reply[:30], reply,
    ])  # fmt: skip
    report = compare(truth, liar.address)
    assert report.agrees
    assert report.messages["strays"] >= 5


def test_deviations_are_known_by_their_names(truth: Truth, liar: Liar) -> None:
    """As CoreDNS says of the names between others: NXDOMAIN."""
    between = {f"_tcp.{DB}", "dns.cluster.local", "9.0.10.in-addr.arpa"}

    def lie(query: bytes, reply: bytes) -> Sequence[bytes]:
        if question_of(query)[0] not in between and question_of(query) != ("dns-version.cluster.local", "A"):
            return [reply]
        message = dns.message.from_wire(reply)
        message.set_rcode(dns.rcode.NXDOMAIN)
        return [message.to_wire()]

    liar.lie = lie
    report = compare(truth, liar.address, neighbours=8)
    assert report.agrees, report
    assert {"deviation:empty_non_terminal", "deviation:partial_reverse_name", "deviation:version_of_other_types"} <= (
        set(worth_telling(report))
    )


def test_name_that_looks_like_a_deviation_is_none(truth: Truth, liar: Liar) -> None:
    """NXDOMAIN between others is what CoreDNS says only where it has names below."""

    def lie(query: bytes, reply: bytes) -> Sequence[bytes]:
        if not question_of(query)[0].endswith(DB):
            return [reply]
        message = dns.message.from_wire(reply)
        message.answer, message.additional = [], []
        message.set_rcode(dns.rcode.NXDOMAIN)
        return [message.to_wire()]

    liar.lie = lie
    found = worth_telling(compare(truth, liar.address, neighbours=8))
    assert not [label for label in found if label.startswith("deviation")]
    assert f"_tcp.{DB}" in {example.name for example in found["unexplained"].examples}


# -- lateness


def until(times: int, name: str, rtype: str, change: Callable[[dns.message.Message], None]) -> Lie:
    """A lie that is told so often."""
    lie, left = about(name, rtype, change), [times]

    def told(query: bytes, reply: bytes) -> Sequence[bytes]:
        if question_of(query) != (name, rtype) or not left[0]:
            return [reply]
        left[0] -= 1
        return lie(query, reply)

    return told


def test_server_that_changes_later_is_late_and_by_how_much(truth: Truth, liar: Liar) -> None:
    liar.lie = until(3, WEB, "A", elsewhere)
    report = compare(truth, liar.address, patience=20.0, neighbours=0)
    assert report.agrees
    (example,) = worth_telling(report)["they_are_late"].examples
    # Asked at once, and after 0.05, 0.15 and 0.35 s.
    assert 0.35 <= example.late < 5
    assert 0 < example.resolution <= example.late
    assert (example.name, example.type, example.asked) == (WEB, "A", 4)
    assert "10.96.0.8" in example.theirs
    assert "10.96.0.7" in example.ours
    assert worth_telling(report)["they_are_late"].lateness


def test_headwater_that_changes_later_is_late(truth: Truth, liar: Liar) -> None:
    with Liar(truth.answer) as ours:
        ours.lie = until(2, WEB, "A", elsewhere)
        report = compare(truth, liar.address, ours=ours.address, patience=20.0, neighbours=0)
    (example,) = worth_telling(report)["we_are_late"].examples
    assert 0.15 <= example.late < 5
    assert "10.96.0.8" in example.ours


def test_names_that_changed_at_both_between_two_questions_are_no_ones_fault(truth: Truth, liar: Liar) -> None:
    with Liar(truth.answer) as ours:
        ours.lie = until(1, WEB, "A", elsewhere)
        liar.lie = until(1, WEB, "A", nothing)
        report = compare(truth, liar.address, ours=ours.address, patience=20.0, neighbours=0)
    assert set(worth_telling(report)) == {"both_changed"}
    assert report.agrees


def test_silence_for_a_moment_is_no_difference(truth: Truth, liar: Liar) -> None:
    left = [4]

    def quiet(query: bytes, reply: bytes) -> Sequence[bytes]:
        if question_of(query) != (WEB, "A") or not left[0]:
            return [reply]
        left[0] -= 1
        return []

    liar.lie = quiet
    report = compare(truth, liar.address, patience=20.0, neighbours=0)
    assert report.agrees
    assert not worth_telling(report)
    assert report.messages["udp_timeouts"] == 4


# -- manners


def test_rate_is_kept_whatever_is_asked_for(truth: Truth, liar: Liar) -> None:
    """Retries, TCP after TC and what deviations ask count, too."""
    liar.lie = about(WEB, "A", elsewhere)
    compare(truth, liar.address, manners=Manners(rate=20, in_flight=16, timeout=1.0), sample=40, neighbours=8)
    times = sorted(liar.times)
    assert len(times) > 40
    assert times[-1] - times[0] >= (len(times) - 1) / 20 * 0.9
    for start in range(len(times) - 20):
        assert times[start + 20] - times[start] >= 0.5


def test_no_more_are_under_way_than_may_be(truth: Truth, liar: Liar) -> None:
    waiting: list[bytes] = []
    most = []

    def hold(query: bytes, reply: bytes) -> Sequence[bytes]:
        if question_of(query) == ("cluster.local", "SOA"):
            return [reply]
        waiting.append(reply)
        most.append(len({message[:2] for message in waiting}))
        if len(waiting) < 4:
            return []
        answered, waiting[:] = list(waiting), []
        return answered  # to the one socket that all came from

    liar.lie = hold
    report = compare(truth, liar.address, manners=Manners(rate=2_000, in_flight=4, timeout=0.5), sample=40, patience=0)
    assert max(most) == 4
    assert report.questions == 40


def test_server_that_is_not_there_is_said_at_once(truth: Truth) -> None:
    with pytest.raises(CannotCompare, match=r"127\.0\.0\.1:\d+: cluster\.local SOA: Connection refused"):
        compare(truth, Address(host="127.0.0.1", port=free_port()))


@pytest.mark.parametrize(("rcode", "said"), [(5, "REFUSED"), (2, "SERVFAIL")])
def test_server_that_refuses_the_zone_is_said_at_once(truth: Truth, liar: Liar, rcode: int, said: str) -> None:
    liar.lie = instead("cluster.local", "SOA", lambda query, _: [query[:2] + bytes([0x81, rcode]) + bytes(8)])
    with pytest.raises(CannotCompare, match=f"{said}. Does it serve that zone"):
        compare(truth, liar.address)


def test_server_that_stops_answering_ends_the_comparison(truth: Truth, liar: Liar) -> None:
    liar.lie = lambda _, reply: [reply] if len(liar.times) < 100 else []
    began = time.monotonic()
    report = compare(truth, liar.address, manners=Manners(rate=5_000, in_flight=32, timeout=0.05), neighbours=8)
    assert report.ended == "silent"
    assert not report.agrees
    assert time.monotonic() - began < 30


# -- the command


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater", "compare", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HEADWATER_"))}


def flags(truth: Truth, liar: Liar) -> list[str]:
    return ["--manifests", truth.settings.manifests[0], "--reverse-zone", "in-addr.arpa", "--with", str(liar.address),
            "--rate", "5000", "--patience", "0.3s", "--timeout", "0.5"]  # fmt: skip


def test_command_says_alike(truth: Truth, liar: Liar) -> None:
    done = run(*flags(truth, liar))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ALIKE: ")
    assert "names, about" in done.stderr


def test_command_says_what_is_not_alike_in_words_and_in_json(truth: Truth, liar: Liar) -> None:
    liar.lie = about(WEB, "A", elsewhere)
    done = run(*flags(truth, liar))
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1].startswith("NOT ALIKE: ")
    assert "    theirs  NOERROR aa: web.prod.svc.cluster.local 5 A 10.96.0.8\n" in done.stdout
    assert "    ours    NOERROR aa: web.prod.svc.cluster.local 5 A 10.96.0.7\n" in done.stdout
    done = run(*flags(truth, liar), "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["unexplained"] >= 1
    assert {item["class"] for item in found["classes"]} >= {"same", "unexplained"}


def test_bytes_of_a_server_reach_no_terminal(truth: Truth, liar: Liar) -> None:
    def escape(message: dns.message.Message) -> None:
        message.answer = [dns.rrset.from_text(f"{WEB}.", 5, "IN", "CNAME", r"\027[2Jhello\010.cluster.local.")]

    liar.lie = about(WEB, "A", escape)
    done = run(*flags(truth, liar))
    assert done.returncode == 3
    assert r"\027[2jhello\010" in done.stdout
    for text in (done.stdout, done.stderr):
        assert all(letter == "\n" or letter >= " " for letter in text)


def test_failure_is_one_line_and_its_exit_code(truth: Truth, liar: Liar, tmp_path: Path) -> None:
    done = run("--state-dir", tmp_path, "--with", liar.address.host)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    done = run("--manifests", truth.settings.manifests[0], "--with", f"127.0.0.1:{free_port()}")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "Connection refused" in done.stderr
    for bad in (["--with", "dns.example"], ["--with", "127.0.0.1:99999"], ["--with", "127.0.0.1", "--watch", "x"],
                ["--with", "127.0.0.1", "--metrics", "127.0.0.1:9354"], []):  # fmt: skip
        done = run("--manifests", truth.settings.manifests[0], *bad)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


# -- watching


class Watching:
    """The command with --watch and --metrics."""

    def __init__(self, *arguments: str | Path) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headwater", "compare", *map(str, arguments), "--watch", "1h",
             "--metrics", f"127.0.0.1:{self.port}", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def metric(self, name: str) -> float:
        """The value of one line, 0 while there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError:
            return 0.0
        finally:
            connection.close()
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def wait_for(self, name: str, least: float) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1]
            return self.metric(name) >= least

        wait_until(there, 60, f"{name} is {least:g}")

    def stop(self) -> tuple[int, dict[str, Any], str]:
        """Ctrl-C: exit code, report, what was told."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, json.loads(out), err

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def test_watch_finds_a_difference_that_comes_while_it_runs(truth: Truth, liar: Liar) -> None:
    watching = Watching(*flags(truth, liar))
    try:
        watching.wait_for("headwater_compare_rounds_total", 1)
        unexplained = 'headwater_compare_questions_total{class="unexplained",deviation=""}'
        assert watching.metric(unexplained) == 0
        liar.lie = about(WEB, "A", elsewhere)
        watching.wait_for(unexplained, 1)
        code, report, told = watching.stop()
    finally:
        watching.close()
    assert code == 3
    assert report["ended"] == "stopped"
    assert report["rounds"] >= 1
    assert WEB in {example["name"].lower() for item in report["classes"] if item["class"] == "unexplained"
                   for example in item["examples"]}  # fmt: skip
    assert f"unexplained: {WEB} A" in told.lower().replace(" a ", " A ")


def test_watch_asks_what_changes_first(tmp_path: Path) -> None:
    """A round takes minutes at this rate; the change is found within seconds, and how late the
    other is.
    """
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "objects.yaml").write_text(MANIFESTS)
    with (
        truth_of(tmp_path / "old", MANIFESTS, SETTINGS) as old,
        Headwater(tmp_path, "--manifests", folder, "--reverse-zone", "in-addr.arpa", workers=1) as headwater,
        Liar(old.answer) as liar,
    ):
        watching = Watching(*instance_flags(headwater), "--with", str(liar.address), "--rate", "10", "--in-flight", "4",
                            "--patience", "30s")  # fmt: skip
        try:
            watching.wait_for('headwater_compare_questions_total{class="same",deviation=""}', 3)
            changed = MANIFESTS.replace("10.96.0.7", "10.96.0.8")
            with truth_of(tmp_path / "new", changed, SETTINGS) as new:
                (tmp_path / "changed.yaml").write_text(changed)
                (tmp_path / "changed.yaml").replace(folder / "objects.yaml")  # whole, or not at all
                # A name that this round cannot know: nobody had the address when it began.
                wait_until(lambda: liar.asked["8.0.96.10.in-addr.arpa PTR"] >= 3, 60, "the change is asked about")
                liar.answer = new.answer
                watching.wait_for('headwater_compare_late_seconds_count{side="theirs"}', 1)
                _, report, _ = watching.stop()
        finally:
            watching.close()
    late = next(item for item in report["classes"] if item["class"] == "they_are_late")
    assert WEB in {example["name"] for example in late["examples"]}
    assert late["lateness"]["worst"] > 0.1
    assert report["rounds"] == 0


def instance_flags(headwater: Headwater) -> list[str]:
    return ["--state-dir", str(headwater.state_dir), "--listen", str(headwater.listen), "--workers", "1",
            "--reverse-zone", "in-addr.arpa"]  # fmt: skip


def test_instance_is_asked_over_grpc_and_through_its_own_listener(tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text(MANIFESTS)
    port = free_port()
    with Headwater(tmp_path, "--manifests", tmp_path / "objects.yaml", "--reverse-zone", "in-addr.arpa",
                   "--dns", f"127.0.0.1:{port}", workers=1) as headwater:  # fmt: skip
        for ours in ("instance", f"127.0.0.1:{port}", "store"):
            done = run(*instance_flags(headwater), "--with", f"127.0.0.1:{port}", "--ours", ours, "--rate", "2000")
            assert done.returncode == 0, (ours, done.stdout, done.stderr)
        done = run("--state-dir", headwater.state_dir, "--with", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert "made with other settings" in done.stderr


def test_metrics_of_every_class_are_there_from_the_start() -> None:
    shown = generate_latest(Metrics().registry).decode()
    for kind in Kind:
        assert (f'class="{kind}"' in shown) == (kind is not Kind.DEVIATION)
