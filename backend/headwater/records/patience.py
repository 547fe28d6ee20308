"""Names that are awaited: known, and without a published address (docs/answers.md).

headwater.dev/patience   1s, or 1s,STATEFULSET,…: how long a question for such a name may wait

An awaited name is NXDOMAIN, as it is without the annotation. Its node says only how long a question
may wait for it to come (`serve.patience`). These names are awaited:

- the Service's own, if it is headless;
- those of endpoints in its slices that are not published, and its aliases;
- those that pods of its StatefulSets will have. A StatefulSet is known by the hostname of a sibling
  in a slice (`db-0` makes `db-1` known), or by its name in the annotation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from headwater.cluster.objects import EndpointSlice
from headwater.records import aliases, endpoints
from headwater.records.endpoints import Group
from headwater.records.options import Options
from headwater.records.sets import Writer
from headwater.store.node import pack_awaited
from headwater.wire import names
from headwater.wire.names import BadName

#: Names of one Service that only its StatefulSets make known.
_MOST_PODS: Final = 64
#: Ordinals behind the last one that is in a slice.
_BEYOND: Final = 4
#: Ordinals of a StatefulSet that only the annotation names.
_FIRST: Final = 16
_MEMBER: Final = re.compile(r"(.+)-(0|[1-9][0-9]{0,3})", re.ASCII)


def add(
    found: dict[bytes, bytes],
    writer: Writer,
    slices: Sequence[EndpointSlice],
    groups: Iterable[Group],
    only: Collection[bytes] | None,
    options: Options,
    *,
    pod_names: bool,
    headless: bool,
) -> None:
    """Add the awaited names to a Service's nodes; of names below it, with `only`, just those."""
    node = pack_awaited(zone=writer.zone.index, milliseconds=options.patience)
    published = {label for group in groups for label in (*group.hosts, *group.aliases)}
    known = set(endpoints.labels(slices, pod_names, aliases=options.pod_names))
    known.update(aliases.labels(options.aliases), members(slices, options))
    for label in known - published:
        if len(label) <= writer.room and (only is None or label in only):
            found.setdefault(label + writer.base, node)
    if headless:
        found.setdefault(writer.base, node)


def members(slices: Iterable[EndpointSlice], options: Options) -> set[bytes]:
    """The labels of pods that are known by their StatefulSets."""
    if not options.patience:
        return set()
    last = dict.fromkeys(options.stateful_sets, _FIRST - 1)
    for piece in slices:
        for item in piece.endpoints:
            if (named := _MEMBER.fullmatch(item.hostname)) is not None:
                last[named[1].lower()] = max(last.get(named[1].lower(), 0), int(named[2]) + _BEYOND)
    found: set[bytes] = set()
    for name, most in sorted(last.items()):
        for ordinal in range(max(0, most - _MOST_PODS + 1), most + 1):
            if len(found) == _MOST_PODS:
                return found
            try:
                found.add(names.label(f"{name}-{ordinal}"))
            except BadName:
                break
    return found
