"""The admin page: metrics that Prometheus accepts, health, readiness, and explanations."""

from __future__ import annotations

import asyncio
import re
from typing import get_args

import httpx
import pytest
from headwater import __version__
from headwater.admin.recent import Recent
from headwater.admin.server import application
from headwater.answer.counts import Reason, count_key
from headwater.process import usage
from headwater.process.control import (
    Advise,
    Advised,
    BadQuestion,
    Complete,
    Completed,
    Explain,
    Explained,
    History,
    Refused,
    Told,
)
from headwater.process.counters import (
    BUCKETS,
    LATENCY_BUCKETS,
    OPINIONS,
    AnswerSnapshot,
    Kind,
    ProcessView,
    ResourceState,
    WatchSnapshot,
)
from headwater.settings.settings import Settings
from headwater.writer.opinion import Opinion
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

A, AAAA, TXT = 1, 28, 16
#: The monotonic time at which everything here was received, by default.
NOW = 1000.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def answered(count: int = 1, *, ready: bool = True) -> AnswerSnapshot:
    """Return an answer process that has answered this many queries of each kind, 3 us each."""
    snapshot = AnswerSnapshot(failures=count, ready=ready, cpu=count, memory=1 << 20)
    for zone, qtype, reason in ((1, A, next(iter(Reason))), (2, AAAA, list(Reason)[-1]), (0, 0, list(Reason)[1])):
        snapshot.queries[count_key(zone, qtype, reason)] = count
        for _ in range(count):
            snapshot.durations.observe(BUCKETS, 3e-6)
    return snapshot


def watched(count: int = 1, *, ready: bool = True) -> WatchSnapshot:
    snapshot = WatchSnapshot(
        taken=NOW,
        ready=ready,
        detail="" if ready else "waiting for the first complete list of services",
        resources={
            "services": ResourceState(True, "4711", 0.25, 10 * count, count, {"500": count, "unreachable": count}),
            "namespaces": ResourceState(),
        },
        objects={"services": 3, "namespaces": 2},
        names={"headless": 5},
        skipped={"name": count},
        commits=count,
        commit_failures=count,
        records_changed=7 * count,
        store_bytes=65536,
        store_free=1 << 30,
        store_serial=1_800_000_000,
        cpu=count,
        memory=1 << 20,
    )
    for _ in range(count):
        snapshot.programming.observe(LATENCY_BUCKETS, 0.004)
    return snapshot


@pytest.fixture(autouse=True)
def _cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process costs the same at every look."""
    monkeypatch.setattr(usage, "cpu", lambda: 1.5)
    monkeypatch.setattr(usage, "memory", lambda: 1 << 20)


class FakeInstance:
    """A supervisor with the processes of the test."""

    def __init__(self, *views: ProcessView) -> None:
        self.settings = Settings(zones=("cluster.local", 'odd"zone\\x'))
        self.refreshed = 0
        self.explained: list[Explain] = []
        self.explanation: Explained | BadQuestion | Refused = Explained(b"{}")
        self.recent = Recent()
        self.completed: list[Complete] = []
        self.completion: Completed | BadQuestion | Refused = Completed(
            b'{"typed":"","exact":"","names":[],"more":false}'
        )
        self.told: list[History] = []
        self.past: Told | BadQuestion | Refused = Refused("nothing is told here")
        self.advised: list[Advise] = []
        self.advice: Advised | BadQuestion | Refused = Advised(b"{}")
        self._views = list(views)

    async def refresh(self) -> None:
        self.refreshed += 1

    def views(self) -> list[ProcessView]:
        return self._views

    async def explain(self, asked: Explain) -> Explained | BadQuestion | Refused:
        self.explained.append(asked)
        return self.explanation

    async def complete(self, asked: Complete) -> Completed | BadQuestion | Refused:
        self.completed.append(asked)
        return self.completion

    async def history(self, asked: History) -> Told | BadQuestion | Refused:
        self.told.append(asked)
        return self.past

    async def advise(self, asked: Advise) -> Advised | BadQuestion | Refused:
        self.advised.append(asked)
        return self.advice


def watch(
    *,
    up: bool = True,
    now: WatchSnapshot | None = None,
    before: WatchSnapshot | None = None,
    silent: float = 0.0,
    trouble: str = "",
) -> ProcessView:
    return ProcessView(Kind.WATCH, "watch", up, 0, now, before, silent, 3, {78: 1, -9: 3}, trouble)


def answer(
    index: int = 0,
    *,
    up: bool = True,
    now: AnswerSnapshot | None = None,
    before: AnswerSnapshot | None = None,
    silent: float = 0.0,
) -> ProcessView:
    return ProcessView(Kind.ANSWER, f"answer {index}", up, 2, now, before, silent)


#: A start, a running instance, one after restarts, and the moment in which every process is dead.
STATES: dict[str, tuple[ProcessView, ...]] = {
    "before anything": (watch(up=False), answer(0, up=False), answer(1, up=False)),
    "at work": (watch(now=watched(3)), answer(0, now=answered(3)), answer(1, now=answered(4))),
    "after restarts": (
        watch(now=watched(3), before=watched(4)),
        answer(0, now=answered(3), before=answered(5)),
        answer(1, before=answered(6)),
    ),
    "all dead": (watch(up=False, before=watched(4)), answer(0, up=False, before=answered(5))),
}


def asked(instance: FakeInstance, method: str, path: str, accept: str = "*/*", now: float = NOW) -> httpx.Response:
    """Return the application's response, without a socket."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(instance, lambda: now))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers={"Accept": accept})

    return asyncio.run(ask())


def page(instance: FakeInstance, path: str, accept: str = "*/*", now: float = NOW) -> httpx.Response:
    return asked(instance, "GET", path, accept, now)


def families(instance: FakeInstance, accept: str = "text/plain") -> dict[str, Metric]:
    response = page(instance, "/metrics", accept)
    assert response.status_code == 200
    parse = openmetrics.text_string_to_metric_families if accept == OPENMETRICS else text_string_to_metric_families
    found = list(parse(response.text))
    assert len(found) == len({family.name for family in found}), "a family comes once"
    return {family.name: family for family in found}


def value(instance: FakeInstance, sample: str, **labels: str) -> float:
    """Return the only sample with this name and at least these labels."""
    found = [
        item.value
        for family in families(instance).values()
        for item in family.samples
        if item.name == sample and labels.items() <= item.labels.items()
    ]
    assert len(found) == 1, f"{sample}{labels}: {found}"
    return float(found[0])


@pytest.fixture(params=STATES, ids=str)
def instance(request: pytest.FixtureRequest) -> FakeInstance:
    return FakeInstance(*STATES[request.param])


# Metrics


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain"),
        ("", "text/plain"),
        ("text/plain;version=0.0.4", "text/plain"),
        (OPENMETRICS, "application/openmetrics-text"),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2", "application/openmetrics"),
    ],
)
def test_metrics_come_as_prometheus_asks_for_them(accept: str, content_type: str, instance: FakeInstance) -> None:
    response = page(instance, "/metrics", accept)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)
    assert response.text.rstrip().endswith("# EOF") is ("openmetrics" in content_type)
    assert instance.refreshed == 1, "every scrape asks the processes"


def test_both_formats_say_the_same(instance: FakeInstance) -> None:
    plain, exact = families(instance), families(instance, OPENMETRICS)
    assert {name.removesuffix("_total") for name in plain} == {name.removesuffix("_total") for name in exact}

    def samples(found: dict[str, Metric]) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
        return {
            (item.name, tuple(sorted(item.labels.items())), float(item.value))
            for family in found.values()
            for item in family.samples
        }

    assert samples(plain) == samples(exact)


#: Prometheus's base units.
BASE_UNITS = ("seconds", "bytes")
OTHER_UNITS = re.compile(
    r"(^|_)(ms|msec|millis\w*|micros\w*|nanos\w*|us|ns|minutes?|hours?|days?|kb|kib|mb|mib|percent\w*)(_|$)"
)
TYPES_IN_NAMES = re.compile(r"_(counter|gauge|histogram|summary|count|sum|bucket|info_info)$")


def test_names_and_help_pass_promtool_s_lint(instance: FakeInstance) -> None:
    """The rules of prometheus/client_golang/prometheus/testutil/promlint/validations."""
    problems = []
    series: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for family in families(instance, OPENMETRICS).values():
        name, kind = family.name, family.type
        if not family.documentation:
            problems.append(f"{name}: no help text")
        elif not family.documentation.endswith("."):
            problems.append(f"{name}: the help text is no sentence: {family.documentation!r}")
        if not re.fullmatch(r"headwater_[a-z0-9]+(_[a-z0-9]+)*", name):
            problems.append(f"{name}: not snake_case with our prefix")
        if kind not in ("counter", "gauge", "histogram"):
            problems.append(f"{name}: type {kind}")
        if kind != "counter" and name.endswith("_total"):
            problems.append(f"{name}: only counters end in _total")
        if OTHER_UNITS.search(name) or TYPES_IN_NAMES.search(name):
            problems.append(f"{name}: another unit than a base unit, or a type in the name")
        if any(unit in name.split("_") and not name.endswith(unit) for unit in BASE_UNITS):
            problems.append(f"{name}: the unit is the suffix")
        if kind == "histogram" and not name.endswith("_seconds"):
            problems.append(f"{name}: a histogram of times is in seconds")
        for item in family.samples:
            if kind == "counter" and item.name != f"{name}_total":
                problems.append(f"{item.name}: a counter's sample ends in _total")
            if not all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in item.labels):
                problems.append(f"{item.name}: labels {sorted(item.labels)}")
            if ("le" in item.labels) != item.name.endswith("_bucket"):
                problems.append(f"{item.name}: le belongs to buckets, and to nothing else")
            key = item.name, tuple(sorted(item.labels.items()))
            if key in series:
                problems.append(f"{key}: twice")
            series.add(key)
    assert not problems, "\n".join(problems)
    assert series


@pytest.mark.parametrize("name", ["headwater_query_duration_seconds", "headwater_programming_duration_seconds"])
def test_histograms_are_cumulative_and_complete(name: str, instance: FakeInstance) -> None:
    samples = families(instance)[name].samples
    buckets = [(float(item.labels["le"]), item.value) for item in samples if item.name == f"{name}_bucket"]
    (count,) = [item.value for item in samples if item.name == f"{name}_count"]
    (total,) = [item.value for item in samples if item.name == f"{name}_sum"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (float("inf"), count)
    observed = 3e-6 if "query" in name else 0.004
    assert total == pytest.approx(count * observed)
    assert all(held == (count if bound >= observed else 0.0) for bound, held in buckets)


def test_every_family_that_is_there_at_work_is_there_from_the_start() -> None:
    """If a counter appeared with its first event, graphs would miss that event."""
    at_work = families(FakeInstance(*STATES["at work"]))
    at_start = families(FakeInstance(*STATES["before anything"]))
    assert set(at_work) == set(at_start)


def test_queries_are_told_by_zone_type_rcode_and_reason() -> None:
    found = families(FakeInstance(*STATES["at work"]))["headwater_queries"].samples
    labels = [item.labels for item in found]
    assert {frozenset(item) for item in labels} == {frozenset(("zone", "type", "rcode", "reason"))}
    assert {item["zone"] for item in labels} == {"cluster.local", 'odd"zone\\x', ""}
    assert {item["type"] for item in labels} == {"A", "AAAA", "other"}
    assert {item.value for item in found} == {7.0}, "both processes together"


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ("headwater_queries_total", {"type": "A"}, 3 + 5 + 6),
        ("headwater_query_failures_total", {}, 3 + 5 + 6),
        ("headwater_query_duration_seconds_count", {}, 3 * (3 + 5 + 6)),
        ("headwater_commits_total", {}, 3 + 4),
        ("headwater_commit_failures_total", {}, 3 + 4),
        ("headwater_records_changed_total", {}, 7 * (3 + 4)),
        ("headwater_records_skipped_total", {"reason": "name"}, 3 + 4),
        ("headwater_watch_events_total", {"resource": "services"}, 10 * (3 + 4)),
        ("headwater_watch_relists_total", {"resource": "services"}, 3 + 4),
        ("headwater_watch_errors_total", {"resource": "services", "code": "500"}, 3 + 4),
        ("headwater_programming_duration_seconds_count", {}, 3 + 4),
        ("headwater_process_restarts_total", {"process": "answer 1"}, 2),
        ("headwater_process_killed_total", {"process": "watch"}, 3),
        ("headwater_process_killed_total", {"process": "answer 1"}, 0),
        ("headwater_process_exits_total", {"process": "watch", "code": "78"}, 1),
        ("headwater_process_exits_total", {"process": "watch", "code": "-9"}, 3),
        ("headwater_process_silent_seconds", {"process": "watch"}, 0),
        ("headwater_process_cpu_seconds_total", {"process": "watch"}, 3 + 4),
        ("headwater_process_cpu_seconds_total", {"process": "answer 1"}, 6),
        # A state belongs to the current process only.
        ("headwater_process_memory_bytes", {"process": "watch"}, 1 << 20),
        ("headwater_objects", {"resource": "services"}, 3),
        ("headwater_names", {"kind": "headless"}, 5),
        ("headwater_store_bytes", {}, 65536),
        ("headwater_store_free_bytes", {}, 1 << 30),
        ("headwater_store_serial", {}, 1_800_000_000),
        # Alerts are about the first of them: it would be none if the series began with it.
        ("headwater_second_opinions_total", {"result": "contradicted"}, 0),
        ("headwater_records_skipped_total", {"reason": "unexpected"}, 0),
        ("headwater_watch_connected", {"resource": "services"}, 1),
        ("headwater_watch_age_seconds", {"resource": "services"}, 0.25),
        ("headwater_ready", {}, 1),
        ("headwater_process_up", {"process": "answer 1"}, 1),
        ("headwater_build_info", {"version": __version__}, 1),
    ],
)
def test_counters_keep_what_a_dead_process_had_counted(sample: str, labels: dict[str, str], expected: float) -> None:
    instance = FakeInstance(*STATES["after restarts"])
    assert value(instance, sample, **labels) == expected
    assert value(instance, sample, **labels) == expected, "looking does not count"


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("headwater_query_failures_total", 5),
        ("headwater_commits_total", 4),
        ("headwater_query_duration_seconds_count", 15),
        ("headwater_ready", 0),
    ],
)
def test_counters_never_go_back_while_everything_is_dead(sample: str, expected: float) -> None:
    assert value(FakeInstance(*STATES["all dead"]), sample) == expected


def test_nothing_is_said_of_a_store_that_nobody_knows() -> None:
    """Between two watch processes a 0 would be a change of the serial, and a full disk."""
    found = families(FakeInstance(*STATES["all dead"]))
    assert not found["headwater_store_serial"].samples
    assert not found["headwater_store_free_bytes"].samples


def test_counters_that_begin_at_nothing_are_those_that_are_counted() -> None:
    assert get_args(Opinion) == OPINIONS


# Health and readiness


@pytest.mark.parametrize(
    ("views", "status", "named"),
    [
        ((watch(), answer(0), answer(1)), 200, ["ok"]),
        ((watch(up=False), answer(0), answer(1)), 503, ["watch"]),
        ((watch(), answer(0), answer(1, up=False)), 503, ["answer 1"]),
        ((watch(up=False), answer(0, up=False), answer(1)), 503, ["watch", "answer 0"]),
    ],
)
def test_healthz_names_the_process_that_is_down(views: tuple[ProcessView, ...], status: int, named: list[str]) -> None:
    response = page(FakeInstance(*views), "/healthz")
    assert response.status_code == status
    assert response.text == ("ok\n" if status == 200 else f"down: {', '.join(named)}\n")


@pytest.mark.parametrize(
    ("views", "named"),
    [
        ((watch(silent=2.5), answer(0)), "silent: watch (2.5 s)"),
        ((watch(), answer(0, silent=1.0), answer(1)), "silent: answer 0 (1.0 s)"),
        ((watch(silent=20.0), answer(0, silent=3.0)), "silent: watch (20.0 s), answer 0 (3.0 s)"),
        ((watch(up=False), answer(0, silent=3.0)), "down: watch; silent: answer 0 (3.0 s)"),
        # It has not started yet, which is all that is known.
        ((watch(up=False, silent=3.0), answer(0)), "down: watch"),
    ],
)
def test_healthz_names_the_process_that_does_not_get_on(views: tuple[ProcessView, ...], named: str) -> None:
    response = page(FakeInstance(*views), "/healthz")
    assert (response.status_code, response.text) == (503, f"{named}\n")


READY, NOT_READY = answered(), answered(ready=False)


@pytest.mark.parametrize(
    ("views", "status"),
    [
        ((watch(now=watched()), answer(0, now=READY), answer(1, now=READY)), 200),
        # One is enough, because CoreDNS asks the next address.
        ((watch(now=watched()), answer(0, now=READY), answer(1, up=False, now=READY)), 200),
        # The stored records are served without a watch (contract 2).
        ((watch(up=False), answer(0, now=READY)), 200),
        ((watch(now=watched(ready=False)), answer(0, now=READY)), 200),
        ((watch(now=watched(ready=False)), answer(0, now=NOT_READY), answer(1, now=NOT_READY)), 503),
        # CoreDNS takes SERVFAIL for an answer, and asks nobody else.
        ((watch(now=watched()), answer(0, now=READY), answer(1, now=NOT_READY)), 503),
        # One that has just started has said nothing.
        ((watch(now=watched()), answer(0, now=READY), answer(1)), 200),
        ((watch(now=watched()), answer(0, up=False, now=READY)), 503),
        ((watch(now=watched()), answer(0)), 503),
        ((watch(now=watched()),), 503),
        # Its state before it became silent does not count any more.
        ((watch(now=watched()), answer(0, now=READY, silent=1.0)), 503),
        ((watch(now=watched()), answer(0, now=READY, silent=1.0), answer(1, now=READY)), 200),
    ],
)
def test_ready_is_when_an_answer_process_can_answer(views: tuple[ProcessView, ...], status: int) -> None:
    instance = FakeInstance(*views)
    response = page(instance, "/readyz")
    assert response.status_code == status
    assert response.json()["ready"] is (status == 200)
    assert instance.refreshed == 1


def test_readyz_explains() -> None:
    views = (watch(now=watched(2, ready=False)), answer(0, now=NOT_READY), answer(1, up=False))
    response = page(FakeInstance(*views), "/readyz")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "ready": False,
        "answer": {"answer 0": {"up": True, "ready": False}, "answer 1": {"up": False, "ready": False}},
        "watch": {
            "up": True,
            "ready": False,
            "detail": "waiting for the first complete list of services",
            "objects": {"services": 3, "namespaces": 2},
            "resources": {
                "services": {
                    "connected": True,
                    "resourceVersion": "4711",
                    "age_seconds": 0.25,
                    "errors": {"500": 2, "unreachable": 2},
                },
                "namespaces": {"connected": False, "resourceVersion": "", "age_seconds": None, "errors": {}},
            },
        },
    }


@pytest.mark.parametrize(
    ("view", "later", "expected"),
    [
        (watch(now=watched()), 0.0, 0.25),
        (watch(now=watched()), 40.0, 40.25),
        (watch(up=False, before=watched()), 40.0, 40.25),
        # The new process has not heard the API server yet, so the previous one's time counts.
        (watch(now=WatchSnapshot(taken=NOW + 30), before=watched()), 40.0, 40.25),
    ],
)
def test_ages_grow_while_nothing_is_heard_of_the_watch_process(
    view: ProcessView, later: float, expected: float
) -> None:
    instance = FakeInstance(view)
    said = page(instance, "/readyz", now=NOW + later).json()["watch"]["resources"]["services"]
    assert said["age_seconds"] == expected
    metrics = page(instance, "/metrics", now=NOW + later).text
    assert f'headwater_watch_age_seconds{{resource="services"}} {expected}' in metrics


def test_readyz_says_why_a_process_is_down_or_silent() -> None:
    why = "--kubeconfig: /etc/kubeconfig: Permission denied"
    said = page(FakeInstance(watch(up=False, trouble=why), answer(0, now=READY, silent=2.0)), "/readyz").json()
    assert said["watch"]["detail"] == why
    assert said["answer"]["answer 0"] == {"up": True, "ready": False, "silent_seconds": 2.0}
    said = page(FakeInstance(watch(now=watched(), silent=12.0)), "/readyz").json()
    assert said["watch"]["silent_seconds"] == 12.0


def test_the_first_page_says_where_to_look() -> None:
    response = page(FakeInstance(), "/")
    assert __version__ in response.text
    for path in ("/metrics", "/healthz", "/readyz"):
        assert path in response.text


@pytest.mark.parametrize("path", ["/nope", "/metrics/more", "/../etc/passwd", "/metrics.txt"])
def test_other_pages_are_not_there(path: str) -> None:
    assert page(FakeInstance(), path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_a_slash_too_many_leads_to_the_page(path: str) -> None:
    response = page(FakeInstance(), f"{path}/")
    assert (response.status_code, httpx.URL(response.headers["location"]).path) == (307, path)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed_here(method: str) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/"):
        assert asked(FakeInstance(), method, path).status_code == 405


# /explain


def told(
    instance: FakeInstance,
    path: str,
    *,
    client: str = "127.0.0.1",
    host: str = "localhost",
    accept: str = "*/*",
) -> httpx.Response:
    """Return the application's response to a client with this address and this Host."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(instance, lambda: NOW), client=(client, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get(path, headers={"Host": host, "X-Forwarded-For": "127.0.0.1", "Accept": accept})

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("client", "host", "details", "status"),
    [
        ("127.0.0.1", "localhost:9353", "loopback", 200),
        ("127.8.8.8", "127.0.0.1", "loopback", 200),
        ("::1", "[::1]:9353", "loopback", 200),
        ("::ffff:127.0.0.1", "10.44.0.7:9353", "loopback", 200),
        ("10.44.0.7", "localhost", "loopback", 403),
        ("::ffff:10.44.0.7", "localhost", "loopback", 403),
        ("not an address", "localhost", "loopback", 403),
        # A page in a browser of this machine, whose name now resolves to loopback.
        ("127.0.0.1", "rebound.example.org:9353", "loopback", 403),
        ("10.44.0.7", "headwater.kube-system", "all", 200),
    ],
)
def test_names_are_shown_on_loopback_only_unless_to_all(client: str, host: str, details: str, status: int) -> None:
    instance = FakeInstance(*STATES["at work"])
    instance.settings = Settings(admin_details=details)  # type: ignore[arg-type]
    reply = told(instance, "/explain?name=db.prod.svc.cluster.local", client=client, host=host)
    assert reply.status_code == status, reply.text
    assert bool(instance.explained) == (status == 200)
    assert (status == 200) or "loopback" in reply.text or "localhost" in reply.text


@pytest.mark.parametrize(
    ("explanation", "path", "status", "says"),
    [
        (Explained(b'{"name":"x"}'), "/explain?name=x&type=SRV", 200, '{"name":"x"}'),
        (BadQuestion("'NO' is not a query type"), "/explain?name=x&type=NO", 400, "'NO' is not a query type"),
        (Refused("no answer process runs"), "/explain?name=x", 503, "no answer process runs"),
        (Explained(b"{}"), "/explain", 400, "/explain?name="),
        (Explained(b"{}"), f"/explain?name={'x' * 1025}", 400, "/explain?name="),
        (Explained(b"{}"), f"/explain?name=x&type={'A' * 17}", 400, "/explain?name="),
    ],
)
def test_explain_is_asked_of_an_answer_process(
    explanation: Explained | BadQuestion | Refused, path: str, status: int, says: str
) -> None:
    instance = FakeInstance(*STATES["at work"])
    instance.explanation = explanation
    reply = told(instance, path)
    assert (reply.status_code, says in reply.text) == (status, True), reply.text


# What owners and the operator asked for


def test_places_patience_and_the_policy_are_told_by_metrics_and_the_page() -> None:
    """Counters of dead processes count; the breaker is that of the living one."""
    now = WatchSnapshot(ready=True, policy={"decided": 2, "failed": 1}, policy_paused={"all": 0, "namespace": 2})
    before = WatchSnapshot(policy={"decided": 3, "failed": 0}, policy_paused={"all": 1, "namespace": 9})
    answers = AnswerSnapshot(ready=True, near=5, far=1, patience={"answered": 4, "refused": 0})
    instance = FakeInstance(
        watch(now=now, before=before), answer(0, now=answers, before=AnswerSnapshot(near=1, patience={"answered": 1}))
    )
    text = page(instance, "/metrics").text
    for line in (
        'headwater_answers_by_place_total{set="near"} 6.0',
        'headwater_answers_by_place_total{set="far"} 1.0',
        'headwater_patience_total{result="answered"} 5.0',
        'headwater_policy_calls_total{result="decided"} 5.0',
        'headwater_policy_calls_total{result="failed"} 1.0',
        'headwater_policy_paused{scope="all"} 0.0',
        'headwater_policy_paused{scope="namespace"} 2.0',
    ):
        assert line in text.splitlines()
    status = page(instance, "/status").json()
    assert status["by_place"] == {"near": 6, "far": 1}
    assert status["patience"] == {"answered": 5, "refused": 0}
    assert status["policy"] == {"decided": 5, "failed": 1}
    assert any("The policy was slow for 2 namespaces" in problem for problem in status["problems"])
    html = page(instance, "/", accept="text/html").text
    assert "<dt>answers by place</dt><dd>6 near, 1 far</dd>" in html
    assert "<dt>questions that waited, answered</dt><dd>5</dd>" in html
    assert "questions that waited, refused" not in html
    assert "<dt>calls of the policy, failed</dt><dd>1</dd>" in html


def test_without_a_policy_nothing_is_told_of_one() -> None:
    instance = FakeInstance(watch(now=watched(1)), answer(0, now=answered(1)))
    assert "headwater_policy_calls_total{" not in page(instance, "/metrics").text
    assert "headwater_policy_paused{" not in page(instance, "/metrics").text
    assert "policy" not in page(instance, "/", accept="text/html").text.split("<main>")[1]
