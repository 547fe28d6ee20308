"""Label selectors, in the syntax of kubectl's -l: `tier=db,env in (prod, test),!old`.

Grammar and checks are those of apimachinery 0.37.1 (pkg/labels/selector.go, Parse and
NewRequirement), so the API server takes every selector that passes here. CoreDNS's `labels` goes
through meta.ParseToLabelSelector, which has neither `!=` nor `<` nor `>`; it takes the canonical
form of every selector without the last two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Operator = Literal["in", "notin", "exists", "absent", ">", "<"]

#: A label's name, without its prefix, and its value (apimachinery,
#: pkg/api/validate/content/kube.go).
_MAX_NAME: Final = 63
_MAX_VALUE: Final = 63
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
#: The prefix is a DNS subdomain (RFC 1123, in lower case).
_MAX_PREFIX: Final = 253
_PREFIX: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
#: The numbers of Go's strconv.ParseInt, which decides for `<` and `>`.
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,63}")
_INT64: Final = range(-(2**63), 2**63)

_TOKEN: Final = re.compile(r"==|!=|[=!<>(),]|[^ \t\r\n=!<>(),]+")
_SYMBOLS: Final = frozenset(("==", "!=", "=", "!", "<", ">", "(", ")", ","))


class BadSelector(ValueError):  # noqa: N818 (names a text)
    """A text that is no selector; the message says why."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on the label `key`. `values` are sorted and distinct; `<` and `>` have one."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        number, bound = _int64(value or ""), int(self.values[0])
        return number is not None and (number > bound if self.operator == ">" else number < bound)

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "absent":
                return f"!{self.key}"
            case "<" | ">":
                return f"{self.key}{self.operator}{self.values[0]}"
            case "in" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
        # One value after `notin` too: CoreDNS does not take `!=`.
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that all hold; without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()
    """Sorted by their text and distinct: selectors that say the same in another order are equal."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """The canonical text, for the API server's labelSelector; "" for everything."""
        return ",".join(map(str, self.requirements))


EVERYTHING: Final = Selector()


def parse(text: str) -> Selector:
    """A selector from its text; an empty one selects everything. Raises BadSelector."""
    tokens = _Tokens(text)
    if not tokens.ahead:
        return EVERYTHING
    found = {_requirement(tokens)}
    while tokens.ahead:
        tokens.expect(",", "',' or the end")
        found.add(_requirement(tokens))
    return Selector(tuple(sorted(found, key=str)))


class _Tokens:
    """The words and symbols of a text; "" is behind the last one."""

    def __init__(self, text: str) -> None:
        self._found: list[str] = [*_TOKEN.findall(text), ""]
        self._at = 0

    @property
    def ahead(self) -> str:
        return self._found[self._at]

    def take(self) -> str:
        token = self.ahead
        self._at += bool(token)
        return token

    def word(self, what: str) -> str:
        if not self.ahead or self.ahead in _SYMBOLS:
            raise self.unexpected(what)
        return self.take()

    def expect(self, symbol: str, what: str) -> None:
        if self.ahead != symbol:
            raise self.unexpected(what)
        self.take()

    def unexpected(self, what: str) -> BadSelector:
        return BadSelector(f"{f'{self.ahead!r} stands' if self.ahead else 'it ends'} where {what} is expected")


def _requirement(tokens: _Tokens) -> Requirement:
    absent = tokens.ahead == "!"
    if absent:
        tokens.take()
    key = _key(tokens.word("a label's name"))
    if absent:
        return Requirement(key, "absent")
    match tokens.ahead:
        case "" | ",":
            return Requirement(key, "exists")
        case "=" | "==":
            return Requirement(key, "in", (_exact(tokens),))
        case "!=":
            return Requirement(key, "notin", (_exact(tokens),))
        case "<" | ">" as operator:
            value = _exact(tokens)
            if _int64(value) is None:
                raise BadSelector(f"{value!r} after {operator!r} is not an integer")
            return Requirement(key, operator, (value,))
        case "in" | "notin" as operator:
            return Requirement(key, operator, _set(tokens))
    raise tokens.unexpected("one of =, ==, !=, <, >, in, notin")


def _exact(tokens: _Tokens) -> str:
    """The value behind an operator; the empty value if none is there."""
    tokens.take()
    return "" if tokens.ahead in ("", ",") else _value(tokens.word("a label's value"))


def _set(tokens: _Tokens) -> tuple[str, ...]:
    """The values in parentheses; between two commas alone is the empty value."""
    tokens.take()
    tokens.expect("(", "'('")
    found: set[str] = set()
    while True:
        found.add("" if tokens.ahead in (",", ")") else _value(tokens.word("a label's value or ')'")))
        if tokens.ahead == ")":
            tokens.take()
            return tuple(sorted(found))
        tokens.expect(",", "',' or ')'")


def _key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > _MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        raise BadSelector(f"{text!r} is not a label's name: its prefix is not a DNS name in lower case")
    if len(name) > _MAX_NAME:
        raise BadSelector(f"{text!r} is not a label's name: more than {_MAX_NAME} characters")
    if not _NAME.fullmatch(name):
        raise BadSelector(f"{text!r} is not a label's name: letters, digits and -_. with a letter or digit at each end")
    return text


def _value(text: str) -> str:
    if len(text) > _MAX_VALUE:
        raise BadSelector(f"{text!r} is not a label's value: more than {_MAX_VALUE} characters")
    if not _NAME.fullmatch(text):
        raise BadSelector(
            f"{text!r} is not a label's value: letters, digits and -_. with a letter or digit at each end"
        )
    return text


def _int64(text: str) -> int | None:
    """The number of a value; None when it is no number of 64 bits."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number in _INT64 else None
