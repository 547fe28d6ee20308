"""Headwater: a DNS backend for CoreDNS that keeps every answer of a cluster ready in wire format."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("headwater")
except metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
