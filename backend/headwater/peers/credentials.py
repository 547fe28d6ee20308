"""How instances know one another: certificates of one CA, or a token.

A peer is reached at a Service's address, which no certificate names. So names are not compared:
whoever has a certificate of the CA is a peer, and the CA must sign for nobody else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.identity import Identity

#: Bytes of a token's file that are read, and the fewest of a token.
_MOST: Final = 4096
_LEAST: Final = 16
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files, as the settings name them."""

    cert: str | None
    key: str | None
    ca: str | None
    token: str | None

    @classmethod
    def of(cls, settings: Settings) -> Credentials:
        return cls(settings.peer_cert, settings.peer_key, settings.peer_ca, settings.peer_token)

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """A value that changes when a file was written or replaced. Raises OSError."""
        found = [os.stat(name) for name in (self.cert, self.key, self.ca) if name]  # noqa: PTH116 (links followed)
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)

    def check(self) -> None:
        """Read everything once. Raises SettingsError, which names the flag."""
        self.server()
        self.client()
        self.secret()

    def server(self) -> ssl.SSLContext | None:
        """For who is asked; None without a certificate. Raises SettingsError."""
        if self.cert is None:
            return None
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            # With a token as well, either of the two is enough.
            context.verify_mode = ssl.CERT_REQUIRED if self.token is None else ssl.CERT_OPTIONAL
        return context

    def client(self) -> ssl.SSLContext | None:
        """For who asks; None without a CA. Raises SettingsError."""
        if self.ca is None:
            return None
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def secret(self) -> bytes | None:
        """The token; None without one. Raises SettingsError."""
        if self.token is None:
            return None
        try:
            with Path(self.token).open("rb") as file:
                token = file.read(_MOST).strip()
        except OSError as error:
            raise SettingsError("--peer-token", f"{self.token}: {error.strerror}") from None
        if len(token) < _LEAST or any(not 0x21 <= byte <= 0x7E for byte in token):
            raise SettingsError("--peer-token", f"{self.token}: a token has at least {_LEAST} printable characters")
        return token

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(_CIPHERS)
        try:
            if self.cert is not None and self.key is not None:
                # A key with a passphrase is an error: OpenSSL would ask the terminal for it.
                context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:
            raise SettingsError("--peer-cert", f"{self.cert} with {self.key}: {_why(error)}") from None
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise SettingsError("--peer-ca", f"{self.ca}: {_why(error)}") from None
        return context


def bearer(token: bytes) -> str:
    """The header's value."""
    return f"Bearer {token.decode()}"


def is_bearer(value: str, token: bytes) -> bool:
    """Whether a header's value carries this token; it takes as long if it does not."""
    return hmac.compare_digest(value.encode(errors="replace"), bearer(token).encode())


def who(state_dir: Path) -> str:
    """An instance as it is named to others: by the place of its state on this machine."""
    try:
        stat = (state_dir / "lock").stat()
        place = f"{stat.st_dev} {stat.st_ino}"
    except OSError:
        place = str(state_dir.absolute())
    return hashlib.sha256(Identity.boot() + place.encode()).hexdigest()[:16]


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
