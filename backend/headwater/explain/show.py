"""An explanation as text for a terminal, verdict first, and at most 100 columns wide."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from headwater.explain.explanation import Explanation, Look, Origin, Outcome, Shown

WIDTH: Final = 100
_INDENT: Final = "  "
#: The most records that are printed; `--json` has more.
_FEW: Final = 20
_WORDS: Final = {
    Outcome.ANSWER: "answered",
    Outcome.NODATA: "NODATA",
    Outcome.NXDOMAIN: "NXDOMAIN",
    Outcome.SERVFAIL: "SERVFAIL",
    Outcome.REFUSED: "REFUSED",
}


def show(found: Explanation, now: float, width: int = WIDTH) -> str:
    """Return the text, without a final newline. `now` is in seconds since 1970.

    Sentences wrap at `width`. Commands and names do not wrap, so that they can be pasted.
    """
    return "\n".join(printable(line) for line in _lines(found, now, min(width, WIDTH)))


def printable(text: str) -> str:
    """Escape what a terminal would take for a command: tenants write the fields of objects."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _lines(found: Explanation, now: float, width: int) -> Iterator[str]:
    yield f"{found.name} {found.type}: {_WORDS[found.outcome]}"
    yield from _wrapped(found.verdict, width)
    if found.contradiction:
        yield from _wrapped(f"! {found.contradiction}", width)
    yield from _section("", _records(found.records, now, width))
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
    yield from _section("because", _columns(rows, width))
    yield from _section("see it, mend it", found.commands)
    yield from _section("names that answer", _columns([(item.name, item.why) for item in found.nearest], width))
    yield from _section("worth knowing", _list(found.hints, width))
    yield from _section("not known here", _list([*map(_look, found.looks), *found.unknown], width))
    if found.changed is not None:
        until = ""
        if found.until is not None and found.until > now:
            until = f"; clients and caches may hold the answer before that for {found.until - now:.0f} s more"
        yield ""
        told = f"unchanged since {moment(found.changed)} ({ago(now - found.changed)}){until}"
        yield from _wrapped(told, width)


def moment(at: float) -> str:
    """Return a time as RFC 3339 writes it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def ago(seconds: float) -> str:
    """Return a duration in the past, in one unit: "5 min ago"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _list(texts: Iterable[str], width: int) -> list[str]:
    """Return a list of sentences, each after a dash."""
    found: list[str] = []
    for text in texts:
        found += textwrap.wrap(text, width - len(_INDENT), initial_indent="- ", subsequent_indent="  ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return found


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        if title:
            yield title
        yield from (f"{_INDENT}{line}" for line in found)


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return two columns if they fit; otherwise the right one is below the left, indented."""
    column = max((len(left) for left, _ in rows), default=0)
    room = width - len(_INDENT)
    if all(column + 2 + len(right) <= room for _, right in rows):
        return [f"{left:<{column}}  {right}".rstrip() for left, right in rows]
    found = []
    for left, right in rows:
        found.append(left)
        found += textwrap.wrap(right, room, initial_indent="    ", subsequent_indent="    ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return found


def _records(records: Sequence[Shown], now: float, width: int) -> list[str]:
    rows = [(f"{item.ttl:>5}  {item.type:<5} {item.data}", _origin(item.origins, now)) for item in records[:_FEW]]
    return _columns(rows, width)


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
