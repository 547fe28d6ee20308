"""Real processes for tests: found or built, started on free loopback ports, stopped by pid.

    def test_something(tmp_path: Path) -> None:
        with CoreDNS(tmp_path, "cluster.local {\n    grpc . unix:///…\n}\n") as dns:
            answer = dns.ask("web.default.svc.cluster.local", "A")

Nothing here sleeps for a fixed time. Every wait has a condition, a deadline, and a message that
says what did not happen.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.harness.plane import PlaneError, Running, free_port, wait_until
from tools import build

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["CoreDNS", "Running", "free_port", "require_tool", "wait_until"]

START_TIMEOUT = 30.0  # seconds; the kubernetes plugin alone waits 5 s for its first list
_SERVER_BLOCK = re.compile(r"^(?P<addresses>[^\s(#}][^{}#\n]*?)\s*\{[ \t]*$", re.MULTILINE)


def require_tool(name: str) -> Path:
    """Return the binary of one of tools/build.py's tools; build it if it is missing.

    Without Go the test is skipped on a developer's machine, and fails with CI=true, where a skipped
    test would look like a passed one. A first build takes minutes, which is longer than a test may
    take, so `make tools` does it ahead.
    """
    tool = build.TOOLS[name]
    if tool.binary().exists():
        return tool.binary()
    go = build.find_go()
    if go is None:
        reason = f"{name} {tool.version()} is not built, and Go is not installed to build it"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        build.build(tool, go)
    except SystemExit as error:
        pytest.fail(str(error))
    return tool.binary()


def on_port(corefile: str, port: int) -> str:
    """Return the Corefile with port 53 of its server blocks replaced
    by `port`; other ports stay.
    """
    return _SERVER_BLOCK.sub(lambda block: re.sub(r":53(?!\d)", f":{port}", block[0]), corefile)


def on_loopback(corefile: str, port: int) -> str:
    """Return the Corefile with every server block bound to 127.0.0.1,
    except those that say `bind`.
    """
    corefile = on_port(corefile, port)
    parts: list[str] = []
    end = 0
    for block in _SERVER_BLOCK.finditer(corefile):
        parts.append(corefile[end : block.end() + 1])
        end = block.end() + 1
        body = corefile[end : _closing_brace(corefile, end)]
        if not re.search(r"^\s*bind\s", body, re.MULTILINE):
            parts.append("    bind 127.0.0.1\n")
    return "".join([*parts, corefile[end:]])


def _closing_brace(corefile: str, start: int) -> int:
    """Return where the block that is open at `start` ends: its brace is
    alone at the start of a line.
    """
    found = re.search(r"^\}", corefile[start:], re.MULTILINE)
    return start + found.start() if found else len(corefile)


class CoreDNS:
    """The real CoreDNS with a Corefile of the test, listening on 127.0.0.1 only.

    With `everywhere` it listens on all addresses, because it has no other way to find those of the
    host. Server blocks without a port listen on `port`, and so do those with :53. The Corefile sees
    `env` as {$NAME}. `folder` has the Corefile as it was used, and `coredns.log`.
    """

    def __init__(
        self,
        folder: Path,
        corefile: str,
        *,
        port: int | None = None,
        name: str = "coredns",
        env: Mapping[str, str] | None = None,
        everywhere: bool = False,
    ) -> None:
        self.port = free_port() if port is None else port
        self.corefile = folder / ("Corefile" if name == "coredns" else f"Corefile.{name}")
        self._name = name
        self._folder = folder
        self._text = on_port(corefile, self.port) if everywhere else on_loopback(corefile, self.port)
        self._env = dict(env or {})
        self._process: Running | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers; an error quotes the end of its log."""
        self.exec()
        self.wait()

    def exec(self) -> None:
        """Start it and return at once."""
        self.corefile.write_text(self._text)
        command: list[str | Path] = [require_tool("coredns"), "-conf", self.corefile, "-dns.port", str(self.port)]
        self._process = Running(
            self._name, command, self._folder / f"{self._name}.log", env=self._env, cwd=self._folder
        )

    def wait(self) -> None:
        """Return when it answers. Raises PlaneError with the end of its log."""
        try:
            wait_until(self._answers, START_TIMEOUT, f"{self._name} answers on port {self.port}")
        except TimeoutError as error:
            log = self.process.log_tail()
            self.stop()
            raise PlaneError(f"{error}; its log ends with:\n{log}") from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process = None

    @property
    def process(self) -> Running:
        if self._process is None:
            raise PlaneError(f"{self._name} is not running")
        return self._process

    @property
    def log(self) -> Path:
        return self._folder / f"{self._name}.log"

    def ask(
        self,
        name: str,
        rdtype: str = "A",
        *,
        tcp: bool = False,
        edns: bool = False,
        payload: int = 1232,
        dnssec_ok: bool = False,
        rdclass: str = "IN",
        timeout: float = 5.0,
    ) -> dns.message.Message:
        """Send one query, over UDP unless `tcp`, and return the reply.

        Raises dns.exception.Timeout. A truncated reply is returned, and not asked for again over
        TCP. `payload` is the UDP size in the OPT if `edns` is set.
        """
        query = dns.message.make_query(
            name,
            rdtype,
            rdclass,
            use_edns=0 if edns or dnssec_ok else False,
            want_dnssec=dnssec_ok,
            payload=payload,
        )
        if tcp:
            return dns.query.tcp(query, "127.0.0.1", timeout=timeout, port=self.port)
        return dns.query.udp(query, "127.0.0.1", timeout=timeout, port=self.port, ignore_unexpected=True)

    def records(self, name: str, rdtype: str = "A", *, tcp: bool = False) -> list[str]:
        """Return the rdata of this type in the answer section,
        sorted: ["10.44.0.1", "10.44.0.2"].
        """
        wanted = dns.rdatatype.from_text(rdtype)
        answer = self.ask(name, rdtype, tcp=tcp, edns=True, payload=4096).answer
        return sorted(rdata.to_text() for rrset in answer if rrset.rdtype == wanted for rdata in rrset)

    def _answers(self) -> bool:
        """Return whether both listeners give any reply, be it REFUSED."""
        self.process.require_running()
        try:
            # TCP first, because it is refused at once, while UDP would wait for its timeout.
            for tcp in (True, False):
                self.ask("version.bind", "TXT", rdclass="CH", tcp=tcp, timeout=1.0)
        except (OSError, dns.exception.DNSException):
            return False
        return True
