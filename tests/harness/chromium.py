"""A real Chromium without a window, driven over WebDriver; its requests and its console are kept.

It is Debian's, with its own driver (`tools/setup packages chromium chromedriver`): no library
downloads anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.harness.processes import wait_until

#: Seconds for what should happen at once, on a machine with other work.
SOON: Final = 15.0
_TEXT: Final = """
    return [...document.querySelectorAll(arguments[0])]
      .filter(one => one.getClientRects().length).map(one => one.innerText).join("\\n");
"""
Scheme = Literal["light", "dark"]


def require_chromium() -> tuple[str, str]:
    """The browser and its driver.

    Without them the test is skipped on a developer's machine, and fails under
    CI=true: there, a skipped test would look like a passed one.
    """
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    browser, driver = found
    if browser is None or driver is None:
        reason = "there is no Chromium with its driver (tools/setup packages chromium chromedriver)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    return browser, driver


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self.driver = driver
        self.origin = origin

    def open(self, path: str = "/") -> None:
        self.driver.get(self.origin + path)

    def be(self, width: int, height: int, *, scheme: Scheme = "light", scale: float = 1.0, phone: bool = False) -> None:
        """Have a size, in CSS pixels, and be light or dark."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector, when it is there and is shown."""

        def there() -> bool:
            return any(one.is_displayed() for one in self.driver.find_elements("css selector", selector))

        wait_until(there, SOON, f"there is {selector}")
        return next(one for one in self.driver.find_elements("css selector", selector) if one.is_displayed())

    def text(self, selector: str) -> str:
        """The text that a reader sees there; "" where nothing is."""
        return str(self.run(_TEXT, selector))

    def wait(self, selector: str, text: str) -> None:
        """Wait until a reader sees a text there."""
        wait_until(lambda: text in self.text(selector), SOON, f"{selector} says {text!r}")

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def console(self) -> list[str]:
        """What the browser has complained of since the last call."""
        return [str(line["message"]) for line in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """The addresses of all requests since the last call that no policy has stopped."""
        found, stopped = {}, set()
        for line in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(line["message"])["message"]
            about = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                found[about["requestId"]] = str(about["request"]["url"])
            elif message["method"] == "Network.loadingFailed" and about.get("blockedReason") == "csp":
                stopped.add(about["requestId"])
        return [url for number, url in found.items() if number not in stopped]

    def picture(self, file: Path) -> None:
        self.driver.save_screenshot(str(file))


@contextmanager
def browser(origin: str, folder: Path) -> Iterator[Browser]:
    """A Chromium on that origin; its profile is in `folder`."""
    binary, driver = require_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars",
             "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
             f"user-data-dir={folder / 'chromium'}")  # fmt: skip
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        found = Browser(running, origin)
        found.be(1180, 1000)
        yield found
    finally:
        running.quit()
