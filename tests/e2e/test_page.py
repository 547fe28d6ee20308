"""The page at / in a real Chromium: searching, explaining, live changes, and hostile names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from tests.fakeapi import manifests, showcase
from tests.harness.chromium import SOON, Browser, browser
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakeapi.server import FakeApiServer

DB: Final = "db.prod.svc.cluster.local"
pytestmark = pytest.mark.slow

#: CSS pixels of a small phone.
PHONE: Final = (360, 740)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeApiServer, Headwater]]:
    with showcase.showcase(tmp_path_factory.mktemp("page")) as (api, headwater):
        yield api, headwater


@pytest.fixture(scope="module")
def window(running: tuple[FakeApiServer, Headwater], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    _, headwater = running
    with browser(f"http://127.0.0.1:{headwater.admin_port}", tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture
def page(window: Browser, running: tuple[FakeApiServer, Headwater]) -> Iterator[Browser]:
    """The page, as wide as on a desk.

    Afterwards the browser has complained of nothing, and asked nobody else.
    """
    running[0].truth.put(showcase.db(True, True, False))
    window.be(1180, 1000)
    window.console()
    window.requests()
    window.open()
    yield window
    assert window.console() == []
    others = [url for url in window.requests() if not url.startswith(("data:", f"{window.origin}/"))]
    assert others == []


def test_a_name_is_found_and_explained_while_it_is_typed(page: Browser) -> None:
    field = page.find("#name")
    field.send_keys("db")
    page.wait("#names", "db-1.db.prod.svc.cluster.local")
    assert page.text("#names").splitlines()[0] == DB
    assert page.text("#explanation") == "", "nothing is meant yet"
    field.send_keys(".pr")
    wait_until(lambda: "staging" not in page.text("#names"), SOON, "what goes on otherwise is gone")
    field.send_keys("od")
    page.wait("#explanation", "10.44.7.20")
    assert "NOERROR" in page.text("#explanation .badge")
    assert "EndpointSlice db-1" in page.text("#explanation .records")
    assert "eu-central-1a" in page.text("#explanation .records")
    assert page.driver.title == f"{DB} A · headwater"
    assert page.driver.current_url == f"{page.origin}/?{urlencode({'name': DB, 'type': 'A'})}"


def test_a_name_is_chosen_with_the_keyboard(page: Browser) -> None:
    field = page.find("#name")
    field.send_keys("kafka")
    page.wait("#names", "kafka.staging.svc.cluster.local")
    field.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "name-1"
    field.send_keys(Keys.ENTER)
    page.wait("#explanation h2", "kafka.staging.svc.cluster.local")
    assert field.get_attribute("value") == "kafka.staging.svc.cluster.local"
    assert page.text("#names") == ""
    field.send_keys(Keys.ESCAPE)
    assert page.find("#type").is_displayed()


def test_another_type_is_another_question(page: Browser) -> None:
    page.open(f"/?{urlencode({'name': f'_http._tcp.{DB}', 'type': 'TXT'})}")
    page.wait("#explanation .badge", "NODATA")
    page.find("#type").send_keys("SRV")
    page.wait("#explanation .badge", "NOERROR")
    page.wait("#explanation .records", "8080")


def test_a_name_that_does_not_answer_says_why(page: Browser) -> None:
    page.find("#name").send_keys("db-2.db.prod")
    page.wait("#explanation .badge", "NXDOMAIN")
    text = page.text("#explanation")
    for part in ("not ready", "endpoints[2].conditions.ready", "kubectl -n prod describe pod db-2"):
        assert part in text
    page.find("#explanation .nearest a").click()
    page.wait("#explanation .badge", "NOERROR")


def test_a_change_is_seen_while_it_is_looked_at(page: Browser, running: tuple[FakeApiServer, Headwater]) -> None:
    api, _ = running
    page.open(f"/?{urlencode({'name': 'db-2.db.prod.svc.cluster.local', 'type': 'A'})}")
    page.wait("#explanation .badge", "NXDOMAIN")
    page.run("window.same = true")
    api.truth.put(showcase.db(True, True, True))
    page.wait("#explanation .badge", "NOERROR")
    page.wait("#explanation", "10.44.9.22")
    api.truth.put(showcase.db(True, True, True, moved=7))
    page.wait("#explanation", "10.44.9.29")
    assert page.run("return window.same"), "without loading the page again"


def test_an_explanation_stays_while_too_many_ask(page: Browser, running: tuple[FakeApiServer, Headwater]) -> None:
    """A change comes, and nobody has time to explain: what is shown is not taken away."""
    page.open(f"/?{urlencode({'name': DB, 'type': 'A'})}")
    page.wait("#explanation", "10.44.7.20")
    page.run("""
        window.asked = 0;
        const fetched = window.fetch;
        window.fetch = async (url, ...rest) => {
          if (!String(url).includes("part=explanation") || window.asked++) return fetched(url, ...rest);
          return new Response('<section class="card problem"><p>4 names are being explained already</p></section>');
        };
    """)
    running[0].truth.put(showcase.db(True, True, True))
    wait_until(lambda: page.run("return window.asked") > 0, SOON, "it is asked again")
    assert "being explained" not in page.text("#explanation")
    page.wait("#explanation", "10.44.9.22")


def test_a_reader_may_ask_more_often_than_a_connection(page: Browser) -> None:
    """100 requests end a connection of the admin port: the browser opens another."""
    asked = page.driver.execute_async_script("""
        const done = arguments[arguments.length - 1];
        (async () => {
          const found = {};
          for (let number = 0; number < 230; number++) {
            const { status } = await fetch("/names?prefix=db");
            found[status] = (found[status] || 0) + 1;
          }
          return found;
        })().then(done, (error) => done(String(error)));
    """)
    assert asked == {"200": 230}


def test_many_tabs_leave_each_other_a_connection(page: Browser, running: tuple[FakeApiServer, Headwater]) -> None:
    """A browser has six connections to a host, and a tab that listens to changes holds one."""
    driver, first = page.driver, page.driver.current_window_handle
    try:
        for _ in range(8):
            driver.switch_to.new_window("tab")
            page.open(f"/?{urlencode({'name': DB, 'type': 'A'})}")
            page.wait("#changes .live", "live")
        running[0].truth.put(showcase.db(True, True, True))
        page.wait("#explanation", "10.44.9.22")
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)
    page.wait("#changes", "10.44.9.22")


def test_the_way_back_leads_to_the_name_before(page: Browser) -> None:
    field = page.find("#name")
    for name in ("api.prod", "web.prod"):
        field = page.find("#name")
        field.clear()
        field.send_keys(name, Keys.ENTER)
        page.wait("#explanation h2", f"{name}.svc.cluster.local")
    page.driver.back()
    page.wait("#explanation h2", "api.prod.svc.cluster.local")


@pytest.mark.parametrize(
    "name", [showcase.HOSTILE, showcase.TURNED, "{{7*7}}", "a\\000b.prod", "%00%0a", "..", "\u202e", "x" * 1024]
)
def test_a_hostile_name_is_text(page: Browser, name: str) -> None:
    """Typed, and in the address: somebody may be given a link."""
    write = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    page.run(write, page.find("#name"), name)
    wait_until(lambda: page.text("#explanation") != "", SOON, "it is explained")
    for _ in range(2):
        assert page.run("return document.querySelectorAll('main img, main script').length") == 0
        assert page.driver.title != "owned"
        assert "\u202e" not in page.text("#explanation")
        page.open(f"/?{urlencode({'name': name, 'type': 'A'})}")


def test_a_hostile_object_is_text(page: Browser) -> None:
    """A namespace's owner has written annotations, a zone and a pod; an operator looks at it."""
    page.find("#name").send_keys("hostile.staging")
    page.wait("#explanation h2", "hostile.staging.svc.cluster.local")
    page.wait("#explanation .from", f"zone {showcase.HOSTILE}")
    assert f"pod {showcase.HOSTILE}\\x202e" in page.text("#explanation .from")
    assert page.run("return document.querySelectorAll('main img, main script').length") == 0
    assert page.driver.title.startswith("hostile.staging.svc.cluster.local")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", f"/?name={DB}", "/?name=db-2.db.prod", f"/?name=_http._tcp.{DB}&type=SRV",
                                  f"/?name={'x' * 300}", f"/?name={showcase.HOSTILE}"])  # fmt: skip
def test_a_phone_shows_all_of_it(page: Browser, path: str, scheme: str) -> None:
    page.be(*PHONE, scheme=scheme, phone=True)  # type: ignore[arg-type]
    page.open(path)
    page.find("#status .grid")
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]
    cut = page.run(
        "return [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
    )
    assert cut == []


#: The contrast of an element's text with what is behind it (WCAG 2.2, 1.4.3).
CONTRAST: Final = """
    const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const light = text => {
      const [r, g, b] = text.match(/[\\d.]+/g).map(part => linear(part / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(arguments[0]);
    const ground = of => getComputedStyle(of).backgroundColor;
    let behind = element;
    while (ground(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(behind))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(page: Browser, scheme: str) -> None:
    page.be(1180, 1000, scheme=scheme)  # type: ignore[arg-type]
    grounds = {}
    for name in ("db-2.db.prod", "db.prod"):
        page.open(f"/?name={name}")
        page.find("#explanation .badge")
        for selector in (
            ".badge",
            "#explanation h2",
            "#explanation .verdict",
            "#explanation h3",
            ".hints li",
            ".zones",
            "#status td",
            "#status th",
            ".facts dt",
            "button[type=submit]",
            "footer a",
            ".legend li",
        ):
            assert page.run(CONTRAST, selector) >= 4.5, selector
        grounds[name] = page.run("return getComputedStyle(document.body).backgroundColor")
    red = int(grounds["db.prod"].split("(")[1].split(",")[0])
    assert (red > 128) == (scheme == "light")


def test_an_instance_that_is_gone_is_told(page: Browser, tmp_path: Path) -> None:
    """Apart, for it is killed."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("{apiVersion: v1, kind: Namespace, metadata: {name: default}}")
    with Headwater(tmp_path, "--manifests", manifest) as headwater:
        page.driver.get(f"http://127.0.0.1:{headwater.admin_port}/")
        page.find("#status .grid")
        headwater.process.terminate(10.0)
        page.wait(".lost", "does not answer")
        headwater.start()
        wait_until(lambda: page.text(".lost") == "", SOON, "it is back")
        page.open()
    page.console()  # refused connections, of course
    page.requests()


def test_a_reader_without_a_script_sees_it(running: tuple[FakeApiServer, Headwater]) -> None:
    """In a terminal: w3m knows no script and no style."""
    if shutil.which("w3m") is None:
        reason = "there is no w3m (tools/setup packages w3m)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    _, headwater = running
    running[0].truth.put(showcase.db(True, True, False))
    wait_until(lambda: "NXDOMAIN" in read(headwater), SOON, "it is not ready")
    text = read(headwater)
    for part in ("db-2 is an endpoint of Service prod/db that is not ready.", "endpoints[2].conditions.ready = false",
                 "kubectl -n prod describe pod db-2", "All is well", "endpointslices", "answer 1"):  # fmt: skip
        assert part in text


def read(headwater: Headwater) -> str:
    """The page as w3m shows it."""
    command = ["w3m", "-dump", "-cols", "100", f"http://127.0.0.1:{headwater.admin_port}/?name=db-2.db.prod"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_nothing_is_asked_of_another_machine(window: Browser) -> None:
    """The log of requests has what the page asks: else each test's check would check nothing."""
    window.requests()
    window.open(f"/?name={DB}")
    window.find("#explanation .badge")
    seen = {urlsplit(url).path.split(".")[0] for url in window.requests() if url.startswith(window.origin)}
    assert {"/", "/assets/page"} <= seen
    window.console()


def test_the_policy_stops_what_gets_in(page: Browser) -> None:
    """If a value were not escaped one day: nothing runs or loads, and the browser complains."""
    page.run("document.querySelector('main').insertAdjacentHTML('beforeend', arguments[0])", showcase.HOSTILE)
    page.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"http://192.0.2.1/x.png\">')")
    wait_until(lambda: len(page.console()) > 0, SOON, "the browser complains")
    assert page.driver.title == "headwater"
    page.open()
    page.console()
    assert not [url for url in page.requests() if "192.0.2.1" in url]


def test_services_that_come_are_found(page: Browser, running: tuple[FakeApiServer, Headwater]) -> None:
    api, headwater = running
    api.truth.put(manifests.service("brandnew", "172.16.0.99", namespace="prod"))
    wait_until(lambda: headwater.records("brandnew.prod.svc.cluster.local") == ["172.16.0.99"], SOON, "it is served")
    page.find("#name").send_keys("brand")
    page.wait("#explanation", "172.16.0.99")
