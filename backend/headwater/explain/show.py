"""An explanation as people read it: at most 100 columns, the verdict first."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from headwater.explain.explanation import Explanation, Look, Origin, Outcome, Shown

WIDTH: Final = 100
_INDENT: Final = "  "
#: Records that are printed; `--json` has more.
_FEW: Final = 20
_WORDS: Final = {
    Outcome.ANSWER: "answered",
    Outcome.NODATA: "NODATA",
    Outcome.NXDOMAIN: "NXDOMAIN",
    Outcome.SERVFAIL: "SERVFAIL",
    Outcome.REFUSED: "REFUSED",
}


def show(found: Explanation, now: float) -> str:
    """The text, without a closing newline. `now` in seconds since 1970."""
    return "\n".join(printable(line) for line in _lines(found, now))


def printable(text: str) -> str:
    """Without what a terminal would take for a command: fields hold what somebody else has written."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _lines(found: Explanation, now: float) -> Iterator[str]:
    yield f"{found.name} {found.type}: {_WORDS[found.outcome]}"
    yield from _wrapped(found.verdict)
    if found.contradiction:
        yield from _wrapped(f"! {found.contradiction}")
    yield from _section("", _records(found.records, now))
    more = found.more_records + max(0, len(found.records) - _FEW)
    if more:
        yield f"{_INDENT}… and {more:,} more"
    rows = [
        (
            "this instance" if item.object.kind == "flag" else f"{item.object}{_version(item.object.resource_version)}",
            f"{item.path} = {item.value}",
        )
        for item in found.deciding
    ]
    yield from _section("because", _columns(rows))
    yield from _section("see it, mend it", found.commands)
    yield from _section("names that answer", _columns([(item.name, item.why) for item in found.nearest]))
    yield from _section("worth knowing", [line for hint in found.hints for line in textwrap.wrap(hint, WIDTH - 4)])
    yield from _section("not known here", [*map(_look, found.looks), *found.unknown])
    if found.changed is not None:
        until = ""
        if found.until is not None and found.until > now:
            until = f"; clients and caches may hold the answer before that for {found.until - now:.0f} s more"
        yield ""
        yield from _wrapped(f"right since {moment(found.changed)} ({ago(now - found.changed)}){until}")


def moment(at: float) -> str:
    """A time as RFC 3339 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def ago(seconds: float) -> str:
    """How long ago something was, in one unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        if title:
            yield title
        yield from (f"{_INDENT}{line}" for line in found)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = min(60, max((len(left) for left, _ in rows), default=0))
    return [f"{left:<{width}}  {right}".rstrip() for left, right in rows]


def _records(records: Sequence[Shown], now: float) -> list[str]:
    rows = [(f"{item.ttl:>5}  {item.type:<5} {item.data}", _origin(item.origins, now)) for item in records[:_FEW]]
    return _columns(rows)


def _origin(origins: Sequence[Origin], now: float) -> str:
    if not origins:
        return ""
    first = origins[0]
    words = [f"{first.object.kind} {first.object.name}"]
    if first.pod:
        words.append(f"pod {first.pod}")
    if first.node:
        words.append(f"node {first.node}")
    if first.zone:
        words.append(f"zone {first.zone}")
    if first.since is not None:
        words.append(ago(now - first.since))
    if len(origins) > 1:
        words.append(f"and {len(origins) - 1} more")
    return ", ".join(words)


def _version(resource_version: str) -> str:
    return f" (version {resource_version})" if resource_version else ""


def _look(look: Look) -> str:
    where = f"{look.namespace}/{look.name}".strip("/") or look.namespace
    of = f" of Service {look.service}" if look.service else ""
    return f"{look.kind} {where}{of}: {look.why}"
