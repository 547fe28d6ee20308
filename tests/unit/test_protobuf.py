"""The wire contract with CoreDNS: the generated code follows protos/,
and reads CoreDNS's messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from headwater.serve.grpcio_server import QUERY
from headwater.serve.pb import dns_pb2, dns_pb2_grpc
from headwater.serve.pb.dns_pb2 import DnsPacket

from tools import protoc

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("dns_pb2.py", "dns_pb2.pyi", "dns_pb2_grpc.py")


def test_the_committed_code_is_what_the_generator_makes(tmp_path: Path) -> None:
    protoc.generate(tmp_path)
    made = {file.name: file.read_bytes() for file in (tmp_path / protoc.PACKAGE).iterdir()}
    committed = ROOT / "backend" / protoc.PACKAGE
    assert set(made) == set(GENERATED)
    for name, data in made.items():
        assert (committed / name).read_bytes() == data, f"{name} is stale: run make proto"
    assert {file.name for file in committed.iterdir() if file.suffix in (".py", ".pyi")} == {*GENERATED, "__init__.py"}


@pytest.mark.parametrize(
    ("message", "packet"),
    [
        (b"", b""),
        (b"x", b"\x0a\x01x"),
        (b"\0" * 127, b"\x0a\x7f" + b"\0" * 127),
        (b"\0" * 128, b"\x0a\x80\x01" + b"\0" * 128),
        (b"\0" * 65535, b"\x0a\xff\xff\x03" + b"\0" * 65535),
    ],
    ids=lambda value: f"{len(value)} bytes",
)
def test_a_message_is_field_number_1(message: bytes, packet: bytes) -> None:
    assert DnsPacket(msg=message).SerializeToString() == packet
    assert DnsPacket.FromString(packet).msg == message


def test_the_method_has_the_name_that_coredns_calls() -> None:
    """coredns/pb/dns.proto: package coredns.dns, service DnsService, rpc Query."""
    service = dns_pb2.DESCRIPTOR.services_by_name["DnsService"]
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == "/coredns.dns.DnsService/Query" == QUERY
    assert method.input_type.full_name == method.output_type.full_name == "coredns.dns.DnsPacket"
    assert not method.client_streaming
    assert not method.server_streaming
    (field,) = method.input_type.fields
    assert (field.name, field.number, field.type) == ("msg", 1, field.TYPE_BYTES)


def test_the_generated_client_calls_it_too() -> None:
    called: list[str] = []

    class Channel:
        def unary_unary(self, method: str, **_: Any) -> None:
            called.append(method)

    dns_pb2_grpc.DnsServiceStub(Channel())  # type: ignore[no-untyped-call]
    assert called == [QUERY]
