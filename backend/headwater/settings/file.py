"""A configuration file: TOML, one table for each topic, the flags' names as keys.

    [served]
    zone = ["cluster.local"]

`tomllib` reads the values of a file, but does not tell their lines. `lines_of` finds those: it
divides a valid document into its statements, and lets tomllib read each of them alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from headwater.settings.error import SettingsError
from headwater.settings.options import BY_KEY, TOPICS, Option

FLAG: Final = "--config"
VARIABLE: Final = "HEADWATER_CONFIG"
#: Room for tens of thousands of namespaces; it bounds a device or a log that was named by mistake.
MAX_SIZE: Final = 1 << 20

_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # strings: over several lines,
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'  # and in one
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}]"
    r"|\n+"
    r"|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a file: the option, its value as TOML has it, and its line."""

    option: Option
    value: object
    line: int


def read(path: str) -> list[Entry]:
    """The keys of a file, in the table's order.

    Raises SettingsError, which names file, key and line.
    """
    import tomllib  # only where there is a file

    text = _text(path)
    try:
        document = tomllib.loads(text)
        lines = lines_of(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, *_syntax(text, error)) from None
    found = []
    for topic, table in document.items():
        line = lines.get((topic,), 1)
        if topic not in _TOPICS:
            raise _wrong(path, line, _unknown_topic(topic))
        if not isinstance(table, dict):
            raise _wrong(path, line, f"{_quoted(topic)} is a table: write [{topic}]")
        for key, value in table.items():
            line = lines.get((topic, key), line)
            option = BY_KEY.get(key)
            if option is None:
                raise _wrong(path, line, f"[{topic}] has no key {_quoted(key)}{_nearest(key, list(BY_KEY))}")
            if option.topic.name != topic:
                raise _wrong(path, line, f"{key} belongs in [{option.topic.name}], not in [{topic}]")
            found.append(Entry(option, value, line))
    return found


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table and of each key in it, from 1. `text` is valid TOML."""
    import tomllib

    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for line, statement in _statements(text.replace("\r\n", "\n")):
        paths = _paths(tomllib.loads(statement))
        if statement.startswith("["):
            table = ()
        for path in paths:
            found.setdefault(table + path, line)
        if statement.startswith("["):
            table = paths[-1]
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Headers and keys with their values, each with its first line."""
    line, begun, depth = 1, 0, 0
    parts: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        if token[0] == "\n" and not depth:
            if parts:
                yield begun, "".join(parts)
            parts = []
        elif parts or not (token.isspace() or token.startswith("#")):
            begun = begun if parts else line
            parts.append(token if parts else token.lstrip())
        line += token.count("\n")
    if parts:
        yield begun, "".join(parts)


def _paths(value: dict[str, Any]) -> list[tuple[str, ...]]:
    """The paths of the keys and of the keys below them: no deeper, however deep a document is."""
    found: list[tuple[str, ...]] = []
    for key, inner in value.items():
        found.append((key,))
        found.extend((key, below) for below in (inner if isinstance(inner, dict) else ()))
    return found


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a pipe, too)
            content = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(FLAG, f"{path!r} cannot be read: {why}") from None
    if len(content) > MAX_SIZE:
        raise SettingsError(FLAG, f"{path!r} is larger than {MAX_SIZE >> 20} MiB: that is no configuration")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, content.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    if not text.strip():
        raise SettingsError(FLAG, f"{path!r} is empty")
    return text


def _syntax(text: str, error: Exception) -> tuple[int, str]:
    """Where a document stops being TOML, and why."""
    problem = str(error)
    position = _POSITION.search(problem)
    if position is None:  # a number of thousands of digits, arrays in arrays in arrays
        problem = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        return 1, f"not valid TOML: {problem}"
    problem = problem[: position.start()]
    return int(position[1] or text.rstrip().count("\n") + 1), f"not valid TOML: {problem[:1].lower()}{problem[1:]}"


_TOPICS: Final = [topic.name for topic in TOPICS]


def _unknown_topic(name: str) -> str:
    if option := BY_KEY.get(name):
        return f"{name} belongs in [{option.topic.name}]"
    hint = _nearest(name, _TOPICS) or f": the tables are {', '.join(_TOPICS)}"
    return f"there is no table {_quoted(name)}{hint}"


def _nearest(word: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only for a mistake

    near = get_close_matches(word.lower().replace("_", "-"), known, 1)
    return f": do you mean {near[0]}?" if near else ""


def _quoted(key: str) -> str:
    return repr(key if len(key) <= 60 else key[:60] + "…")


def _wrong(path: str, line: int, problem: str) -> SettingsError:
    return SettingsError(FLAG, f"{printable(path)}:{line}: {problem}")


def printable(path: str) -> str:
    """A path for a message of one line."""
    return path if path.isprintable() else repr(path)
