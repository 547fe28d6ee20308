"""The numbers of DNS: types, classes, response codes. No other module repeats them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

# Types (RFC 1035 section 3.2.2, RFC 3596, RFC 2782, RFC 3403, RFC 6891, RFC 9460).
# Plain integers: an enumeration's attribute costs a call, and the hot path reads these.
A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
NAPTR: Final = 35
OPT: Final = 41
SVCB: Final = 64
HTTPS: Final = 65
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

#: The names of the types that clients ask for.
MNEMONICS: Final = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT", AAAA: "AAAA",
    SRV: "SRV", NAPTR: "NAPTR", SVCB: "SVCB", HTTPS: "HTTPS", ANY: "ANY",
}  # fmt: skip

#: Types whose rdata is an address.
ADDRESSES: Final = frozenset((A, AAAA))
#: Zone transfers (RFC 5936, RFC 1995).
TRANSFERS: Final = frozenset((IXFR, AXFR))

#: The one class that is served (section 3.2.4).
IN: Final = 1


class Rcode(IntEnum):
    """RFC 1035 section 4.1.1, RFC 6891 section 9."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16
