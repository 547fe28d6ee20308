"""Real processes for tests: found or built, started on free loopback ports, stopped by pid.

    def test_something(tmp_path: Path) -> None:
        with CoreDNS(tmp_path, "cluster.local {\n    grpc . unix:///…\n}\n") as dns:
            answer = dns.ask("web.default.svc.cluster.local", "A")

Nothing here waits for a time to pass: every wait has a condition, a deadline,
and a message that says what did not happen.
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
    """The binary of one of tools/build.py's tools, built now when it is missing.

    Without Go the test is skipped on a developer's machine, and fails under
    CI=true: there, a skipped test would look like a passed one. A first build
    takes minutes, longer than a test may: `make tools` does it ahead.
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
    """The Corefile with port 53 replaced by `port` where server blocks name it; other ports in it stay."""
    return _SERVER_BLOCK.sub(lambda block: re.sub(r":53(?!\d)", f":{port}", block[0]), corefile)


def on_loopback(corefile: str, port: int) -> str:
    """The same with every server block bound to 127.0.0.1; blocks that say `bind` themselves stay as they are."""
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
    """Where the block that is open at `start` ends: its brace stands alone at the start of a line."""
    found = re.search(r"^\}", corefile[start:], re.MULTILINE)
    return start + found.start() if found else len(corefile)


class CoreDNS:
    """The real CoreDNS on a Corefile of the test's own, listening on 127.0.0.1 only.

    `everywhere` lets it listen on all addresses: it knows no other way which are the host's.
    Server blocks without a port listen on `port`, and so do those that say :53.
    `env` is visible to the Corefile as {$NAME}. The Corefile, as it was used,
    and `coredns.log` are in `folder`.
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
        """Return when it answers; PlaneError with the end of its log when it does not."""
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
        """One query, one answer, over UDP unless `tcp`; dns.exception.Timeout without an answer.

        A truncated answer is returned as such, not asked for again over TCP.
        `payload` is the UDP size that the OPT offers when `edns` is set.
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
        """The rdata of that type in the answer section, sorted: ["10.44.0.1", "10.44.0.2"]."""
        wanted = dns.rdatatype.from_text(rdtype)
        answer = self.ask(name, rdtype, tcp=tcp, edns=True, payload=4096).answer
        return sorted(rdata.to_text() for rrset in answer if rrset.rdtype == wanted for rdata in rrset)

    def _answers(self) -> bool:
        """Any answer will do, REFUSED too: it shows that both listeners are there."""
        self.process.require_running()
        try:
            # TCP first: it is refused at once while UDP would wait out its time.
            for tcp in (True, False):
                self.ask("version.bind", "TXT", rdclass="CH", tcp=tcp, timeout=1.0)
        except (OSError, dns.exception.DNSException):
            return False
        return True
