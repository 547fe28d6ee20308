"""Our DnsPacket codec agrees with protobuf, byte for byte."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from headwater.serve.pb.dns_pb2 import DnsPacket
from headwater.serve.service import NotAPacket, pack, unpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

LONGEST = 70_000
#: Lengths at which a varint grows, and around the longest DNS message.
BOUNDARIES = (0, 1, 2, 126, 127, 128, 129, 255, 256, 16382, 16383, 16384, 16385, 65534, 65535, 65536, LONGEST)
NOISE = random.Random(3).randbytes(LONGEST)


def by_protobuf(packet: bytes) -> bytes | None:
    """Return the message that protobuf reads from a packet; None for an invalid packet."""
    try:
        return bytes(DnsPacket.FromString(packet).msg)
    except DecodeError:
        return None


def ours(packet: bytes) -> bytes | None:
    """Return the result of `unpack`; None for NotAPacket. Any other exception fails the test."""
    try:
        return unpack(packet)
    except NotAPacket:
        return None


def varint(number: int, size: int = 0) -> bytes:
    """Return a varint; with `size`, one longer than necessary, which protobuf accepts too."""
    out = bytearray()
    while number > 0x7F or len(out) < size - 1:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes((number,))


def test_every_length_is_written_as_protobuf_does() -> None:
    for length in sorted({*range(17_000), *range(17_000, LONGEST, 61), *BOUNDARIES}):
        message = NOISE[:length]
        packet = pack(message)
        if length:
            assert packet == DnsPacket(msg=message).SerializeToString(), length
        else:
            assert by_protobuf(packet) == b"", "proto3 leaves an empty field out, and takes one that is there"
        assert unpack(packet) == message, length


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(BOUNDARIES) | st.integers(0, LONGEST), st.binary(min_size=1, max_size=20))
def test_what_is_packed_is_what_protobuf_unpacks(length: int, pattern: bytes) -> None:
    message = (pattern * (length // len(pattern) + 1))[:length]
    assert by_protobuf(pack(message)) == message
    assert unpack(DnsPacket(msg=message).SerializeToString()) == message
    assert unpack(pack(message)) == message


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=20).map(lambda tail: b"\x0a" + tail))
@example(b"")
@example(b"\x0a")
@example(b"\x0a\x80")
@example(b"\x0a\x80\x80")
@example(b"\x0a\x80\x80\x00")
@example(b"\x0a\x80\x80\x80\x00")
@example(b"\x0a\xff\xff\xff\xff\x0f")
@example(b"\x0a" + b"\xff" * 10)
@example(b"\x0a\x01")
@example(b"\x0a\x00\x00")
def test_garbage_is_what_protobuf_takes_it_for(packet: bytes) -> None:
    assert ours(packet) == by_protobuf(packet)


UNKNOWN = st.one_of(
    # (field 2, varint), (3, 64 bit), (4, length-delimited), (5, 32 bit), (4000, varint)
    st.integers(0, 2**64 - 1).map(lambda number: b"\x10" + varint(number)),
    st.binary(min_size=8, max_size=8).map(lambda data: b"\x19" + data),
    st.binary(max_size=300).map(lambda data: b"\x22" + varint(len(data)) + data),
    st.binary(min_size=4, max_size=4).map(lambda data: b"\x2d" + data),
    st.integers(0, 127).map(lambda number: varint(4000 << 3) + bytes((number,))),
)
MESSAGE = st.binary(max_size=300) | st.sampled_from([NOISE[:length] for length in BOUNDARIES])


@settings(max_examples=300, deadline=None)
@given(st.lists(UNKNOWN, max_size=3), MESSAGE, st.lists(UNKNOWN, max_size=3))
def test_unknown_fields_are_passed_over(before: list[bytes], message: bytes, after: list[bytes]) -> None:
    packet = b"".join([*before, pack(message), *after])
    assert unpack(packet) == by_protobuf(packet) == message


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGE, min_size=2, max_size=4))
def test_of_a_field_that_comes_twice_the_last_counts(messages: list[bytes]) -> None:
    packet = b"".join(map(pack, messages))
    assert unpack(packet) == by_protobuf(packet) == messages[-1]


@settings(max_examples=300, deadline=None)
@given(MESSAGE, st.integers(1, 10))
def test_a_length_may_be_written_longer_than_it_must_be(message: bytes, size: int) -> None:
    packet = b"\x0a" + varint(len(message), size) + message
    assert ours(packet) == by_protobuf(packet)


@settings(max_examples=300, deadline=None)
@given(MESSAGE.filter(bool), st.integers(1, 4))
def test_a_packet_that_is_cut_short_is_refused(message: bytes, missing: int) -> None:
    packet = pack(message)[: -min(missing, len(message))]
    with pytest.raises(NotAPacket):
        unpack(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # fewer bytes than the length says
        b"\x0a\x80",  # a length without an end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # an 11-byte varint
        b"\x0a\xff\xff\xff\xff\x07",  # 2 GiB
        b"\x00",  # field number 0
        b"\x07",  # wire type 7
        b"\x0b",  # a group without an end
        b"\x0c",  # the end of a group that did not begin
        b"\x08",  # field 1 as a varint, which is missing
    ],
    ids=bytes.hex,
)
def test_what_is_no_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(NotAPacket):
        unpack(packet)
