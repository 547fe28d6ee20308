"""Header blocks: the client's, decoded and checked, and ours, ready to be sent.

`hpack` decodes (RFC 7541), and this module remembers. A call's block differs from the previous one
only in the value of its last field, `grpc-timeout`. Once the client's table has size zero, equal
bytes have equal meanings. A block whose beginning was decoded and accepted before then needs no
decoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from hpack import Decoder, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

H = TypeVar("H")
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

#: The field whose value changes from call to call.
VARYING: Final = b"grpc-timeout"
#: Bytes of a header list, as RFC 9113 section 6.5.2 counts them; and of its compressed form.
MAX_LIST: Final = 16_384

#: Limits of the memory: blocks of a connection, the length of one, and the process's values of the
#: varying field.
_MAX_KNOWN: Final = 16
_MAX_KNOWN_SIZE: Final = 1024
_MAX_VALUES: Final = 4096
_MAX_VALUE_SIZE: Final = 32

# RFC 9113 section 8.2.1, and RFC 9110 section 5.1 for the characters of a name.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE: Final = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])").fullmatch
_LENGTH: Final = re.compile(rb"[0-9]{1,19}").fullmatch
#: Section 8.2.2.
_OF_A_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
#: Section 8.3.1.
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))


class Malformed(Exception):  # noqa: N818 (what the message is)
    """A list that no request or trailers may have (section 8.1.1)."""


def check_fields(headers: Headers) -> None:
    """Check trailers, or the fields behind the pseudo-header fields (section 8.2).

    Raises Malformed.
    """
    for name, value in headers:
        if not _NAME(name) or not _VALUE(value) or name in _OF_A_CONNECTION:
            raise Malformed
        if name == b"te" and value.lower() != b"trailers":  # section 8.2.2
            raise Malformed


def check_request(headers: Headers) -> int:
    """Check a request's headers (section 8.3); returns its content-length, -1 for none.

    Raises Malformed.
    """
    pseudo: dict[bytes, bytes] = {}
    for name, value in headers:
        if not name.startswith(b":"):
            break
        # These and no other, each once.
        if name not in _PSEUDO or name in pseudo or not _VALUE(value):
            raise Malformed
        pseudo[name] = value
    check_fields(headers[len(pseudo) :])  # none behind another field, whose name has no colon
    if pseudo.get(b":method") == b"CONNECT":  # section 8.5
        if pseudo.keys() != {b":method", b":authority"}:
            raise Malformed
    elif not pseudo.keys() >= {b":method", b":scheme", b":path"} or not pseudo[b":path"]:  # section 8.3.1
        raise Malformed
    lengths = {value for name, value in headers if name == b"content-length"}
    if not lengths:
        return -1
    length = lengths.pop()
    if lengths or not _LENGTH(length):
        raise Malformed
    return int(length)


def encode(headers: Headers) -> bytes:
    """A header block that neither reads nor changes a table, whatever size it has."""
    fields = (
        b"\x88"  # RFC 7541 appendix A
        if field == (b":status", b"200")
        else b"\0" + _string(field[0]) + _string(field[1])  # section 6.2.2: without indexing, with a new name
        for field in headers
    )
    return b"".join(fields)


def _string(text: bytes) -> bytes:
    """A string literal, not Huffman coded (RFC 7541 section 5.2)."""
    return _length(len(text), 0) + text


def _coded(text: bytes) -> bytes:
    """The same, Huffman coded."""
    coded = _huffman.encode(text)
    return _length(len(coded), 0x80) + coded


def _length(size: int, flag: int) -> bytes:
    """RFC 7541 section 5.1, with a prefix of seven bits."""
    if size < 0x7F:
        return bytes((flag | size,))
    size -= 0x7F
    head = bytearray((flag | 0x7F,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


_huffman: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
#: The bytes that may precede the varying field's value: a literal of any kind (RFC 7541 section
#: 6.2), its name spelt out.
_BEFORE_VALUE: Final = tuple(
    kind + name for kind in (b"\0", b"\x10", b"\x40") for name in (_string(VARYING), _coded(VARYING))
)


class _Values(dict[bytes, bytes]):
    """Values of the varying field by their encoding, which is one string literal."""

    def __missing__(self, literal: bytes) -> bytes:
        """Raises KeyError for anything else, and for values that are too long to remember."""
        if len(literal) > _MAX_VALUE_SIZE:
            raise KeyError(literal)
        try:
            ((_, value),) = Decoder().decode(b"\0\1x" + literal, raw=True)
            check_fields(((VARYING, value),))
        except (HPACKError, ValueError, Malformed):
            raise KeyError(literal) from None
        if len(self) >= _MAX_VALUES:
            self.clear()
        self[literal] = bytes(value)
        return self[literal]


_VALUES: Final = _Values()
#: In its place for a block that has no such field.
_NONE: Final = {b"": b""}


class Blocks(Generic[H]):
    """The client's header blocks on one connection. `route` is called once for equal blocks.

    `known` maps the beginning of a block, without the varying value, to the result of `route`, the
    content-length, and the values that may follow. `cut` is the length of the last one.
    """

    __slots__ = ("_acknowledged", "_decoder", "_route", "cut", "known")

    def __init__(self, route: Callable[[Headers], H]) -> None:
        self._route = route
        self._decoder = Decoder(MAX_LIST)
        self._acknowledged = False
        self.known: dict[bytes, tuple[H, int, Mapping[bytes, bytes]]] = {}
        self.cut = 0

    def acknowledged(self) -> None:
        """The client knows that its table must have no size (SETTINGS_HEADER_TABLE_SIZE)."""
        self._acknowledged = True

    def decode(self, block: bytes) -> Headers:
        """Raises hpack.HPACKError. The connection is then unusable (section 4.3).

        From the acknowledgement on, only size 0 is accepted. We depart from section 4.3.1 in one
        point: a client may also keep silent about the size and go on as before. Section 4.3.1
        itself warns that clients do (h2spec is one). The initial 4,096 bytes do no harm.
        """
        if self._acknowledged and block and block[0] & 0xE0 == 0x20:  # RFC 7541 section 6.3
            self._decoder.max_allowed_table_size = 0
        return list(self._decoder.decode(block, raw=True))

    def request(self, block: bytes) -> tuple[H, bytes, int]:
        """(result of `route`, the varying field's value or b"", content-length or -1).

        Raises as `decode`, or Malformed.
        """
        for prefix, (head, length, values) in self.known.items():
            if block.startswith(prefix):
                try:
                    value = values[block[len(prefix) :]]
                except KeyError:
                    continue
                self.cut = len(prefix)
                return head, value, length
        headers = self.decode(block)
        length = check_request(headers)
        head = self._route(headers)
        varying = [value for name, value in headers if name == VARYING]
        self._learn(block, headers, (head, length), len(varying))
        return head, varying[-1] if varying else b"", length

    def _learn(self, block: bytes, headers: Headers, meaning: tuple[H, int], varying: int) -> None:
        """Remember the block, without the value of its last field if that is the varying one.

        The memory has whole fields and that field's name. Any string behind them makes another
        block with the same meaning, and only such blocks match.
        """
        # While the client still has a table, a block that is not decoded would miss its changes.
        if self._decoder.max_allowed_table_size or len(self.known) >= _MAX_KNOWN or len(block) > _MAX_KNOWN_SIZE:
            return
        if not varying:
            self.known[block] = *meaning, _NONE
            self.cut = len(block)
        elif varying == 1 and headers[-1][0] == VARYING:
            for value in (_coded(headers[-1][1]), _string(headers[-1][1])):
                prefix = block.removesuffix(value)
                if len(prefix) < len(block) and self._begins(prefix, headers[:-1]):
                    self.known[prefix] = *meaning, _VALUES
                    self.cut = len(prefix)

    def _begins(self, prefix: bytes, headers: Headers) -> bool:
        """Whether it is these fields, whole, and the varying field's name."""
        for name in _BEFORE_VALUE:
            if prefix.endswith(name):
                try:
                    return self.decode(prefix.removesuffix(name)) == headers
                except HPACKError:
                    return False
        return False
