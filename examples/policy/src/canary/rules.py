"""Canaries get a share of the clients, and pods that end get none.

A Service opts in by its annotation:

    headwater.dev/policy: canary=5

Its pods whose names have `-canary-` in them then share 5 % of the clients, all others the rest.
Pods that terminate have the last priority: clients go to them only when no other is left. The first
canary in order of its name has the name `canary.SERVICE.NAMESPACE.svc.Z`, for a look at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from headwater.policy.api import Decision, Endpoint, Service

_WORD = re.compile(r"canary=(\d{1,2})")
#: Weights of both kinds together, and the priority of pods that end.
_ALL = 10_000
_LAST = 100


def decide(service: Service, endpoints: tuple[Endpoint, ...]) -> Decision | None:
    """The policy."""
    found = _WORD.fullmatch(service.annotations.get("headwater.dev/policy", ""))
    if found is None or not service.headless:
        return None
    percent = int(found[1])
    ready = [item for item in endpoints if item.ready or item.serving]
    canaries = [item for item in ready if "-canary-" in item.pod]
    others = [item for item in ready if item not in canaries]
    return Decision(
        ttl=5,
        publish="serving",
        weights={**_shares(canaries, percent), **_shares(others, 100 - percent)},
        priorities={item.name: _LAST for item in ready if item.terminating},
        aliases={"canary": [min(item.name for item in canaries)]} if canaries else {},
        why=f"{len(canaries)} canaries share {percent} %",
    )


def _shares(members: Sequence[Endpoint], percent: int) -> dict[str, int]:
    return {item.name: _ALL * percent // 100 // len(members) for item in members}
