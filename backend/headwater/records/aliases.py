"""Other names for endpoints of a Service, by its owner (docs/answers.md).

headwater.dev/alias   primary=db-0,replica=db-1,replica=db-2

`primary.SVC.NS.svc.Z` then has the addresses of the endpoint db-0, as long as that has some. An
endpoint's own name, and a pod's name that the Service has, are never taken by an alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headwater.wire import names
from headwater.wire.names import BadName

#: Entries of one annotation that are read, and its characters.
MAX_ENTRIES: Final = 100
MAX_TEXT: Final = 65_536
_ALIAS: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: Characters of a pod's name (RFC 1123: a subdomain).
_MAX_TARGET: Final = 253

Aliases = Mapping[str, Sequence[str]]
"""The endpoints that an alias stands for, by the alias; all in lower case."""


def parse(text: str) -> tuple[dict[str, list[str]], str]:
    """The aliases, and what is wrong ("" for nothing).

    An entry that does not parse is left out; the others count.
    """
    if len(text) > MAX_TEXT:
        return {}, f"more than {MAX_TEXT:,} characters"
    entries = text.split(",", MAX_ENTRIES)
    found: dict[str, list[str]] = {}
    wrong = []
    if len(entries) > MAX_ENTRIES:
        entries.pop()
        wrong.append(f"more than {MAX_ENTRIES:,} entries")
    for entry in entries:
        alias, _, target = (part.strip().lower() for part in entry.partition("="))
        if not is_alias(alias) or not 0 < len(target) <= _MAX_TARGET:
            wrong.append(f"{entry.strip()[:40]!r} is not ALIAS=ENDPOINT, the alias a label of a name")
        elif target not in found.setdefault(alias, []):
            found[alias].append(target)
    more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    return found, wrong[0] + more if wrong else ""


def is_alias(text: str) -> bool:
    """Whether it may be an alias."""
    return _ALIAS.fullmatch(text) is not None


def by_target(aliases: Aliases) -> dict[str, list[bytes]]:
    """The aliases, as labels, of each endpoint."""
    found: dict[str, list[bytes]] = {}
    for alias, targets in aliases.items():
        for target in targets:
            found.setdefault(target, []).append(names.label(alias))
    return found


def labels(aliases: Aliases) -> Iterable[bytes]:
    """Every alias as a label."""
    for alias in aliases:
        try:
            yield names.label(alias)
        except BadName:
            continue
