"""The real CoreDNS starts with every Corefile here, and every block that
`headwater corefile` prints.

Behind it is the smallest possible gRPC backend, which says on which address it was reached. Other
tests check the answers.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode
import dns.rrset
import grpc
import pytest
from headwater.commands.corefile import Mode, stanza
from headwater.serve.pb.dns_pb2 import DnsPacket
from headwater.settings.address import Address
from headwater.settings.parse import parse_reverse_zone
from headwater.settings.settings import Settings

from tests.harness.instance import Headwater
from tests.harness.plane import PlaneError
from tests.harness.processes import CoreDNS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.coredns

CHECKOUT = Path(__file__).resolve().parents[2]
COREFILES = CHECKOUT / "corefile"
EXAMPLE = CHECKOUT / "examples" / "statefulset"
NAME = "headless-svc.default.svc.cluster.local"
#: An address without an API server: CoreDNS starts without one after startup_timeout.
DEAD_SERVER = "endpoint http://127.0.0.1:{port}\n        startup_timeout 10ms"


@contextmanager
def backends(addresses: list[str]) -> Iterator[None]:
    """One gRPC server per address; server N answers any A query with 192.0.2.N."""
    servers = [_server(address, number) for number, address in enumerate(addresses)]
    try:
        yield
    finally:
        for server in servers:
            server.stop(None)


def _server(address: str, number: int) -> Any:
    def query(packet: DnsPacket, _: object) -> DnsPacket:
        asked = dns.message.from_wire(packet.msg)
        reply = dns.message.make_response(asked)
        reply.answer.append(dns.rrset.from_text(asked.question[0].name, 5, "IN", "A", f"192.0.2.{number}"))
        return DnsPacket(msg=reply.to_wire())

    handler = grpc.unary_unary_rpc_method_handler(
        query, request_deserializer=DnsPacket.FromString, response_serializer=DnsPacket.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("coredns.dns.DnsService", {"Query": handler}),)
    )
    server.add_insecure_port(address)
    server.start()
    return server


def put(text: str, old: str, new: str) -> str:
    """Replace a text that must occur, so that a changed Corefile cannot go untested."""
    assert old in text, f"no {old!r} in:\n{text}"
    return text.replace(old, new)


def inside(text: str) -> str:
    """Return the Corefile with a free port for the block that only its own `forward` reaches."""
    return text.replace(":5399 ", f":{free_port()} ")


def adapted(text: str, listen: Address) -> tuple[str, list[str]]:
    """Return the Corefile with free ports of this machine, and the backends' addresses for gRPC."""
    text = inside(text)
    upstreams = re.search(r"grpc \. (?P<all>[^{]*) \{", text)
    assert upstreams is not None, text
    here = [f"unix://{a.path}" if a.path else str(a) for a in (listen.of_worker(n, 2) for n in range(2))]
    for old, new in zip(upstreams["all"].split(), here, strict=True):
        text = put(text, old, new)
    if re.search(r"^\s*kubernetes \{$", text, re.MULTILINE):
        text = put(text, "noendpoints", f"noendpoints\n        {DEAD_SERVER.format(port=free_port())}")
    if ".:53 {" in text:
        text = put(text, "prometheus :9153", f"prometheus 127.0.0.1:{free_port()}")
        text = put(text, "    health\n", f"    health 127.0.0.1:{free_port()}\n")
        text = put(text, "    ready\n", f"    ready 127.0.0.1:{free_port()}\n")
        # `loop` would ask a resolver of this machine; without any it gives up silently.
        text = put(text, "forward . /etc/resolv.conf", f"forward . 127.0.0.1:{free_port()}")
    return text, here


def listen_on(kind: str, folder: Path) -> Address:
    return Address(path=str(folder / "dns.sock")) if kind == "unix" else Address(host="127.0.0.1", port=free_port())


def assert_both_are_asked(coredns: CoreDNS) -> None:
    found = {address for _ in range(6) for address in coredns.records(NAME)}
    assert found == {"192.0.2.0", "192.0.2.1"}


def test_there_are_no_other_corefiles() -> None:
    assert {file.name for file in COREFILES.glob("Corefile*")} == {
        f"Corefile.{n}" for n in ("zone", "split", "sidecar")
    }


@pytest.mark.parametrize(("file", "kind"), [("zone", "tcp"), ("split", "unix"), ("sidecar", "unix")])
def test_shipped_corefile_serves(file: str, kind: str, tmp_path: Path) -> None:
    text, here = adapted((COREFILES / f"Corefile.{file}").read_text(), listen_on(kind, tmp_path))
    with backends(here), CoreDNS(tmp_path, text) as coredns:
        assert_both_are_asked(coredns)
        # The "." block is separate, so the backend is not asked for this name.
        assert coredns.ask("example.org").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("zone", "policy round_robin", "policy round_about", "unknown policy 'round_about'"),
        ("split", "noendpoints", "noendpoint", "unknown property 'noendpoint'"),
        ("sidecar", "grpc . ", "grpcs . ", "Unknown directive 'grpcs'"),
    ],
)
def test_corefile_with_an_error_is_seen_failing(
    file: str, right: str, wrong: str, complaint: str, tmp_path: Path
) -> None:
    text, _ = adapted((COREFILES / f"Corefile.{file}").read_text(), listen_on("unix", tmp_path))
    with pytest.raises(PlaneError, match=f"(?s)ended with status 1.*{complaint}"):
        CoreDNS(tmp_path, put(text, right, wrong)).start()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("mode", ["zone", "split"])
def test_printed_block_serves(mode: Mode, kind: str, tmp_path: Path) -> None:
    listen = listen_on(kind, tmp_path)
    text, here = adapted(stanza(Settings(listen=listen), mode=mode), listen)
    with backends(here), CoreDNS(tmp_path, text) as coredns:
        assert_both_are_asked(coredns)


def test_printed_block_beside_an_operators_own_block(tmp_path: Path) -> None:
    """After pasting, the cluster's zone is still in the old block, which
    is not asked for it any more.
    """
    listen = listen_on("unix", tmp_path)
    text, here = adapted(stanza(Settings(listen=listen)), listen)
    old = f".:53 {{\n    kubernetes cluster.local {{\n        {DEAD_SERVER.format(port=free_port())}\n    }}\n}}\n"
    with backends(here), CoreDNS(tmp_path, f"{old}{text}") as coredns:
        assert_both_are_asked(coredns)


@pytest.mark.parametrize("mode", ["zone", "split"])
def test_printed_block_of_everything_at_once(mode: Mode, tmp_path: Path) -> None:
    folder = tmp_path / "a #1 folder"
    folder.mkdir()
    kubeconfig = folder / "config"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}
    context = {"name": "on site", "context": {"cluster": "c"}}
    kubeconfig.write_text(json.dumps({"clusters": [cluster], "contexts": [context]}))
    settings = Settings(
        kubeconfig=str(kubeconfig),
        context="on site",
        zones=("cluster.local", "k8s.example.org"),
        listen=listen_on("unix", tmp_path),
        workers=15,
        ttl=30,
        namespaces=("default", "kube-system"),
        reverse_zones=tuple(
            zone
            for text in ("10.44.0.0/16", "10.0.0.0/12", "ip6.arpa")
            for zone in parse_reverse_zone(text, "--reverse-zone")
        ),
    )
    port = free_port()
    text = stanza(settings, mode=mode, port=port)
    if mode == "split":
        text = put(text, "noendpoints", "noendpoints\n        startup_timeout 10ms")
    addresses = [f"unix:{address.path}" for address in settings.listen_addresses()]
    with backends(addresses), CoreDNS(tmp_path, text, port=port) as coredns:
        found = {coredns.records(name)[0] for name in [NAME, "db.default.svc.k8s.example.org"] * 15}
        assert len(found) == 15
        assert coredns.records("7.0.44.10.in-addr.arpa")


OTHERS = """\
.:53 {
    template IN PTR {
        answer "{{ .Name }} 60 IN PTR not-of-the-cluster.example."
    }
}
"""
REVERSE = ("--reverse-zone", "in-addr.arpa", "--reverse-zone", "ip6.arpa")


@pytest.mark.parametrize("mode", ["zone", "split"])
def test_addresses_that_are_not_the_clusters_are_asked_for_elsewhere(mode: Mode, tmp_path: Path) -> None:
    """A name that Headwater has is never asked for elsewhere, also while
    Headwater cannot answer.
    """
    with (
        CoreDNS(tmp_path, OTHERS, name="others") as others,
        Headwater(tmp_path, "--manifests", EXAMPLE, *REVERSE) as headwater,
    ):
        onwards = f"127.0.0.1:{others.port}"
        text = stanza(replace(headwater.settings, manifests=()), mode=mode, reverse_forward=onwards)
        if mode == "split":
            text = put(text, "noendpoints", f"noendpoints\n        {DEAD_SERVER.format(port=free_port())}")
        with CoreDNS(tmp_path, inside(text)) as coredns:
            (address,) = headwater.records("web-stateful-0.headless-svc.default.svc.cluster.local")
            ours = ip_address(address).reverse_pointer
            assert coredns.records(ours, "PTR") == headwater.records(ours, "PTR") != []
            for other in ("192.0.2.7", "2001:db8::7", "10.255.255.7"):
                found = coredns.records(ip_address(other).reverse_pointer, "PTR")
                assert found == ["not-of-the-cluster.example."]
            headwater.terminate()
            assert coredns.ask(ours, "PTR").rcode() == dns.rcode.SERVFAIL
            # Neither is a stranger's, because nobody knows meanwhile that it is one.
            assert coredns.ask(ip_address("192.0.2.7").reverse_pointer, "PTR").rcode() == dns.rcode.SERVFAIL
