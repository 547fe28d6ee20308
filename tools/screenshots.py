#!/usr/bin/env python3
"""Draw the pictures of docs/page.md into docs/images/: a company's cluster in Debian's Chromium.

    .venv/bin/python -m tools.screenshots [--minutes 15]

Queries are asked for as long as that, so that the plot has something to show. Fonts are the
machine's: those in the repository were made with fonts-inter and fonts-jetbrains-mono.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from headwater.commands.query import LookupFailed

from tests.fakeapi import showcase
from tests.harness.chromium import Browser, browser
from tests.harness.instance import Headwater

ROOT: Final = Path(__file__).resolve().parents[1]
IMAGES: Final = ROOT / "docs" / "images"
#: Asked again and again: names that are there, and what a search list makes of others.
_THERE: Final = ("db.prod", "kafka-2.kafka.prod", "api.prod", "redis.prod", "kube-dns.kube-system", "web.staging")
_NOT: Final = ("api.example.org.prod", "db.prod.svc.cluster.local.prod", "smtp.example.net")
#: What happens meanwhile.
CHANGES: Final = 7


def load(headwater: Headwater, until: float, stop: threading.Event) -> None:
    """Ask like a cluster: some ten queries a second, a third of them made by search lists."""
    while time.monotonic() < until and not stop.is_set():
        now = time.monotonic()
        names = _THERE if random.random() < 0.72 else _NOT
        try:
            headwater.ask(f"{random.choice(names)}.svc.cluster.local", worker=random.randrange(2))
        except LookupFailed:
            continue
        rate = 11 + 5 * math.sin(now / 70) + 3 * math.sin(now / 13)
        stop.wait(random.expovariate(rate))


def changes() -> Iterator[dict[str, Any]]:
    """What happens in the company's cluster; its db-2 is not ready at the end."""
    yield showcase.scaled("prod", "kafka", 6)
    yield showcase.db(True, True, True)
    yield showcase.moved("prod", "checkout", 7)
    yield showcase.db(True, True, False)
    yield showcase.scaled("analytics", "cassandra", 5)
    yield showcase.db(True, True, True, moved=19)
    yield showcase.db(True, True, False, moved=19)


def picture(view: Browser, name: str) -> None:
    """One picture, with its bytes deflated as well as they can be: browsers are in a hurry."""
    file = IMAGES / f"{name}.png"
    view.picture(file)
    data, at, chunks = file.read_bytes(), 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = zlib.compress(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), 9)
    first = next(number for number, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    kept = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    kept.insert(first, (b"IDAT", pixels))
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in kept
    ]
    file.write_bytes(data[:8] + b"".join(written))


def draw(view: Browser) -> None:
    """All pictures."""
    view.be(1180, 1130)
    view.open("/")
    field = view.find("#name")
    field.send_keys("db")
    view.wait("#names", "db-0.db.prod")
    picture(view, "page-complete")
    view.open("/?name=db-2.db.prod.svc.cluster.local&type=A")
    view.wait("#explanation", "not ready")
    view.run("document.activeElement.blur()")
    view.be(1180, 1500)
    picture(view, "page-light")
    view.be(1180, 1500, scheme="dark")
    picture(view, "page-dark")
    view.be(390, 844, scale=1.5, phone=True)
    view.open("/?name=db.prod.svc.cluster.local&type=A")
    view.wait("#explanation", "10.44.7.20")
    picture(view, "page-phone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="for how long queries are asked before")
    minutes = parser.parse_args().minutes
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, showcase.showcase(Path(name)) as (api, headwater):
        stop = threading.Event()
        until = time.monotonic() + minutes * 60
        asking = threading.Thread(target=load, args=(headwater, until + 60, stop))
        asking.start()
        try:
            began = time.monotonic()
            for number, change in enumerate(changes(), 1):
                stop.wait(max(0.0, began + number * minutes * 60 / (CHANGES + 1) - time.monotonic()))
                api.truth.put(showcase.now(change))
            stop.wait(max(0.0, until - time.monotonic()))
            with browser(f"http://127.0.0.1:{headwater.admin_port}", Path(name)) as view:
                draw(view)
        finally:
            stop.set()
            asking.join()
    for file in sorted(IMAGES.glob("*.png")):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
