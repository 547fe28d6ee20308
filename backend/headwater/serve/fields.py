"""Header blocks: what the client's mean, what makes a list malformed, and ours ready to be sent.

`hpack` does the decoding (RFC 7541). What is added here is memory: a call's block
differs from the one before only in the value of its last field, `grpc-timeout`.
Once the client's table can have no size, equal bytes have equal meanings, and a
block whose beginning was decoded and accepted before needs no decoding.
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

#: Blocks, and the length of one, that are remembered for a connection; values of the varying field, for the process.
_MAX_KNOWN: Final = 16
_MAX_KNOWN_SIZE: Final = 1024
_MAX_VALUES: Final = 4096
_MAX_VALUE_SIZE: Final = 32

# RFC 9113 section 8.2.1, and RFC 9110 section 5.1 for what a name is made of.
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
    """Trailers, or what stands behind the pseudo-header fields (section 8.2). Raises Malformed."""
    for name, value in headers:
        if not _NAME(name) or not _VALUE(value) or name in _OF_A_CONNECTION:
            raise Malformed
        if name == b"te" and value.lower() != b"trailers":  # section 8.2.2
            raise Malformed


def check_request(headers: Headers) -> int:
    """A request's headers (section 8.3); its content-length, -1 for none. Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in headers:
        if not name.startswith(b":"):
            break
        # These and no other, each once.
        if name not in _PSEUDO or name in pseudo or not _VALUE(value):
            raise Malformed
        pseudo[name] = value
    check_fields(headers[len(pseudo) :])  # none of them behind another field: its colon is in no name
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
#: What may stand before the varying field's value: a literal of any kind (RFC 7541 section 6.2), its name spelt out.
_BEFORE_VALUE: Final = tuple(
    kind + name for kind in (b"\0", b"\x10", b"\x40") for name in (_string(VARYING), _coded(VARYING))
)


class _Values(dict[bytes, bytes]):
    """Values of the varying field by their encoding: one string literal and nothing else."""

    def __missing__(self, literal: bytes) -> bytes:
        """Raises KeyError for anything else, and for what is too long to be remembered."""
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
    """The client's header blocks on one connection. `route` says what a request is about, once for blocks alike.

    `known` maps the beginning of a block, all but the varying value, to what `route`
    said, the content-length, and the values that may follow; `cut` is the length of
    the one seen last.
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
        """Raises hpack.HPACKError: the table is in disorder then, and with it the connection (section 4.3).

        From the acknowledgement on no size but 0 is accepted. Where we depart from section 4.3.1
        is that a client may also say nothing of the size and go on as before: section 4.3.1 itself
        warns that clients do (h2spec is one). The initial 4,096 bytes harm nobody.
        """
        if self._acknowledged and block and block[0] & 0xE0 == 0x20:  # RFC 7541 section 6.3
            self._decoder.max_allowed_table_size = 0
        return list(self._decoder.decode(block, raw=True))

    def request(self, block: bytes) -> tuple[H, bytes, int]:
        """(what `route` says, the varying field's value or b"", content-length or -1).

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

        What is remembered is whole fields and that field's name: whatever string
        follows makes another block with the same meaning, and nothing else does.
        """
        # Until the client has given its table up, a block that is not decoded would leave it behind.
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
