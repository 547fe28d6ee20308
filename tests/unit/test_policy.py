"""A policy: what it may decide, how it fails, and that nobody else is harmed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import msgspec
import pytest
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Service
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Cause, Explanation, Outcome
from headwater.records.compiler import Compiler
from headwater.records.decisions import Decided, checked
from headwater.settings import policies
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.places import ZoneAddress
from headwater.store import places
from headwater.store.environment import Reader, Store
from headwater.writer import policy as running
from headwater.writer.ledger import Ledger
from headwater.writer.policy import ALL_BREAK, BREAK, NAMESPACE_BREAKS, PolicyProcess

from tests.harness.processes import wait_until
from tests.harness.small import (
    NOT_READY,
    Small,
    annotated,
    answers,
    at,
    headless,
    remove,
    settings,
    slice_of,
    status,
    upsert,
)

ROOT = Path(__file__).resolve().parents[2]
DB = "db.default.svc.cluster.local"
THREE = slice_of("db", *(at(f"10.0.0.{i}", hostname=f"db-{i}", pod=f"pod-{i}", zone="za") for i in range(3)))

#: The policy of these tests does what the Service's annotation says.
RULES = """
    import os, re, signal, sys, time
    from headwater.policy.api import Decision

    seen = []

    def decide(service, endpoints):
        word = service.annotations.get("headwater.dev/policy", "")
        if word.startswith("Decision("):
            return eval(word)
        match word:
            case "": return None
            case "raise": raise ValueError("no")
            case "exit": sys.exit(3)
            case "die": os._exit(3)
            case "crash": os.kill(os.getpid(), signal.SIGSEGV)
            case "loop":
                while True: pass
            case "stubborn":
                while True:
                    try:
                        while True: pass
                    except BaseException: pass
            case "sleep": time.sleep(3600)
            case "regex": re.match(r"(a+)+$", "a" * 64 + "b")
            case "native": sum(range(10**12))
            case "memory": return len(bytearray(8 << 30))
            case "text": return "x"
            case "print": print("x" * 100_000, flush=True); os.write(1, b"x" * 100); return Decision(ttl=1)
            case "count": return Decision(why=f"{len(endpoints)} {endpoints[0]}", ttl=len(endpoints))
            case "huge": return Decision(why="x" * 20_000_000)
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_rules.py").write_text(textwrap.dedent(RULES))
    monkeypatch.syspath_prepend(str(folder))
    return "own_rules:decide"


class World(Small):
    """A small world with a policy."""

    def __init__(self, state_dir: Path, name: str, *, zonal: bool = False, near: bool = False) -> None:
        zones = (ZoneAddress("za", Address(path="/run/za.sock")),) if near else ()
        super().__init__(state_dir, settings(policy=name, zonal=zonal, listen_zones=zones))
        self.now = 1000.0
        self.policy = PolicyProcess(
            policies.resolved(name), lambda *report: self.reports.append(report), lambda: self.now
        )

    def open(self) -> tuple[Store, Ledger]:
        store, self.why = Store.open(self.state_dir, self.identity)
        compiler = Compiler(self.settings, self.name_servers, lambda *report: self.reports.append(report))
        ledger = Ledger(store, compiler, self.resources, clock=lambda: 1_800_000_000.0, decider=self.policy)
        return store, ledger


@pytest.fixture
def world(tmp_path: Path, rules: str) -> Iterator[World]:
    found = World(tmp_path / "state", rules, zonal=True)
    yield found
    found.policy.close()
    gc.collect()


def db(word: str, name: str = "db", namespace: str = "default", **more: str) -> Service:
    return annotated(headless(name, namespace), policy=word, **more)


# What it may decide


def test_a_decision_takes_the_place_of_annotations(world: World) -> None:
    world.fill(
        db('Decision(ttl=7, weights={"db-1": 9}, aliases={"first": ["pod-0"]})', ttl="60", alias="old=db-2"), THREE
    )
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {7}
    assert {item.weight for rrset in world.ask(DB, "SRV").answer for item in rrset} == {1, 9}
    assert world.answers(f"first.{DB}") == {"10.0.0.0"}
    assert world.status(f"old.{DB}") == "NXDOMAIN"
    world.commit(upsert(db("Decision(priorities={'db-1': 3})", ttl="60", alias="old=db-2"), "10"))
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {60}
    assert {item.priority for rrset in world.ask(DB, "SRV").answer for item in rrset} == {0, 3}
    assert world.status(f"first.{DB}") == "NXDOMAIN"
    assert world.answers(f"old.{DB}") == {"10.0.0.2"}


def test_which_endpoints_count(world: World) -> None:
    world.fill(db('Decision(endpoints=["db-2", "pod-0"])'), THREE)
    assert world.answers(DB) == {"10.0.0.0", "10.0.0.2"}
    assert world.answers(f"za.pin._zone.{DB}") == {"10.0.0.0", "10.0.0.2"}
    assert world.status(f"db-1.{DB}") == "NXDOMAIN"
    targets = [item.target.to_text() for rrset in world.ask(DB, "SRV").answer for item in rrset]
    assert [target[:4] for target in targets] == ["db-2", "db-0"]
    world.commit(upsert(db('Decision(endpoints=["db-1"])'), "10"))
    assert world.answers(DB) == {"10.0.0.1"}
    assert world.status(f"db-0.{DB}") == "NXDOMAIN"
    world.commit(upsert(db("Decision(endpoints=[])"), "11"))
    assert world.status(DB) == "NXDOMAIN"
    world.commit(upsert(db(""), "12"))
    assert world.answers(DB) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert world.answers(f"db-0.{DB}") == {"10.0.0.0"}


def test_which_are_published(world: World) -> None:
    world.fill(db('Decision(publish="all")'), slice_of("db", at("10.0.0.1", hostname="a", conditions=NOT_READY)))
    assert world.answers(DB) == world.answers(f"a.{DB}") == {"10.0.0.1"}


@pytest.fixture
def near(tmp_path: Path, rules: str) -> Iterator[World]:
    found = World(tmp_path / "state", rules, near=True)
    yield found
    found.policy.close()
    gc.collect()


def in_zone(world: World, zone: str) -> set[str] | str:
    """What clients in a zone get for DB."""
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    try:
        reply = Resolver(reader, world.settings).at(zone)(dns.message.make_query(DB, "A").to_wire(), snapshot)
    finally:
        snapshot.close()
        reader.close()
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    return answers(message, "A") or status(message)


def test_whether_clients_are_answered_by_their_place(near: World) -> None:
    """The word of the policy takes the place of the annotation and of trafficDistribution."""
    every = {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    members = [at(f"10.0.0.{i}", hostname=f"db-{i}", pod=f"pod-{i}", zone=f"z{'aab'[i]}") for i in range(3)]
    near.fill(db('Decision(near="prefer")'), slice_of("db", *members))
    assert in_zone(near, "za") == {"10.0.0.0", "10.0.0.1"}
    assert in_zone(near, "zb") == {"10.0.0.2"}
    assert in_zone(near, "zc") == near.answers(DB) == every
    hints = "\n".join(explained(near, DB).hints)
    assert "near prefer, by the policy: by the client's place, so many endpoints: zone za 2, zone zb 1." in hints
    assert "decided for Service default/db: near prefer." in hints
    near.commit(upsert(db('Decision(near="pin")', zone="off"), "10"))
    assert in_zone(near, "zb") == {"10.0.0.2"}
    assert in_zone(near, "zc") == "NODATA"
    near.commit(upsert(db('Decision(near="off")', zone="pin"), "11"))
    assert in_zone(near, "zb") == in_zone(near, "zc") == every
    assert not any(map(places.is_of_a_place, near.records()))
    near.commit(upsert(db("Decision(ttl=1)", zone="pin"), "12"))
    assert in_zone(near, "zb") == {"10.0.0.2"}, "what it leaves out is as without it"
    near.commit(upsert(db('Decision(near="pin", endpoints=["db-0", "db-1"])'), "13"))
    assert in_zone(near, "zb") == "NODATA", "endpoints that it leaves out are in no zone"
    assert "zone za 2." in "\n".join(explained(near, DB).hints)
    near.commit(upsert(db(""), "14"))
    assert in_zone(near, "zb") == every
    assert not any(map(places.is_of_a_place, near.records()))


def test_it_sees_what_the_owner_wants_by_place(near: World) -> None:
    words = "Decision(near='off', why=service.traffic_distribution + ' ' + service.annotations['headwater.dev/zone'])"
    wanted = msgspec.structs.replace(db(words, zone="pin"), distribution="PreferSameZone")
    near.fill(wanted, THREE)
    assert "near off (PreferSameZone pin)" in "\n".join(explained(near, DB).hints)


def test_it_sees_every_endpoint_and_follows_a_change_of_a_slice(world: World) -> None:
    world.fill(
        db("count"), slice_of("db", at("10.0.0.1", hostname="A", pod="p", conditions=NOT_READY, zone="z")), THREE_MORE
    )
    assert world.status(DB) != "NXDOMAIN"
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {4}
    hint = next(hint for hint in explained(world, DB).hints if "policy" in hint)
    expected = (
        "4 Endpoint(name='a', addresses=('10.0.0.1',), ready=False, serving=False, terminating=False, pod='p', "
        "zone='z', node='')"
    )
    assert expected in hint
    world.commit(remove(THREE_MORE, "10"))
    world.commit(upsert(slice_of("db", at("10.0.0.1", hostname="a")), "11"))
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {1}


THREE_MORE = slice_of("db", *(at(f"10.0.1.{i}") for i in range(3)), name="more")


def test_names_of_a_decision_go_with_it_even_if_the_policy_is_gone(world: World, rules: str) -> None:
    """The state before is not asked again: what it made is in the store."""
    plain = world.fill(db(""), THREE).records().keys()
    world.commit(upsert(db('Decision(aliases={"first": ["db-0"], "second": ["db-1"]})'), "10"))
    assert world.records().keys() > plain
    world.commit(upsert(db("loop"), "11"))
    assert world.records().keys() == plain
    world.commit(upsert(db('Decision(aliases={"first": ["db-0"]})'), "12"))
    world.commit(remove(db(""), "13"))
    world.commit(remove(THREE, "14"))
    assert not any(b"\x02db" in name for name in world.records())
    store, _ = world.open()
    try:
        assert store.read(lambda txn: list(txn.scan("decisions"))) == []
    finally:
        store.close()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"ttl": -1}, "a ttl is 0 to 2147483647"),
        ({"ttl": "5"}, "Expected `int | null`, got `str`"),
        ({"publish": "some"}, "Invalid enum value 'some'"),
        ({"near": "hints"}, "Invalid enum value 'hints'"),
        ({"near": True}, "Expected `str | null`"),
        ({"weights": {"a": 65536}}, "numbers from 0 to 65535"),
        ({"weights": {1: 1}}, "Expected `str`"),
        ({"aliases": {"_x": ["a"]}}, "'_x' is not an alias"),
        ({"aliases": {f"a{i}": ["a"] for i in range(101)}}, "more than 100 aliases"),
        ({"endpoints": ["x"] * 10_001}, "more than 10,000 endpoints"),
        ({"endpoints": "abc"}, "Expected `array | null`"),
        ({"endpoints": ["a" * 254]}, "a name of an endpoint has up to 253 characters"),
        (None, "does not fit"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(given: object, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong.replace("|", r"\|")):
        checked(given)


def test_a_decision_is_taken_in_bounds() -> None:
    found = checked({"endpoints": ["A"], "weights": {"B": 1}, "aliases": {"c": ["D"]}, "why": f"x\ny {'z' * 500}"})
    assert (found.endpoints, found.weights, found.aliases) == (("a",), {"b": 1}, {"c": ["d"]})
    assert found.why == f"x y {'z' * 196}"


# How it fails


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("raise", "ValueError: no"),
        ("exit", "SystemExit: 3"),
        ("text", "it returned str, neither a Decision nor None"),
        ("memory", "MemoryError: "),
        ("Decision(ttl=-1)", "a ttl is 0 to 2147483647"),
        ("Decision(ttl=object())", "TypeError: Encoding objects of type object is unsupported"),
        ("Decision(ttl=open)", "TypeError: Encoding objects of type builtin_function_or_method is unsupported"),
        ("loop", "it took longer than 100 ms"),
        ("stubborn", ""),
        ("sleep", "no answer in time"),
        ("regex", "it took longer than 100 ms"),
        ("native", "no answer in time"),
        ("die", "its process has ended"),
        ("crash", "its process has ended"),
        ("huge", "a decision of 20,0"),
    ],
)
def test_whatever_it_does_the_service_has_the_default_and_the_next_is_asked(
    world: World, word: str, problem: str
) -> None:
    began = time.monotonic()
    world.fill(
        db(word, ttl="9"), THREE, db("Decision(ttl=3)", "other"), slice_of("other", at("10.0.0.9")),
    )  # fmt: skip
    assert time.monotonic() - began < 8
    assert world.answers(DB) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {9}
    assert {rrset.ttl for rrset in world.ask("other.default.svc.cluster.local").answer} == {3}
    ((reason, namespace, name, detail),) = world.reports
    assert (reason, namespace, name) == ("policy", "default", "db")
    # A busy machine may not give it the 100 ms of processor time within the second.
    some = (problem, "no answer in time") if problem == "it took longer than 100 ms" else (problem,)
    assert detail.startswith(tuple(f"the policy: {text}" for text in some))
    assert len(detail) < 300
    assert any(f"default: {problem[:20]}" in hint for hint in explained(world, DB).hints)
    assert world.policy.counts["decided"] == 1
    assert world.policy.counts["slow"] + world.policy.counts["failed"] == 1


def test_what_it_prints_is_no_reply(world: World) -> None:
    world.fill(db("print"), THREE)
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {1}


def test_a_namespace_whose_services_are_slow_is_not_asked_and_harms_no_other(world: World) -> None:
    slow = [db("loop", f"s-{i}", "bad") for i in range(NAMESPACE_BREAKS + 4)]
    slices = [slice_of(item.name, at("10.0.0.1"), namespace="bad") for item in slow]
    world.fill(*slow, *slices, db("Decision(ttl=3)"), THREE, namespaces=("bad", "default"))
    assert world.policy.counts == {"decided": 1, "nothing": 0, "failed": 0, "slow": NAMESPACE_BREAKS, "skipped": 4}
    assert world.answers("s-6.bad.svc.cluster.local") == {"10.0.0.1"}
    assert world.policy.paused == {"all": 0, "namespace": 1}
    world.now += BREAK + 1
    assert world.policy.paused == {"all": 0, "namespace": 0}
    world.commit(upsert(db("Decision(ttl=4)", "s-0", "bad"), "10"))
    assert {rrset.ttl for rrset in world.ask("s-0.bad.svc.cluster.local").answer} == {4}


def test_a_policy_that_is_always_slow_is_not_asked_at_all(world: World) -> None:
    namespaces = [f"n-{i}" for i in range(ALL_BREAK + 3)]
    objects = [
        item for name in namespaces for item in (db("loop", "s", name), slice_of("s", at("10.0.0.1"), namespace=name))
    ]
    world.fill(*objects, namespaces=namespaces)
    assert world.policy.counts["slow"] == ALL_BREAK
    assert world.policy.counts["skipped"] == 3
    assert world.policy.paused == {"all": 1, "namespace": 0}


def _too_late(*_: object, **__: object) -> None:
    raise running._Gone("no answer in time")


def test_a_service_that_had_the_default_for_a_passing_reason_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_TRIES", 2)
    world.fill(db("Decision(ttl=3)"), THREE)
    # A machine that stood still: the call is slow, and would not be again.
    with monkeypatch.context() as patched:
        patched.setattr(running, "_wait", _too_late)
        world.commit(upsert(db("Decision(ttl=4)"), "10"))
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {5}
    store, ledger = world.open()
    try:
        assert ledger.undecided() == [("default", "db")]
        assert world.policy.due() == []
        world.now += BREAK
        assert ledger.decide_again(world.policy.due()) > 0
        assert ledger.undecided() == []
        assert world.policy.due() == []
    finally:
        store.close()
    assert {rrset.ttl for rrset in world.ask(DB).answer} == {4}
    # One that is slow each time is left after some tries.
    world.commit(upsert(db("loop"), "11"))
    for _ in range(2):
        world.now += BREAK * 8
        assert world.policy.due() == [("default", "db")]
        store, ledger = world.open()
        ledger.decide_again([("default", "db")])
        store.close()
    world.now += BREAK * 100
    assert world.policy.due() == []


def test_its_process_ends_with_the_one_that_asks(tmp_path: Path, rules: str) -> None:
    program = textwrap.dedent("""
        import os, signal, sys
        from headwater.records.decisions import Decided
        from headwater.writer.policy import PolicyProcess
        policy = PolicyProcess("own_rules:decide", print)
        assert policy.load() == ""
        print(policy._process._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = os.pathsep.join([str(ROOT / "backend"), str(tmp_path / "code")])
    found = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    child = int(found.stdout)
    wait_until(lambda: not _runs(child), 10, "the policy's process ends")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Which policy


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("nowhere_at_all:decide", "there is no module nowhere_at_all"),
        ("json.nowhere:decide", "there is no module json.nowhere"),
        ("own_rules.below:decide", "there is no module own_rules.below"),
        ("own_rules:", "'own_rules:' is not MODULE:FUNCTION"),
        ("own rules:decide", "'own rules:decide' is not MODULE:FUNCTION"),
        ("unheard-of", "'unheard-of' is neither MODULE:FUNCTION nor an entry point of headwater.policy"),
    ],
)
def test_a_policy_that_is_not_there_stops_the_start_by_its_flag(rules: str, text: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong) as refused:
        settings(policy=text)
    assert str(refused.value).startswith("--policy: ")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("own_rules:nothing", "it cannot be loaded: AttributeError"),
        ("own_rules:seen", "it cannot be loaded: TypeError: own_rules:seen is not a function"),
    ],
)
def test_a_policy_that_cannot_be_loaded_says_why(rules: str, name: str, problem: str) -> None:
    policy = PolicyProcess(name, lambda *_: None)
    assert policy.load().startswith(problem)


def test_another_version_of_the_code_is_another_fingerprint(tmp_path: Path, rules: str) -> None:
    before = settings(policy=rules).records_fingerprint()
    assert settings(policy=rules).records_fingerprint() == before
    file = tmp_path / "code" / "own_rules.py"
    file.write_text(file.read_text() + "# other\n")
    assert settings(policy=rules).records_fingerprint() != before
    assert settings().records_fingerprint() != before


def test_every_file_of_a_package_counts_and_nothing_of_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_package"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "rules.py", "deep/__init__.py", "deep/numbers.py"):
        (package / name).write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = policies.version("own_package.rules:decide")
    (package / "deep" / "numbers.py").write_text("raise SystemExit(1)\n")
    assert policies.version("own_package.rules:decide") != before


def test_an_entry_point_is_a_name_for_a_policy(tmp_path: Path, rules: str) -> None:
    folder = tmp_path / "code" / "own_rules-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-rules\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[headwater.policy]\nmine = own_rules:decide\n")
    assert policies.resolved("mine") == "own_rules:decide"
    with pytest.raises(SettingsError, match=r"known: mine"):
        policies.resolved("yours")


# Explained


def explained(world: Small, name: str) -> Explanation:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    try:
        found = explained_from(reader, Resolver(reader, world.settings), world.settings, name, "A")
    finally:
        reader.close()
    assert not found.contradiction
    return found


def test_explain_says_what_was_decided_and_what_was_left_out(world: World) -> None:
    world.fill(db('Decision(endpoints=["db-0"], ttl=3, why="the first")'), THREE)
    hint = "The policy (--policy) decided for Service default/db: ttl 3; endpoints db-0 (the first)."
    assert hint in explained(world, DB).hints
    left_out = explained(world, f"db-1.{DB}")
    assert (left_out.outcome, left_out.cause) == (Outcome.NXDOMAIN, Cause.POLICY)
    assert left_out.verdict == (
        "The policy (--policy) leaves it out of Service default/db. It decided: ttl 3; endpoints db-0 (the first)."
    )
    assert explained(world, f"db-9.{DB}").cause is Cause.HOST_UNKNOWN
    world.commit(upsert(db("Decision(endpoints=[])"), "10"))
    assert explained(world, DB).cause is Cause.POLICY
    assert explained(world, f"_http._tcp.{DB}").cause is Cause.POLICY


def test_a_decision_reads_as_words() -> None:
    found = Decided(1, "all", tuple("abcde"), {"a": 1}, {}, {"x": ["a", "b"]}, "so", near="pin")
    assert str(found) == (
        "ttl 1; publish all; endpoints a, b, c and 2 more; weights a=1; priorities none; aliases x=a|b; near pin (so)"
    )
    assert str(Decided()) == "nothing"


# The example


@pytest.mark.slow
def test_the_example_passes_its_own_tests() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "."],
        cwd=ROOT / "examples" / "policy", env=os.environ | {"PYTHONPATH": str(ROOT / "backend")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
