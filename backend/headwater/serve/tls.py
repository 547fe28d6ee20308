"""TLS for the gRPC port: version 1.2 and later, HTTP/2 by ALPN, clients' certificates with a CA."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: a certificate with its chain, its key, and a CA of admitted clients."""

    cert: str
    key: str
    client_ca: str | None

    @classmethod
    def of(cls, settings: Settings) -> Certificates | None:
        """The files in the settings; None for no TLS."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """A value that changes when a file was written or replaced. Raises OSError."""
        names = [self.cert, self.key, *([self.client_ca] if self.client_ca else [])]
        found = [os.stat(name) for name in names]  # noqa: PTH116 (links followed: that is how Kubernetes replaces them)
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)

    def load(self) -> ssl.SSLContext:
        """Load them, for connections from now on. Raises SettingsError, which names the flag."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # RFC 9113 section 9.2: 1.2 or later, and with 1.2 no compression, no renegotiation and no
        # old cipher suites.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.set_alpn_protocols(["h2"])
        try:
            # A key with a passphrase is an error: OpenSSL would ask the terminal for it.
            context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:
            raise SettingsError("--tls-cert", f"{self.cert} with {self.key}: {_why(error)}") from None
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise SettingsError("--tls-client-ca", f"{self.client_ca}: {_why(error)}") from None
        return context


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
