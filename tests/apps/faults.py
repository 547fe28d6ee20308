"""What may break under an application: each process of Headwater, and the API server.

Each is a block: its beginning breaks something, its end mends it if nothing else does, and returns
when all is well. Titles are those of processes: "watch", "answer 0", "answer 1", "supervisor".
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from tests.harness.arena import pause, wait_for_watches
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from tests.apps.site import Site
    from tests.harness.instance import Headwater

Fault = Callable[["Site"], AbstractContextManager[None]]

WELL: Final = 60.0  # seconds until everything is well again; a hung process is replaced within 20
AWAY: Final = 5.0  # seconds without the API server
KUBELET: Final = 1.0  # seconds until a kubelet starts a container again


def _headwater(site: Site) -> Headwater:
    assert site.headwater is not None
    return site.headwater


def _well(site: Site) -> None:
    wait_until(_headwater(site).is_complete, WELL, "all processes of Headwater run", ignoring=(OSError, KeyError))


@contextmanager
def nothing(_site: Site) -> Iterator[None]:
    yield


def kill(*titles: str) -> Fault:
    """Kill -9 processes; the supervisor replaces them."""

    @contextmanager
    def act(site: Site) -> Iterator[None]:
        for title in titles:
            _headwater(site).kill9(title)
        yield
        _well(site)

    return act


@contextmanager
def kill_supervisor(site: Site) -> Iterator[None]:
    """Kill -9 the supervisor, with which all end, and start it as a kubelet would."""
    _headwater(site).kill9("supervisor")
    pause(KUBELET)
    _headwater(site).exec()
    yield
    _well(site)


def hang(*titles: str) -> Fault:
    """Stop processes (SIGSTOP). The supervisor replaces its children; itself goes on at the end."""

    @contextmanager
    def act(site: Site) -> Iterator[None]:
        pids = [_headwater(site).pids()[title] for title in titles]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
            if titles != ("supervisor",):
                wait_until(
                    lambda: not set(pids) & set(_headwater(site).pids().values()), WELL, f"{titles} are replaced"
                )
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        _well(site)

    return act


@contextmanager
def no_api_server(site: Site) -> Iterator[None]:
    """Kill -9 the API server, and start it again after AWAY."""
    assert site.plane is not None
    site.plane.kill("kube-apiserver")
    pause(AWAY)
    site.plane.start("kube-apiserver")
    wait_for_watches(site.plane)
    yield


#: By name. While the supervisor is away nobody answers, and CoreDNS says SERVFAIL.
FAULTS: Final[dict[str, Fault]] = {
    "nothing": nothing,
    "kill -9 of watch": kill("watch"),
    "kill -9 of answer 0": kill("answer 0"),
    "kill -9 of both answer processes": kill("answer 0", "answer 1"),
    "kill -9 of the supervisor": kill_supervisor,
    "SIGSTOP of watch": hang("watch"),
    "SIGSTOP of answer 0": hang("answer 0"),
    "SIGSTOP of watch and answer 1": hang("watch", "answer 1"),
    "SIGSTOP of the supervisor": hang("supervisor"),
}
#: Those under which an application may see SERVFAIL: nobody is left who could answer.
UNANSWERED: Final = frozenset({"kill -9 of both answer processes", "kill -9 of the supervisor"})
