"""Complete lists as differences: what waits in `staging`, and what it means for the store.

A list is *open* from its first page on, which is noted in the same transaction, to
its end. A page, or an end, of a list that is not open means nothing: so an end that
is handed in twice, or whose pages were never taken, cannot delete what it does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from headwater.cluster.objects import Decoded, Resource, pack, packed_version
from headwater.store.environment import ReadTransaction, Store, Transaction
from headwater.store.holders import Holder, holder_of
from headwater.writer.isolation import Unstorable
from headwater.writer.owners import Owner, owner_of_key, owners_of_slice
from headwater.writer.posting import Posting, storable_key, stored, stored_labels

#: Objects of a complete list compared at a time: bounds memory, not correctness.
_RANGE: Final = 10_000
#: And bytes of them.
_BYTES: Final = 32 << 20
#: Objects applied per transaction, about, and what that may cost, in seconds: others' changes wait as long.
_CHUNK: Final = 256
_COST: Final = 0.1
_OPEN: Final = b"list/"
_SEPARATOR: Final = b"/"

#: Who is an address's in the index of addresses.
HOLDERS: Final[dict[Resource, Holder]] = {"services": Holder.SERVICE, "endpointslices": Holder.SLICE}


class Group(NamedTuple):
    """The differing objects of one owner: they are applied together."""

    owner: Owner
    keys: list[bytes]
    """Of `objects`."""
    size: int
    """Bytes of these, as they were and as they are listed."""


def version_key(resource: Resource) -> bytes:
    """Where `meta` keeps how far a resource was read."""
    return b"version/" + resource.encode()


def forget(txn: Transaction, resource: Resource) -> None:
    """Remove every object of a resource, what points to them, and how far it was read; not the records."""
    for key, _ in list(txn.scan("objects", resource.encode() + _SEPARATOR)):
        txn.delete("objects", key)
    if resource in HOLDERS:
        gone = [key for key, _ in txn.scan("addresses") if holder_of(key) is HOLDERS[resource]]
        for key in gone:
            txn.delete("addresses", key)
    if resource == "endpointslices":
        txn.clear("slices")
        txn.clear("hosts")
    elif resource == "pods":
        txn.clear("pods")
    txn.set_meta(version_key(resource), b"")


def is_open(txn: ReadTransaction, resource: Resource) -> bool:
    """Whether a list of it has begun and not ended."""
    return bool(txn.meta(_OPEN + resource.encode()))


def begin(txn: Transaction, resource: Resource, resources: Iterable[Resource]) -> None:
    """Open a list; what another that did not end had staged is forgotten. `resources`: all that there are."""
    end(txn, resource, resources)
    txn.set_meta(_OPEN + resource.encode(), b"1")


def end(txn: Transaction, resource: Resource, resources: Iterable[Resource]) -> None:
    """Close a list, and forget what it has staged."""
    txn.set_meta(_OPEN + resource.encode(), b"")
    if not any(is_open(txn, other) for other in resources):
        txn.clear("staging")  # which does not touch the pages that it gives back
        return
    for key in [key for key, _ in txn.scan("staging", resource.encode() + _SEPARATOR)]:
        txn.unindex("staging", key)


def stage(txn: Transaction, resource: Resource, objects: Iterable[Decoded]) -> None:
    """Note the objects of a page."""
    for decoded in objects:
        if not decoded.absent:
            key = storable_key(resource, decoded.object.key)
            txn.index("staging", key, pack(decoded.object, decoded.resource_version))


def stage_as_it_stands(txn: Transaction, resource: Resource, key: tuple[str, str]) -> None:
    """Note an object that was listed, but cannot be taken, as it is in the store, if it is there."""
    try:
        place = storable_key(resource, key)
    except Unstorable:
        return
    if (data := txn.get("objects", place)) is not None:
        txn.index("staging", place, data)


def unstage(txn: Transaction, resource: Resource, key: tuple[str, str]) -> None:
    """Forget an object of a page that was deleted before the list's end."""
    txn.unindex("staging", storable_key(resource, key))


def differences(txn: ReadTransaction, resource: Resource) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, the list's value, the store's value) where these are not the same; None where one has none."""
    prefix = resource.encode() + _SEPARATOR
    both = _merged(txn.scan("staging", prefix), txn.scan("objects", prefix))
    return ((key, now, before) for key, now, before in both if now != before)


def differing(txn: ReadTransaction, resource: Resource, start: bytes) -> tuple[list[Group], bytes]:
    """The objects that staging and store do not agree on, by owner; and where to go on.

    From the key `start` on to the end of a namespace, or to the end (then `b""` is where to go on).
    The owner is the Service, so that what belongs together is applied together.
    """
    prefix = resource.encode() + _SEPARATOR
    found: list[tuple[Owner, bytes, int]] = []
    read = 0
    last, rest = b"", b""
    both = _merged(txn.scan("staging", prefix, start or prefix), txn.scan("objects", prefix, start or prefix))
    for seen, (key, now, before) in enumerate(both):
        namespace = key.rpartition(_SEPARATOR)[0]
        if (seen >= _RANGE or read >= _BYTES) and namespace != last:
            rest = key
            break
        last = namespace
        size = len(now or b"") + len(before or b"")
        read += size
        if now != before:
            owners = {owner_of_stored(resource, key, data) for data in (now, before) if data is not None}
            found.append((min(owners), key, size))
    groups: list[Group] = []
    for owner, some in groupby(sorted(found), itemgetter(0)):
        its = list(some)
        groups.append(Group(owner, [key for _, key, _ in its], sum(size for _, _, size in its)))
    return groups, rest


def owners_that_differ(store: Store, resource: Resource) -> frozenset[Owner]:
    """The owners of which staging and the rest of the store say different things."""
    found: set[Owner] = set()
    start = b""
    while True:
        groups, start = store.read(partial(differing, resource=resource, start=start))
        found.update(group.owner for group in groups)
        if not start:
            return frozenset(found)


def owner_of_stored(resource: Resource, key: bytes, data: bytes) -> Owner:
    """Whose an object is: of a slice the Service or the ServiceImport, else the object itself."""
    _, namespace, name = key.decode().split("/", 2)
    if resource == "endpointslices":
        labels = stored_labels(data)
        return min(owners_of_slice(namespace, labels.service, labels.imported), default=(namespace, ""))
    return owner_of_key(resource, namespace, name)


def chunks(groups: Iterable[Group], cost: Callable[[Group], float]) -> Iterator[list[Group]]:
    """Groups for one transaction each: of about _CHUNK objects, that cost _COST at most; or one group."""
    some: list[Group] = []
    size, spent = 0, 0.0
    for group in groups:
        price = cost(group)
        if some and (size >= _CHUNK or spent + price > _COST):
            yield some
            some, size, spent = [], 0, 0.0
        some.append(group)
        size += len(group.keys)
        spent += price
    if some:
        yield some


def apply(txn: Transaction, resource: Resource, keys: Sequence[bytes], posting: Posting) -> None:
    """Make these objects what the list says."""
    for key in keys:
        data = txn.get("staging", key)
        if data is None:
            _, namespace, name = key.decode().split("/", 2)
            posting.remove(resource, (namespace, name))
        else:
            posting.upsert(resource, Decoded(stored(resource, data), str(packed_version(data))))


def _merged(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, left's value, right's value) of two sorted sequences; None where one lacks the key."""
    one, two = next(left, None), next(right, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one[0] < two[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(left, None)
        elif one is None or two[0] < one[0]:
            yield two[0], None, two[1]
            two = next(right, None)
        else:
            yield one[0], one[1], two[1]
            one, two = next(left, None), next(right, None)
