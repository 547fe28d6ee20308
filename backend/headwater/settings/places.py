"""Where clients are: topology zones, by the socket that asks and by addresses."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from headwater.settings.address import Address
from headwater.settings.error import SettingsError

#: A label's value (apimachinery, pkg/api/validate/content/kube.go), which is what a zone is.
_ZONE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
MAX_ZONE = 63
#: Options for local use (RFC 6891 section 9).
LOCAL_OPTIONS = range(65001, 65535)


@dataclass(frozen=True)
class ZoneAddress:
    """An address at which clients of one topology zone ask."""

    zone: str
    address: Address

    @classmethod
    def parse(cls, text: str, flag: str) -> ZoneAddress:
        """`ZONE=ADDRESS`. Raises SettingsError."""
        zone, rest = _divided(text, flag, "ADDRESS, as in eu-1a=unix:/run/headwater/eu-1a.sock")
        return cls(zone, Address.parse(rest, flag))

    def __str__(self) -> str:
        return f"{self.zone}={self.address}"


@dataclass(frozen=True)
class ZoneCidr:
    """The addresses of clients in one topology zone."""

    zone: str
    cidr: str
    """In its usual form: "10.44.0.0/16"."""

    @classmethod
    def parse(cls, text: str, flag: str) -> ZoneCidr:
        """`ZONE=CIDR`. Raises SettingsError."""
        zone, rest = _divided(text, flag, "CIDR, as in eu-1a=10.44.0.0/16")
        try:
            return cls(zone, str(ipaddress.ip_network(rest)))
        except ValueError as error:
            raise SettingsError(flag, f"{text!r}: {error}") from None

    def __str__(self) -> str:
        return f"{self.zone}={self.cidr}"


def _divided(text: str, flag: str, what: str) -> tuple[str, str]:
    zone, equals, rest = text.partition("=")
    if not equals or not rest:
        raise SettingsError(flag, f"{text!r} is not ZONE={what}")
    if len(zone) > MAX_ZONE or not _ZONE.fullmatch(zone):
        raise SettingsError(flag, f"{text!r}: {zone!r} is not a topology zone")
    return zone, rest
