"""Apply complete lists as differences between `staging` and the store.

A list is *open* from its first page to its end. The transaction that takes the first page also
notes that the list is open. A page, or an end, of a list that is not open has no effect. An end
that is handed in twice, or whose pages were never taken, therefore deletes nothing.

A list is *due* when one was opened, or put aside, and none was completed since: the version up to
which the resource was read is then no place to go on from. The API server may have been restored
from a backup, and its new history may have passed that version by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from headwater.cluster.objects import Decoded, Resource, pack, packed_version
from headwater.store.copied import LIST, VERSION
from headwater.store.environment import ReadTransaction, Store, Transaction
from headwater.store.holders import Holder, holder_of
from headwater.writer.isolation import Unstorable
from headwater.writer.owners import Owner, owner_of_key, owners_of_slice
from headwater.writer.posting import Posting, storable_key, stored, stored_labels

#: Objects of a complete list that are compared at once. It only bounds memory.
_RANGE: Final = 10_000
#: Bytes of these objects.
_BYTES: Final = 32 << 20
#: About how many objects are applied in one transaction, and how many seconds that may take: other
#: changes wait meanwhile.
_CHUNK: Final = 256
_COST: Final = 0.1
_OPEN: Final = b"open"
_DUE: Final = b"due"
_SEPARATOR: Final = b"/"

#: The kind of holder under which a resource's objects are in the index of addresses.
HOLDERS: Final[dict[Resource, Holder]] = {"services": Holder.SERVICE, "endpointslices": Holder.SLICE}


class Group(NamedTuple):
    """The differing objects of one owner: they are applied together."""

    owner: Owner
    keys: list[bytes]
    """Keys of the sub-database `objects`."""
    size: int
    """Bytes of these objects, as they are stored and as they are listed."""


def version_key(resource: Resource) -> bytes:
    """Return the key of `meta` that keeps the resourceVersion up to which a resource was read."""
    return VERSION + resource.encode()


def forget(txn: Transaction, resource: Resource) -> None:
    """Remove every object of a resource, its index entries, and its
    resourceVersion; not the records.
    """
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
    return txn.meta(LIST + resource.encode()) == _OPEN


def is_due(txn: ReadTransaction, resource: Resource) -> bool:
    """Whether a list of it has begun, or was put aside, and none was completed since."""
    return bool(txn.meta(LIST + resource.encode()))


def begin(txn: Transaction, resource: Resource, resources: Iterable[Resource]) -> None:
    """Open a list, and forget what an unfinished list of the resource has staged.

    `resources` are all resources of the store.
    """
    end(txn, resource, resources)
    txn.set_meta(LIST + resource.encode(), _OPEN)


def end(txn: Transaction, resource: Resource, resources: Iterable[Resource], *, due: bool = False) -> None:
    """Close a list, and forget what it has staged; `due`: it was not completed."""
    txn.set_meta(LIST + resource.encode(), _DUE if due else b"")
    if not any(is_open(txn, other) for other in resources):
        txn.clear("staging")  # it frees the pages without reading them
        return
    for key in [key for key, _ in txn.scan("staging", resource.encode() + _SEPARATOR)]:
        txn.unindex("staging", key)


def stage(txn: Transaction, resource: Resource, objects: Iterable[Decoded]) -> None:
    """Stage the objects of a page."""
    for decoded in objects:
        if not decoded.absent:
            key = storable_key(resource, decoded.object.key)
            txn.index("staging", key, pack(decoded.object, decoded.resource_version))


def stage_as_it_stands(txn: Transaction, resource: Resource, key: tuple[str, str]) -> None:
    """Stage the stored version of an object that was listed but cannot be
    taken, if the store has one.
    """
    try:
        place = storable_key(resource, key)
    except Unstorable:
        return
    if (data := txn.get("objects", place)) is not None:
        txn.index("staging", place, data)


def unstage(txn: Transaction, resource: Resource, key: tuple[str, str]) -> None:
    """Unstage an object that was deleted before the list's end."""
    txn.unindex("staging", storable_key(resource, key))


def differences(txn: ReadTransaction, resource: Resource) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Yield (key, the list's value, the store's value) where they
    differ; None for a missing value.
    """
    prefix = resource.encode() + _SEPARATOR
    both = _merged(txn.scan("staging", prefix), txn.scan("objects", prefix))
    return ((key, now, before) for key, now, before in both if now != before)


def differing(txn: ReadTransaction, resource: Resource, start: bytes) -> tuple[list[Group], bytes]:
    """Compare one range of staging and store.

    Return the differing objects by owner, and the next key. The range begins at the key `start` and
    stops at the end of a namespace. The next key is `b""` after the last range. The owner is the
    Service, so that its objects are applied together, and the first of the pods that share an
    address.
    """
    prefix = resource.encode() + _SEPARATOR
    found: list[tuple[Owner, bytes, int]] = []
    addresses: dict[bytes, set[tuple[bytes, str]]] = {}
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
            if resource == "pods":
                these = (stored("pods", data).addresses for data in (now, before) if data is not None)
                addresses[key] = {(namespace, address) for some in these for address in some}
    groups: list[Group] = []
    if resource == "pods":
        found = _by_address(found, addresses)
    for owner, some in groupby(sorted(found), itemgetter(0)):
        its = list(some)
        groups.append(Group(owner, [key for _, key, _ in its], sum(size for _, _, size in its)))
    return groups, rest


def _by_address(
    found: Iterable[tuple[Owner, bytes, int]], addresses: Mapping[bytes, Iterable[tuple[bytes, str]]]
) -> list[tuple[Owner, bytes, int]]:
    """Give pods one owner, the first of them, if they have or had an address in common.

    One pod loses what another one gets: in two transactions it would be nobody's for a moment.
    """
    leader: dict[Owner, Owner] = {}
    holder: dict[tuple[bytes, str], Owner] = {}

    def leader_of(owner: Owner) -> Owner:
        while (above := leader.get(owner, owner)) != owner:
            leader[owner] = leader.get(above, above)
            owner = above
        return owner

    found = list(found)
    for owner, key, _ in found:
        for address in addresses[key]:
            one, two = sorted((leader_of(owner), leader_of(holder.setdefault(address, owner))))
            if one != two:
                leader[two] = one
    return [(leader_of(owner), key, size) for owner, key, size in found]


def owners_that_differ(store: Store, resource: Resource) -> frozenset[Owner]:
    """Return the owners whose objects differ between staging and store."""
    found: set[Owner] = set()
    start = b""
    while True:
        groups, start = store.read(partial(differing, resource=resource, start=start))
        found.update(group.owner for group in groups)
        if not start:
            return frozenset(found)


def owner_of_stored(resource: Resource, key: bytes, data: bytes) -> Owner:
    """Return the owner of a stored object: a slice's Service or ServiceImport,
    otherwise the object itself.
    """
    _, namespace, name = key.decode().split("/", 2)
    if resource == "endpointslices":
        labels = stored_labels(data)
        return min(owners_of_slice(namespace, labels.service, labels.imported), default=(namespace, ""))
    return owner_of_key(resource, namespace, name)


def chunks(groups: Iterable[Group], cost: Callable[[Group], float]) -> Iterator[list[Group]]:
    """Yield the groups for each transaction: about _CHUNK objects that cost
    at most _COST, or one group.
    """
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
    """Store these objects as they were listed, and remove those that were not listed."""
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
    """Yield (key, left's value, right's value) of two sorted sequences;
    None where one lacks the key.
    """
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
