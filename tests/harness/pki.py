"""A CA in a folder, with a certificate for each side of a connection."""

from __future__ import annotations

from pathlib import Path

import trustme
from headwater.commands.corefile import ClientTls


class Pki:
    """The CA, and the certificates of the instance (`headwater.test`) and of CoreDNS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.crt"))
        self.issue("server", "headwater.test")
        self.issue("client", "coredns.test")

    def issue(self, name: str, host: str) -> None:
        leaf = self.ca.issue_cert(host)
        leaf.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.crt"))

    def flags(self, *, mutual: bool) -> list[str]:
        flags = ["--tls-cert", f"{self.folder}/server.crt", "--tls-key", f"{self.folder}/server.key"]
        return [*flags, "--tls-client-ca", f"{self.folder}/ca.crt"] if mutual else flags

    def client(self, *, mutual: bool) -> ClientTls:
        ca, name = f"{self.folder}/ca.crt", "headwater.test"
        if not mutual:
            return ClientTls(ca, server_name=name)
        return ClientTls(ca, f"{self.folder}/client.crt", f"{self.folder}/client.key", name)
