"""Ask the policy, in its own process, within bounds (docs/policy.md).

What goes wrong counts as no decision: the Service has the records that it would have without a
policy. A call that fails is counted and logged once. A call that is slow costs a second at most,
and after three in a row the Services of that namespace are not asked for a while; after ten in a
row no Service is. Those that had the default for such a reason are asked again later.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from headwater.cluster.objects import EndpointSlice, Service
from headwater.policy.child import SIZE, Asked, Told
from headwater.records.decisions import Decided, checked, question
from headwater.records.options import Report

_log = logging.getLogger(__name__)

#: Seconds of the clock for one call, and for the process to load the policy.
PATIENCE: Final = 1.0
_LOADING: Final = 10.0
#: Slow calls in a row after which a namespace, or everybody, is not asked; for how many seconds.
NAMESPACE_BREAKS: Final = 3
ALL_BREAK: Final = 10
BREAK: Final = 60.0
#: Services that are remembered to be asked again, and of these at once.
_MOST_AGAIN: Final = 10_000
_AT_ONCE: Final = 50
#: How often one Service is asked again, at the most, with twice the time before each.
_TRIES: Final = 6
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from headwater.policy.child import main; main(sys.argv[2], int(sys.argv[3]))"
)
#: Bytes of a reply: what a decision may name has bounds of its own.
_MOST_REPLY: Final = 8 << 20
_NOT_ASKED: Final = "it was slow again and again, and is not asked for a while"
_TOLD: Final = msgspec.msgpack.Decoder(Told)

Key = tuple[str, str]


class Decider(Protocol):
    """Decides for Services."""

    def decide(self, service: Service, slices: Sequence[EndpointSlice]) -> Decided | None:
        """A policy's decision; None when it leaves the Service as it is."""


class _Gone(Exception):  # noqa: N818 (what became of the process)
    """The process does not answer, or has ended; the text says which."""


class _Process:
    """One life of the policy's process."""

    def __init__(self, name: str, path: Sequence[str]) -> None:
        """Start it and wait until the policy is loaded. Raises _Gone, OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(list(path)), name, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)
        try:
            told = self._reply(time.monotonic() + _LOADING)
        except _Gone:
            self.end()
            raise
        if told.kind != "ready":
            self.end()
            raise _Gone(f"it cannot be loaded: {told.problem}")

    def call(self, message: bytes) -> Told:
        """Raises _Gone."""
        give_up = time.monotonic() + PATIENCE
        left = memoryview(SIZE.pack(len(message)) + message)
        while left:
            _wait(give_up, writable=self._requests)
            try:
                left = left[os.write(self._requests, left) :]
            except OSError:
                raise _Gone("its process has ended") from None
        return self._reply(give_up)

    def _reply(self, give_up: float) -> Told:
        size: int = SIZE.unpack(self._read(SIZE.size, give_up))[0]
        if size > _MOST_REPLY:
            raise _Gone(f"a decision of {size:,} bytes")
        try:
            return _TOLD.decode(self._read(size, give_up))
        except msgspec.MsgspecError:
            raise _Gone("its process writes nonsense") from None

    def _read(self, size: int, give_up: float) -> bytes:
        found = b""
        while len(found) < size:
            _wait(give_up, readable=self._replies)
            more = os.read(self._replies, size - len(found))
            if not more:
                raise _Gone("its process has ended")
            found += more
        return found

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


def _wait(give_up: float, *, readable: int = -1, writable: int = -1) -> None:
    """Wait for a pipe. Raises _Gone when the time is up."""
    left = max(0.0, give_up - time.monotonic())
    found = select.select([readable] * (readable >= 0), [writable] * (writable >= 0), [], left)
    if not found[0] and not found[1]:
        raise _Gone("no answer in time")


class PolicyProcess:
    """A policy, and what is known of its calls. Belongs to one thread."""

    def __init__(self, name: str, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        """`name` is MODULE:FUNCTION; it is loaded with the first call."""
        self._name = name
        self._report = report
        self._clock = clock
        self._process: _Process | None = None
        self._slow_in_row = 0
        self._slow_of: dict[str, int] = {}
        self._closed_until: dict[str, float] = {}
        """When a namespace is asked again; "" for all."""
        self._again: dict[Key, float] = {}
        """Services that had the default for a passing reason, and when to ask again."""
        self._tries: dict[Key, int] = {}
        """How often each was asked again."""
        self.counts = dict.fromkeys(("decided", "nothing", "failed", "slow", "skipped"), 0)
        """Calls by result."""

    def load(self) -> str:
        """Load the policy. Returns what is wrong, "" for nothing."""
        try:
            self._started()
        except (_Gone, OSError) as error:
            return str(error)
        return ""

    def decide(self, service: Service, slices: Sequence[EndpointSlice]) -> Decided | None:
        """See `Decider`."""
        key, now = service.key, self._clock()
        if now < max(self._closed_until.get("", 0.0), self._closed_until.get(key[0], 0.0)):
            self.counts["skipped"] += 1
            return self._default(service, _NOT_ASKED, now, passing=True)
        try:
            told = self._started().call(msgspec.msgpack.encode(Asked(*question(service, slices))))
        except (_Gone, OSError) as error:
            self.close()
            told = Told("slow", problem=str(error))
        if told.kind == "slow":
            self._was_slow(key[0], now)
            self.counts["slow"] += 1
            return self._default(service, told.problem, now, passing=True)
        self._slow_in_row = 0
        self._slow_of.pop(key[0], None)
        self._again.pop(key, None)
        self._tries.pop(key, None)
        try:
            decided = checked(told.decision) if told.kind == "decided" else None
        except ValueError as error:
            told = Told("failed", problem=str(error))
        self.counts[told.kind] += 1
        if told.kind == "failed":
            return self._default(service, told.problem, now, passing=False)
        return decided

    def _started(self) -> _Process:
        if self._process is None:
            self._process = _Process(self._name, sys.path)
        return self._process

    def _was_slow(self, namespace: str, now: float) -> None:
        self._slow_in_row += 1
        if len(self._slow_of) > _MOST_AGAIN:
            self._slow_of.clear()
        self._slow_of[namespace] = self._slow_of.get(namespace, 0) + 1
        closed = [""] if self._slow_in_row >= ALL_BREAK else []
        closed += [namespace] if self._slow_of[namespace] >= NAMESPACE_BREAKS else []
        for place in closed:
            self._closed_until = {one: until for one, until in self._closed_until.items() if until > now}
            self._closed_until[place] = now + BREAK
            _log.warning("the policy is not asked for %s for %.0f s", place or "any Service", BREAK)

    def _default(self, service: Service, problem: str, now: float, *, passing: bool) -> Decided:
        self._report("policy", *service.key, f"the policy: {problem}")
        if passing:
            self.remember(service.key, now)
        return Decided(problem=problem, passing=passing)

    @property
    def paused(self) -> dict[str, int]:
        """Who is not asked for now: all Services (1), and how many namespaces."""
        now = self._clock()
        closed = [place for place, until in self._closed_until.items() if until > now]
        return {"all": closed.count(""), "namespace": len(closed) - closed.count("")}

    def remember(self, key: Key, now: float) -> None:
        """Let a Service be asked again later."""
        tries = self._tries.get(key, 0)
        if tries < _TRIES and (key in self._again or len(self._again) < _MOST_AGAIN):
            self._again[key] = now + BREAK * 2**tries

    def due(self) -> list[Key]:
        """The Services to be asked again now, some at a time."""
        if not self._again:
            return []
        now = self._clock()
        found = [key for key, when in self._again.items() if when <= now][:_AT_ONCE]
        if len(self._tries) > _MOST_AGAIN:
            self._tries.clear()
        for key in found:
            del self._again[key]
            self._tries[key] = self._tries.get(key, 0) + 1
        return found

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None
