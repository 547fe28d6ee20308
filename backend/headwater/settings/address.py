"""Where to listen or connect."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from headwater.settings.error import SettingsError

#: sockaddr_un's sun_path on Linux, less the closing zero.
_MAX_UNIX_PATH = 107


@dataclass(frozen=True)
class Address:
    """Where to listen or connect: a unix socket path, or a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """`unix:/path`, `HOST:PORT` or `[IPV6]:PORT`."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            path = "/" + path.lstrip("/") if path.startswith("//") else path
            if not path.startswith("/") or not Path(path).name:
                raise SettingsError(flag, f"{text!r}: a unix socket needs an absolute path, as in unix:/run/dns.sock")
            if len(os.fsencode(path)) > _MAX_UNIX_PATH - len("-00"):
                raise SettingsError(flag, f"{text!r}: a unix socket path has at most {_MAX_UNIX_PATH - 3} bytes")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise SettingsError(flag, f"{text!r} is neither unix:/path nor HOST:PORT")
        # By its length first: int() itself refuses thousands of digits, without naming the flag.
        number = int(port) if len(port) <= 5 else -1
        if not 0 <= number <= 65535:
            raise SettingsError(flag, f"{text!r}: {port} is not a port")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise SettingsError(flag, f"{text!r}: an IPv6 address needs brackets, as in [::1]:{port}")
        if host:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                if host != "localhost":
                    raise SettingsError(flag, f"{text!r}: {host!r} is not an IP address") from None
                host = "127.0.0.1"
        return cls(host=host or "0.0.0.0", port=number)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def of_worker(self, index: int, workers: int) -> Address:
        """The address of one answer process: CoreDNS opens one connection per address.

        With one worker the address as it stands; else `dns-0.sock`, `dns-1.sock`
        or consecutive ports.
        """
        if workers == 1:
            return self
        if self.path is not None:
            path = Path(self.path)
            return Address(path=str(path.with_name(f"{path.stem}-{index}{path.suffix}")))
        return Address(host=self.host, port=self.port + index)
