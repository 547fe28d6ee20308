"""Names in wire format."""

from __future__ import annotations

import dns.name
import pytest
from headwater.wire import names
from headwater.wire.names import BadName
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("cluster.local", b"\x07cluster\x05local\x00"),
        ("Cluster.LOCAL.", b"\x07cluster\x05local\x00"),
        ("", b"\x00"),
        (".", b"\x00"),
        ("_http._tcp", b"\x05_http\x04_tcp\x00"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\x00"),
    ],
)
def test_a_name_becomes_its_wire_format_in_lower_case(text: str, wire: bytes) -> None:
    assert names.name(text) == wire


@pytest.mark.parametrize("text", ["a" * 64, "a..b", "ä.local", ".a", "a\0b", ".".join(["a" * 63] * 4)])
def test_what_no_name_can_hold_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        names.name(text)


def test_a_label_with_a_dot_is_not_two_labels() -> None:
    with pytest.raises(BadName):
        names.label("a.b")


@pytest.mark.slow
@given(st.lists(st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), min_size=1, max_size=8))
def test_wire_format_is_what_dnspython_makes(labels: list[str]) -> None:
    text = ".".join(labels)
    assert names.name(text) == dns.name.from_text(text).to_wire()
    assert names.text_of(names.name(text)) == text + "."


@pytest.mark.parametrize(
    ("address", "label"),
    [("10.44.0.7", "10-44-0-7"), ("fd00::1", "fd00--1"), ("fd00::", "fd00--0"), ("::1", "--1")],
)
def test_an_address_has_a_dashed_label(address: str, label: str) -> None:
    assert names.dashed(address) == label
