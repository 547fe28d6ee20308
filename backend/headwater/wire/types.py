"""The numbers of DNS: types, classes, response codes, sizes. They stand here and nowhere else."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

# Types (RFC 1035 section 3.2.2, RFC 3596, RFC 2782, RFC 6891).
A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
IXFR: Final = 251
AXFR: Final = 252

#: The one class that is served (section 3.2.4).
IN: Final = 1

#: The header of a message (section 4.1.1).
HEADER_SIZE: Final = 12
#: What a message has at most over TCP, and so over gRPC.
MAX_MESSAGE: Final = 65_535


class Rcode(IntEnum):
    """RFC 1035 section 4.1.1, RFC 6891 section 9."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16
