"""Time limits of the watch process, and its waits before it tries again.

One value is passed down; only tests shorten it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    A pair is a range: each wait is drawn from it, so that many instances do not come at once.
    """

    connect: float = 5.0
    """TCP and TLS, of one connection."""
    page: float = 60.0
    """Silence during a page of a list. A busy API server may begin late."""
    whole_page: float = 300.0
    """A page from its first byte to its last one; a slower one is given up."""
    recognize: float = 15.0
    """Silence during the request for the cluster's identity."""
    plugin: float = 15.0
    """An exec credential plug-in; then it is killed."""
    credentials: float = 5.0
    """Between two readings of credentials because of a certificate that does not verify."""
    silence: float = 95.0
    """Silence of a watch. A bookmark comes about once a minute: longer means a dead connection."""
    watch: tuple[float, float] = (300.0, 600.0)
    """How long one watch may last; the server ends it (client-go: 5 to 10 minutes)."""
    too_short: float = 1.0
    """A watch that ends well but sooner, with nothing said, is treated as an error."""
    backoff_first: float = 0.8
    """After a server's error; doubled each time, with full jitter (client-go: 0.8 to 30 s)."""
    backoff_last: float = 30.0
    reconnect: tuple[float, float] = (0.1, 1.0)
    """After a refused connection or a silent one: a connect costs the server nothing."""
    unverified: tuple[float, float] = (0.5, 2.0)
    """After a certificate that does not verify: somebody is replacing it, or what verifies it."""
    unreadable: tuple[float, float] = (1.0, 5.0)
    """After credentials that cannot be read: somebody is writing them."""
    missing: tuple[float, float] = (20.0, 40.0)
    """A missing permission, or resource, does not appear by asking often."""
    audit_pause: float = 1.0
    """Between two pages of an audit, which is in no hurry."""
    audit_grace: float = 5.0
    """How long a change may be on its way before an audit calls it lost."""
    audit_retry: float = 300.0
    """After a request of an audit that failed; the audit that it belonged to is given up."""
    sibling: float = 10.0
    """For how long an instance that is not ready is asked again for its store: it lists already."""
    second_opinion: float = 5.0
    """Between a list that would take much away and the request for a second one."""
    commit_retry: float = 1.0
    """After a commit that the disk refused."""


USUAL: Final = Timing()
