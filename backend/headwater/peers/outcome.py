"""What became of a request for a store, on either side of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

#: The path of a request. Another number: another form of the copy (`store.copied`).
PATH: Final = "/seed/2"
#: Headers. The first names who asks, and is compared with who is asked.
WHO: Final = "Headwater-Who"
HEAD: Final = "Headwater-Head"
WHY: Final = "Headwater-Why"


class Served(StrEnum):
    """What became of a request that came."""

    SENT = "sent"
    CUT = "cut"
    """The other side left, or was too slow, or a page could not be read."""
    BUSY = "busy"
    """Another copy was under way."""
    NOT_READY = "not_ready"
    ITSELF = "itself"
    """It came from this instance."""
    REFUSED = "refused"
    """Without a credential, or no request for a copy."""


class Taken(StrEnum):
    """What became of the try to take a store from one address, or of the copy that was taken."""

    TAKEN = "taken"
    NO_PEER = "no_peer"
    """Nobody is there."""
    BUSY = "busy"
    NOT_READY = "not_ready"
    ITSELF = "itself"
    REFUSED = "refused"
    """One side does not believe the other."""
    UNKNOWN = "unknown"
    """It is no such server, or one of another version that sends copies of another form."""
    FORMAT = "another_format"
    SOURCE = "another_source"
    """Other selectors."""
    CLUSTER = "another_cluster"
    AHEAD = "ahead"
    """The API server has not reached its version: it was restored from a backup."""
    STALE = "stale"
    """Older than `--max-staleness`."""
    CUT = "cut"
    SLOW = "slow"
    TOO_LARGE = "too_large"
    DAMAGED = "damaged"
    """A digest or a checksum does not hold, or it is no store."""
    DISK = "disk"
    """It cannot be written here."""
