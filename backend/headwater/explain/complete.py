"""Names that begin with what somebody has typed: "db.pr" finds db in namespaces pr*.

The store's keys are names in wire format, so the names with the same first labels lie together,
sorted by the length of their next label. What is typed therefore costs one look for each length
that its last label may get, at most 63, and one for each name that is found: however large the
cluster is. Services without records are looked for among the objects, in a bounded number of
namespaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from headwater.explain.completion import Completion, Named
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot
from headwater.store.node import HEAD, Flag, Kind, exists
from headwater.store.places import is_of_a_place
from headwater.wire import names
from headwater.wire.names import BadName

#: The most names that one completion has.
MOST: Final = 50
#: Places that are kept for Services without records, and for those of such a namespace.
_PLACES: Final = 5
#: Namespaces, and Services, that are looked at for them.
_LOOKED_AT: Final = 200


def completed_from(reader: Reader, settings: Settings, typed: str, limit: int) -> Completion:
    """`complete` on what a reader sees now; nothing is there without a store."""
    snapshot = reader.begin()
    if snapshot is None:
        return Completion(typed, "", [], more=False)
    try:
        return complete(typed, snapshot, settings, limit)
    finally:
        snapshot.close()


def complete(typed: str, snapshot: Snapshot, settings: Settings, limit: int) -> Completion:
    """The names that begin so, at most `limit`, the shortest next label first.

    One label alone also finds the Services of the namespaces that begin so.
    """
    text = typed.strip().lower()
    limit = max(1, min(limit, MOST))
    labels = text.split(".")
    try:
        whole, last = b"".join(map(names.label, labels[:-1])), _part(labels[-1])
    except BadName:
        return Completion(text, "", [], more=False)
    if not text:
        return Completion(text, "", [], more=False)
    found = list(islice(_beginning(snapshot, whole, last), limit + 1))
    zone = settings.zones[0]
    others = {one.name: one for one in islice(_without_records(labels, snapshot, zone), _PLACES)}
    if len(labels) == 1:
        others |= {one.name: one for one in islice(_in_namespaces(text, snapshot, zone), _PLACES)}
    for one in found:
        others.pop(one.name, None)
    room = max(limit - len(others), (limit + 1) // 2)
    shown = [*found[:room], *others.values()][:limit]
    return Completion(
        text, _exact(text, labels, snapshot, settings, found), shown, more=len(found) + len(others) > len(shown)
    )


def _part(text: str) -> bytes:
    """The beginning of a label, without a length. Raises BadName."""
    return names.label(text)[1:] if text else b""


def _beginning(snapshot: Snapshot, whole: bytes, last: bytes) -> Iterator[Named]:
    """The names with these first labels, and then one that begins so."""
    if not last and exists(node := snapshot.get(whole + names.ROOT)):
        yield _named(whole + names.ROOT, node)  # a whole name, with its last dot
    for length in range(max(1, len(last)), names.MAX_LABEL + 1):
        for key, node in snapshot.nodes(whole + bytes((length,)) + last):
            if exists(node) and not is_of_a_place(key):
                yield _named(key, node)


def _named(wire: bytes, node: Any) -> Named:
    flags, _, kind, n_a, n_aaaa = HEAD.unpack_from(node)
    addresses = 0 if flags & (Flag.SHARED | Flag.ALIAS) else n_a + n_aaaa
    return Named(names.text_of(wire).rstrip("."), Kind(kind).name.lower(), addresses)


def _without_records(labels: list[str], snapshot: Snapshot, zone: str) -> Iterator[Named]:
    """SERVICE, and SERVICE.NAMESPACE, that have none."""
    if len(labels) > 2 or not labels[0]:
        return
    beginning = labels[1] if len(labels) == 2 else ""
    for key, _ in islice(snapshot.scan("objects", f"namespaces//{beginning}".encode()), _LOOKED_AT):
        prefix = f"services/{key.decode().rpartition('/')[2]}/{labels[0]}"
        for service, _ in islice(snapshot.scan("objects", prefix.encode()), _PLACES):
            if len(labels) == 2 and service.decode() != prefix:
                break
            if (one := _service(service, snapshot, zone)) is not None and not one.answers:
                yield one


def _in_namespaces(typed: str, snapshot: Snapshot, zone: str) -> Iterator[Named]:
    """The Services of the namespaces that begin so."""
    for key, _ in islice(snapshot.scan("objects", f"services/{typed}".encode()), _LOOKED_AT):
        if (one := _service(key, snapshot, zone)) is not None:
            yield one


def _service(key: bytes, snapshot: Snapshot, zone: str) -> Named | None:
    """A Service by its key among the objects; None for one that no name can have."""
    _, namespace, service = key.decode().split("/", 2)
    try:
        wire = names.name(f"{service}.{namespace}.svc.{zone}")
    except BadName:
        return None
    node = snapshot.get(wire)
    if not exists(node):
        return Named(f"{service}.{namespace}.svc.{zone}".lower(), Kind.SERVICE.name.lower(), 0, answers=False)
    return _named(wire, node)


def _exact(text: str, labels: list[str], snapshot: Snapshot, settings: Settings, found: list[Named]) -> str:
    """The name itself; else the Service's or the HOST's; else the only one with these labels.

    What ends in a namespace is a name there, also one that does not answer.
    """
    bare = text.rstrip(".")
    for name in (bare, *(f"{bare}.svc.{zone}" for zone in settings.forward_zones())):
        if _has(snapshot, name):
            return name
    same = [one.name for one in found if one.name.split(".")[: len(labels)] == labels]
    if len(same) == 1:
        return same[0]
    if len(labels) > 1 and not same and snapshot.value("objects", f"namespaces//{labels[-1]}".encode()) is not None:
        return f"{bare}.svc.{settings.zones[0]}"
    return ""


def _has(snapshot: Snapshot, name: str) -> bool:
    try:
        return snapshot.get(names.name(name)) is not None
    except BadName:
        return False
