"""Headwater: a DNS backend for CoreDNS that keeps all answers of a cluster ready in wire format."""

# A constant, and where the build reads it: asking the installed metadata costs every start 50 ms.
__version__ = "0.1.0"
