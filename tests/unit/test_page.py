"""The page at /: what it shows and to whom; nothing that somebody wrote becomes part of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any, Final

import httpx
import msgspec
import pytest
from headwater import __version__
from headwater.admin.page import HEADERS, PARTS, Asked, Page, Shown, duration, rate, reversed_address, size
from headwater.admin.plot import HEIGHT, WIDTH, plot_of
from headwater.admin.recent import STEP, STEPS, Recent
from headwater.admin.server import application
from headwater.advice.finding import Advice, Finding, Rule, Subject
from headwater.explain.completion import Completion, Named
from headwater.explain.explanation import Cause as Why
from headwater.explain.explanation import Deciding, Explanation, Look, Near, Origin, Outcome, Ref
from headwater.explain.explanation import Shown as Record
from headwater.explain.told import Cause, Owner, Told
from headwater.explain.told import Page as History
from headwater.process import control
from headwater.process.control import Advised, BadQuestion, Completed, Explained, Refused
from headwater.process.counters import AnswerSnapshot, ProcessView, WatchSnapshot
from headwater.settings.settings import Settings

from tests.fakeapi.showcase import HOSTILE, TURNED
from tests.unit.test_admin import NOW, STATES, FakeInstance, answer, answered, told, watch, watched

REMOTE: Final = "10.44.0.7"
HTML: Final = {"Accept": "text/html,*/*"}


def got(instance: FakeInstance, path: str, *, client: str = "127.0.0.1", accept: str = "text/html") -> httpx.Response:
    return told(instance, path, client=client, accept=accept)


def at_work() -> FakeInstance:
    return FakeInstance(watch(now=watched(3)), answer(0, now=answered(3)), answer(1, now=answered(4)))


def explaining(explanation: Explanation | BadQuestion | Refused, exact: str = "") -> FakeInstance:
    instance = at_work()
    isnt = isinstance(explanation, BadQuestion | Refused)
    instance.explanation = explanation if isnt else Explained(msgspec.json.encode(explanation))  # type: ignore[assignment]
    instance.completion = Completed(msgspec.json.encode(Completion("", exact, [], more=False)))
    return instance


def entry(seq: int, time: str = "2026-01-31T14:03:07.120Z", text: str = "", **more: Any) -> Told:
    """One line of the history; each of its texts is `text` where that is given."""
    fields = {
        "owner": Owner(text or "Service", text or "prod", text or "db"),
        "added": [text or "10.0.0.7 web-1"], "removed": [text or "10.0.0.6 web-1"], "more": 2,
        "cause": Cause(text or "EndpointSlice", text or "prod", text or "db-x", text or "88", [text or "web-1 moved"]),
        "delay": 0.012, "kind": "change", "text": text, "serial": 1,
    }  # fmt: skip
    return Told(seq=seq, time=time, **{**fields, **more})


def advice(text: str, count: int = 1, more: int = 0) -> Advised:
    """Advice with that text in every place that has room for one."""
    found = [Finding(Rule.TTL, Subject(text, f"{text}{number // 8}", f"{text}{number}"), text, text, text)
             for number in range(count)]  # fmt: skip
    return Advised(msgspec.json.encode(Advice(found, more, unknown=[text])))


def past(*entries: Told, note: str = "") -> control.Told:
    page = History(list(entries), None, None, note, max((one.seq for one in entries), default=0))
    return control.Told(msgspec.json.encode(page))


def hostile(text: str) -> Explanation:
    """An explanation with that text in every place that has room for one."""
    ref = Ref(text, text, text, text)
    return Explanation(
        text, text, Outcome.NXDOMAIN, Why.HOST_NOT_READY, text, text,
        [Record(text, text, 5, text, [Origin(ref, text, text, text, 1.0), Origin(ref)])], 3,
        [Deciding(ref, text, text), Deciding(Ref("flag", "", text), text, text)], [text], [Near(text, text)], [text],
        [Look(text, text, text, text, text)], [text], NOW, NOW + 5, text,
    )  # fmt: skip


class Elements(HTMLParser):
    """What a browser makes of a page: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# What it shows


def test_the_page_says_that_all_is_well() -> None:
    instance = at_work()
    instance._views[0].snapshot.resources.pop("namespaces")  # type: ignore[union-attr]
    instance._views[0].snapshot.objects.pop("namespaces")  # type: ignore[union-attr]
    for view in instance._views[1:]:
        view.snapshot.failures = 0  # type: ignore[union-attr]
    text = Elements(got(instance, "/").text).text
    assert "All is well" in text
    for part in (__version__, "cluster.local", "services", "answer 1", "last of 3 commits"):
        assert part in text


@pytest.mark.parametrize(
    ("views", "problem"),
    [
        ((watch(up=False, trouble="no credentials"), answer(0, now=answered())), "watch is down: no credentials"),
        ((watch(now=watched()), answer(0, up=False)), "No answer process can answer."),
        ((watch(now=watched()), answer(0, now=answered(), silent=2.5)),
         "answer 0 is silent: it has not got on for 2.5 s"),
        ((watch(now=watched(ready=False)), answer(0, now=answered())),
         "watch is not ready: waiting for the first complete list of services"),
        ((watch(now=watched()), answer(0, now=answered())),
         "There is no connection to the API server for namespaces; what is stored is served"),
        ((watch(now=watched()), answer(0, now=answered(7))), "Queries that met a bug: 7. The log has them."),
        ((watch(now=watched()), answer(0, now=AnswerSnapshot(ready=True, damage=2))),
         "Reads that met a damaged page of the store: 2"),
        ((watch(now=watched()), answer(0, now=AnswerSnapshot(ready=True, stale=True))), "answer 0 is stale"),
    ],
)  # fmt: skip
def test_the_page_says_what_is_wrong(views: tuple[ProcessView, ...], problem: str) -> None:
    html = got(FakeInstance(*views), "/")
    assert html.status_code == 200, "it is the page that says so"
    text = Elements(html.text).text
    assert problem in text
    assert "All is well" not in text
    told = got(FakeInstance(*views), "/status", accept="*/*").json()
    assert problem in told["problems"]


@pytest.mark.parametrize("state", STATES)
def test_the_page_is_there_in_every_state(state: str) -> None:
    for path in ("/", "/?part=status", "/status"):
        assert got(FakeInstance(*STATES[state]), path).status_code == 200


def test_those_who_ask_for_no_html_get_lines() -> None:
    reply = got(at_work(), "/", accept="*/*")
    assert reply.headers["content-type"].startswith("text/plain")
    assert f"headwater {__version__}" in reply.text
    assert reply.headers["vary"] == "Accept"


def test_a_name_is_explained_without_a_script() -> None:
    instance = explaining(
        Explanation(
            "db-2.db.prod.svc.cluster.local", "A", Outcome.NXDOMAIN, Why.HOST_NOT_READY, "db-2 is not ready.",
            deciding=[Deciding(Ref("EndpointSlice", "prod", "db-1", "4711"), "endpoints[2].conditions.ready", "false")],
            nearest=[Near("db-1.db.prod.svc.cluster.local", "an endpoint")],
        )
    )  # fmt: skip
    found = Elements(got(instance, "/?name=db-2.db.prod.svc.cluster.local&type=A").text)
    for part in ("NXDOMAIN", "db-2 is not ready.", "EndpointSlice prod/db-1", "version 4711", "an endpoint"):
        assert part in found.text
    assert ("a", {"href": "/?name=db-1.db.prod.svc.cluster.local&type=A"}) in found.found
    forms = [attributes for tag, attributes in found.found if tag == "form"]
    assert [(form["action"], form["method"]) for form in forms] == [("/", "get")]
    (field,) = [attributes for tag, attributes in found.found if tag == "input"]
    assert (field["name"], field["value"]) == ("name", "db-2.db.prod.svc.cluster.local")


@pytest.mark.parametrize(
    ("typed", "exact", "asked"),
    [
        ("db.prod", "db.prod.svc.cluster.local", ("db.prod.svc.cluster.local", "SRV")),
        ("db", "", ("db", "SRV")),
        ("10.1.2.3", "", ("3.2.1.10.in-addr.arpa", "PTR")),
        ("fd00::1", "", (reversed_address("fd00::1"), "PTR")),
    ],
)
def test_what_is_typed_short_is_asked_whole(typed: str, exact: str, asked: tuple[str, str]) -> None:
    instance = explaining(Refused("busy"), exact)
    assert "busy" in got(instance, f"/?name={typed}&type=SRV").text
    assert [(one.name, one.qtype) for one in instance.explained] == [asked]


@pytest.mark.parametrize(
    "path", [f"/?name={'x' * 1025}", f"/?name=x&type={'A' * 17}", f"/?part=explanation&name={'x' * 1025}"]
)
def test_what_is_too_long_is_not_asked(path: str) -> None:
    instance = explaining(Refused("busy"))
    assert "at most" in got(instance, path).text
    assert instance.explained == []


def test_pieces_are_what_the_page_has() -> None:
    instance = explaining(hostile("x"))
    for part in PARTS:
        assert got(instance, f"/?part={part}&name=x").status_code == 200
    assert got(instance, "/?part=other").status_code == 404
    piece = got(instance, "/?part=explanation&name=x").text.strip()
    assert piece in got(instance, "/?name=x").text
    assert piece.startswith("<article")


def test_the_history_is_shown_without_a_script() -> None:
    instance = explaining(
        Explanation("web-1.db.prod.svc.cluster.local", "A", Outcome.ANSWER, Why.ANSWERED, "It is.", "cluster.local")
    )
    gap = entry(1, kind="gap", owner=None, added=[], removed=[], more=0, cause=None, delay=None,
                text="2026-01-31T14:03:07.120Z gap: not running from then to now")  # fmt: skip
    other = entry(2, owner=Owner("Pod", "prod", "10.0.0.9"), cause=None, delay=None, more=0)
    instance.past = past(entry(3), other, gap)
    found = Elements(got(instance, "/?name=web-1.db.prod").text)
    assert [one.name for one in instance.told] == ["web-1.db.prod.svc.cluster.local", ""]
    text = " ".join(found.text.split())
    assert "Its history" in text
    for part in ("2026-01-31 14:03", "10.0.0.6 web-1", "+10.0.0.7 web-1", "and 2 more", "web-1 moved",
                 "served within 1 s", "pod address prod/10.0.0.9", "not running from then to now"):  # fmt: skip
        assert part in text
    links = [attributes.get("href") for tag, attributes in found.found if tag == "a"]
    assert "/?name=db.prod.svc.cluster.local&type=A" in links
    newest = [attributes.get("data-newest") for tag, attributes in found.found if tag == "ol"]
    assert newest == ["3", "3"], "its history, and all changes"


@pytest.mark.parametrize(
    ("told", "says", "lists"), [(Refused("busy"), "", 0), (past(note="no history is kept"), "no history is kept", 1)]
)
def test_an_instance_without_a_history_shows_none(told: control.Told | Refused, says: str, lists: int) -> None:
    instance = at_work()
    instance.past = told
    for path in ("/", "/?part=changes"):
        found = Elements(got(instance, path).text)
        assert says in found.text
        assert len([tag for tag, _ in found.found if tag == "ol"]) == lists


def test_what_is_in_no_zone_has_no_history() -> None:
    instance = explaining(Explanation("www.example.org", "A", Outcome.REFUSED, Why.ZONE_NOT_SERVED, "No."))
    instance.past = past(entry(1))
    assert "Its history" not in got(instance, "/?part=explanation&name=www.example.org").text
    assert instance.told == []


def test_what_will_not_work_is_shown_without_a_script_and_nothing_when_all_is_well() -> None:
    instance = at_work()
    assert "will not work" not in Elements(got(instance, "/").text).text
    instance.advice = advice("<db>", 40, 5)  # eight of each namespace
    text = Elements(got(instance, "/").text).text
    assert "Services that will not work as written 45" in " ".join(text.split())
    assert "<db>0/<db>4 " in text
    assert "<db>0/<db>5 " not in text
    assert "<db>3/<db>28 " in text
    assert "<db>4/" not in text
    assert "and 25 more" in text
    assert got(instance, "/?part=advice").text.strip() in got(instance, "/").text
    instance.advice = Refused("busy")
    assert got(instance, "/").status_code == 200


# To whom


@pytest.mark.parametrize("path", ["/", "/?name=db.prod.svc.cluster.local", "/?part=status"])
def test_others_see_the_instance_without_names(path: str) -> None:
    instance = explaining(hostile("secret"))
    instance.past = past(entry(1, text="secret"))
    instance.advice = advice("secret")
    reply = got(instance, path, client=REMOTE)
    assert reply.status_code == 200
    assert (instance.explained, instance.completed, instance.told, instance.advised) == ([], [], [], [])
    assert "secret" not in reply.text
    assert "<form" not in reply.text
    assert "services" in reply.text
    if "part" not in path:
        assert "port-forward" in reply.text
        assert "loopback only" in reply.text


@pytest.mark.parametrize(
    "path", ["/names?prefix=db", "/?part=explanation&name=db.prod", "/?part=changes", "/?part=advice", "/advice"]
)
def test_others_are_refused_names(path: str) -> None:
    instance = explaining(hostile("secret"))
    instance.advice = advice("secret")
    instance.past = past(entry(1, text="secret"))
    reply = got(instance, path, client=REMOTE)
    assert reply.status_code == 403
    assert "secret" not in reply.text
    assert "loopback" in reply.text
    assert (instance.explained, instance.completed, instance.told, instance.advised) == ([], [], [], [])
    instance.settings = Settings(admin_details="all")
    assert got(instance, path, client=REMOTE).status_code == 200


def test_a_page_of_another_name_is_refused_names() -> None:
    """DNS rebinding: a page in a browser of this machine, whose name now resolves to loopback."""
    instance = explaining(hostile("secret"))
    for path in ("/names?prefix=db", "/?part=explanation&name=db", "/?name=db"):
        reply = told(instance, path, host="rebound.example.org:9353", accept="text/html")
        assert "secret" not in reply.text
    assert (instance.explained, instance.completed) == ([], [])


@pytest.mark.parametrize("client", ["127.0.0.1", REMOTE])
def test_the_status_has_no_name_of_an_object(client: str) -> None:
    reply = got(at_work(), "/status", client=client, accept="*/*")
    assert reply.status_code == 200
    assert set(reply.json()) == {
        "version", "ready", "problems", "zones", "uptime_seconds", "processes", "resources", "names", "store_bytes",
        "commits", "commit_seconds", "records_changed", "change_seconds", "queries", "by_place", "patience", "policy",
    }  # fmt: skip
    assert reply.json()["names"] == {"headless": 5}


def test_strangers_cost_the_supervisor_one_page_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of /readyz must not wait for all of them."""
    instance, now, made = at_work(), [NOW], list[str]()
    render = Page.render

    def counted_render(page: Page, part: str, shown: Shown) -> str:
        made.append(part)
        return render(page, part, shown)

    monkeypatch.setattr(Page, "render", counted_render)

    async def ask() -> list[str]:
        transport = httpx.ASGITransport(application(instance, lambda: now[0]), client=(REMOTE, 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = [await client.get("/", headers=HTML) for _ in range(20)]
            await client.get("/status")
            assert (instance.refreshed, len(made)) == (1, 1)
            now[0] += 0.25
            found.append(await client.get("/", headers=HTML))
            assert (instance.refreshed, len(made)) == (2, 2)
            hosts = [{**HTML, "Host": f"{number}.example.org"} for number in range(20)]
            found += [await client.get("/", headers=headers) for headers in hosts]
            return [reply.text for reply in found]

    assert all("All is well" in text or "not well" in text for text in asyncio.run(ask()))


# /names


def test_names_are_completed() -> None:
    instance = at_work()
    completion = Completion("db", "", [Named("db.prod.svc.cluster.local", "service", 3)], more=True)
    instance.completion = Completed(msgspec.json.encode(completion))
    reply = got(instance, "/names?prefix=db&limit=7", accept="*/*")
    assert msgspec.json.decode(reply.content, type=Completion) == completion
    assert [(one.typed, one.limit) for one in instance.completed] == [("db", 7)]
    instance.completion = Refused("no answer process runs")
    assert got(instance, "/names?prefix=db", accept="*/*").status_code == 503


@pytest.mark.parametrize(
    "query", [f"prefix={'x' * 1025}", "prefix=x&limit=-1", "prefix=x&limit=9999", "limit=x", "limit=²"]
)
def test_other_completions_are_refused(query: str) -> None:
    instance = at_work()
    assert got(instance, f"/names?{query}").status_code == 400
    assert instance.completed == []


# Nothing that somebody wrote becomes part of it


def wrong_in(html: str) -> list[str]:
    """What runs, is loaded from elsewhere, or needs an inline style or script."""
    found = []
    for tag, attributes in Elements(html).found:
        if tag in ("style", "iframe", "object", "embed", "base", "img") or (
            tag == "script" and "src" not in attributes
        ):
            found.append(f"<{tag}>")
        for name, value in attributes.items():
            if name.startswith("on") or name == "style":
                found.append(f"{tag} {name}=")
            if name in ("src", "href", "action") and not re.match(r"/(?!/)|#|data:image/svg", value or ""):
                found.append(f"{tag} {name}={value}")
    return found


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE, '"><script>alert(1)</script>', "'><img src=x onerror=alert(1)>", "{{ 7 * 7 }}{% raw %}",
        "javascript:alert(1)", "</article></main><script src=//evil.example/x.js></script>", "&lt;b&gt;", "-->",
    ],
)  # fmt: skip
def test_what_others_wrote_is_text(text: str) -> None:
    found = explaining(hostile(text))
    found.past = past(entry(2, text=text), entry(1, text=text, kind="gap", owner=None), note=text)
    found.advice = advice(text)
    for path in ("/", "/?part=explanation&", "/?part=changes&", "/?part=advice&"):
        html = told(found, f"{path}{'' if '?' in path else '?'}name=x", accept="text/html").text
        assert wrong_in(html) == []
        parsed = Elements(html)
        assert text in parsed.text
        links = [attributes["href"] for tag, attributes in parsed.found if tag == "a"]
        assert all(link and link.startswith(("/", "#status")) for link in links)
    params = httpx.QueryParams({"name": text, "type": "A"})
    html = told(explaining(Refused(text)), f"/?{params}", accept="text/html").text
    assert wrong_in(html) == []
    (field,) = [attributes for tag, attributes in Elements(html).found if tag == "input"]
    assert field["value"] == text.strip()


def test_the_test_would_find_what_runs() -> None:
    for html in (
        HOSTILE,
        "<p style='x'>",
        "<a href='javascript:1'>",
        "<a href='//evil.example'>",
        "<script>1</script>",
    ):
        assert wrong_in(html) != []


def test_characters_that_nobody_sees_are_shown() -> None:
    html = told(explaining(hostile(TURNED)), "/?name=x", accept="text/html").text
    assert "\u202e" not in html
    assert "\x07" not in html
    assert "\\x202emoc.elgoog\\x202c\\x07" in html


@pytest.mark.parametrize("client", ["127.0.0.1", REMOTE])
def test_every_reply_to_a_browser_has_the_policy(client: str) -> None:
    instance = explaining(hostile("x"))
    html = told(instance, "/", client=client, accept="text/html")
    assets = re.findall(r'"(/assets/[^"]+)"', html.text)
    assert len(assets) == 2
    for path in ["/", "/?name=x", *(f"/?part={part}&name=x" for part in PARTS), *assets]:
        reply = told(instance, path, client=client, accept="text/html")
        for name, value in HEADERS.items():
            assert reply.headers[name] == value, path
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == "'self' data:"
    assert set(policy.values()) == {"'self'", "'none'"}


def test_assets_are_kept_for_ever_and_change_their_name() -> None:
    page = Page()
    instance = at_work()
    for name, asset in page.assets.items():
        reply = told(instance, f"/assets/{name}")
        assert reply.content == asset.data
        assert "immutable" in reply.headers["cache-control"]
        assert reply.headers["content-type"].startswith(asset.media)
        assert re.fullmatch(r"page\.[0-9a-f]{16}\.(css|js)", name)
    for other in ("page.css", "..%2fpage.html", "page.html", "%2e%2e/server.py"):
        assert told(instance, f"/assets/{other}").status_code == 404
    assert told(instance, "/", accept="text/html").headers["cache-control"] == "no-store"


def test_assets_ask_nobody_else() -> None:
    for asset in Page().assets.values():
        assert not re.search(rb"https?:|//[a-z]+\.|@import|url\(|eval|innerHTML|insertAdjacentHTML|document\.write",
                             re.sub(rb"(?m)^\s*//.*$", b"", asset.data))  # fmt: skip


def test_templates_are_loaded_when_they_are_asked_for() -> None:
    """4 MiB and a tenth of a second that an instance without a reader does not pay."""
    script = """
import asyncio, sys
import httpx
from tests.unit.test_admin import *
from headwater.supervise import supervisor
instance = FakeInstance(watch(now=watched()))
assert "jinja2" not in sys.modules
app = application(instance, lambda: NOW)
async def ask(accept):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get("/", headers={"Accept": accept})).status_code == 200
asyncio.run(ask("*/*"))
assert "jinja2" not in sys.modules
asyncio.run(ask("text/html"))
assert "jinja2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# The last minutes


def counted(count: int) -> list[ProcessView]:
    return [watch(now=WatchSnapshot(commits=count)), answer(0, now=answered(count), before=answered(2))]


def test_the_queries_of_each_step_are_told_by_rcode() -> None:
    recent = Recent()
    for step, count in enumerate((1, 4, 4, 9)):
        for part in range(10):  # rounds of a step: only its first is looked at
            recent.note(1000 + STEP * step + part * 0.5, counted(count))
    series = recent.series()
    assert series["NOERROR"] == [6, 0, 10]
    assert set(series) == {"NOERROR", "SERVFAIL"}
    assert (recent.began, recent.committed) == (1000, 1000 + 3 * STEP)
    assert recent.changed is None


def test_the_steps_of_a_quarter_of_an_hour_are_kept() -> None:
    recent = Recent()
    for step in range(3 * STEPS):
        recent.note(STEP * step, counted(step))
    assert [len(steps) for steps in recent.series().values()] == [STEPS, STEPS]


def test_time_that_nobody_has_told_is_no_time_without_queries() -> None:
    recent = Recent()
    for moment, count in ((0, 1), (5, 2), (30, 60), (35, 61)):
        recent.note(moment, counted(count))
    assert recent.series()["NOERROR"] == [2, None, None, None, None, None, 2]
    recent.note(1e9, counted(70))
    assert set(recent.steps) == {None}


def test_a_dead_process_takes_no_queries_with_it() -> None:
    recent = Recent()
    recent.note(0, [answer(0, now=answered(5))])
    recent.note(5, [answer(0, up=False, before=answered(6))])
    recent.note(10, [answer(0, now=answered(2), before=answered(6))])
    assert recent.series()["NOERROR"] == [2, 4]


def test_the_plot_stacks_bars_up_to_a_round_number() -> None:
    plot = plot_of({"NXDOMAIN": [5, 0], "NOERROR": [10, 30], "SERVFAIL": [None, 2]}, 5.0)
    assert [bars.rcode for bars in plot.bars] == ["NOERROR", "NXDOMAIN", "SERVFAIL"]
    assert plot.top == 8  # 32 in 5 s
    assert plot.bars[0].path == f"M{WIDTH - 8},{HEIGHT}.0v-25.0h3v25.0zM{WIDTH - 4},{HEIGHT}.0v-75.0h3v75.0z"
    assert plot.bars[1].path == f"M{WIDTH - 8},75.0v-12.5h3v12.5z"
    assert plot.bars[2].path == f"M{WIDTH - 4},25.0v-5.0h3v5.0z"
    assert [bars.total for bars in plot.bars] == [40, 5, 2]
    assert plot_of({}, 5.0).bars == []
    assert plot_of({"NOERROR": [5_000_001]}, 5.0).top == 2_000_000


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (duration(None), "never"), (duration(0.4), "0 s"), (duration(119), "119 s"), (duration(120), "2 min"),
        (duration(7200), "2 h"), (duration(200_000), "2 d"), (size(0), "0 B"), (size(1023), "1023 B"),
        (size(2048), "2.0 KiB"), (size(60 << 20), "60 MiB"),
        (rate(0), "0"), (rate(3.26), "3.3"), (rate(12345), "12,345"),
        (reversed_address("db.prod"), ""), (reversed_address("10.0.0.1"), "1.0.0.10.in-addr.arpa"),
    ],
)  # fmt: skip
def test_numbers_are_words(said: str, expected: str) -> None:
    assert said == expected


def test_an_unanswered_question_has_no_explanation() -> None:
    assert Asked().explanation is None
    html = got(explaining(BadQuestion("'NO' is not a query type")), "/?name=x&type=NO").text
    assert "&#39;NO&#39; is not a query type" in html
    assert "<option selected>NO</option>" in html
