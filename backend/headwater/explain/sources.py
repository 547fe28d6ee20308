"""Look up objects that are not watched, in the API server or in manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

import msgspec

from headwater.cluster.reflector import RequestFailed
from headwater.explain.look import MOST_PODS, Item, NotSeen

_PATHS: Final[Mapping[str, tuple[str, str]]] = {
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "Endpoints": ("/api/v1", "endpoints"),
    "Namespace": ("/api/v1", "namespaces"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
}


class Server(Protocol):
    """The API server (cluster.api.ApiServer)."""

    def read(self, path: str) -> bytes | None: ...


class FromApi:
    """The current objects of the API server. The first look-up connects to it."""

    def __init__(self, connect: Callable[[], Server]) -> None:
        """`connect` raises NotSeen when there are no credentials."""
        self._connect = connect
        self._server: Server | None = None
        self._refused: str = ""

    def get(self, kind: str, namespace: str, name: str) -> Item | None:
        found = self._read(f"{_collection(kind, namespace)}/{quote(name, safe='')}")
        return found if found is None or isinstance(found, Mapping) else None

    def every(self, kind: str, namespace: str) -> Sequence[Item]:
        found = self._read(f"{_collection(kind, namespace)}?{urlencode({'limit': MOST_PODS})}")
        items = found.get("items") if isinstance(found, Mapping) else None
        return [item for item in items or () if isinstance(item, Mapping)]

    def _read(self, path: str) -> Any:
        if self._refused:
            raise NotSeen(self._refused)
        try:
            if self._server is None:
                self._server = self._connect()
            body = self._server.read(path)
        except NotSeen as why:
            # Without credentials or a server, every look-up fails the same way: do not try again.
            self._refused = str(why)
            raise
        except RequestFailed as error:
            if not error.status:
                self._refused = str(error)
            raise NotSeen(str(error)) from None
        try:
            return None if body is None else msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NotSeen(f"{path}: not JSON: {error}") from None


def _collection(kind: str, namespace: str) -> str:
    base, resource = _PATHS[kind]
    return f"{base}/{resource}" if kind == "Namespace" else f"{base}/namespaces/{quote(namespace, safe='')}/{resource}"


class FromManifests:
    """The objects of manifests. The cluster may have pods that they do not name."""

    def __init__(self, items: Iterable[Item], *, every_pod: bool = False) -> None:
        """With `every_pod` there are no other pods."""
        self._every_pod = every_pod
        self._items: dict[str, dict[tuple[str, str], Item]] = {}
        for item in items:
            meta = item.get("metadata")
            meta = meta if isinstance(meta, Mapping) else {}
            kind = str(item.get("kind"))
            namespace = "" if kind == "Namespace" else str(meta.get("namespace") or "default")
            self._items.setdefault(kind, {})[namespace, str(meta.get("name"))] = item

    def get(self, kind: str, namespace: str, name: str) -> Item | None:
        found = self._of(kind).get(("" if kind == "Namespace" else namespace, name))
        if found is None and kind == "Pod" and not self._every_pod:
            raise NotSeen(f"the manifests have no Pod {namespace}/{name}")
        return found

    def every(self, kind: str, namespace: str) -> Sequence[Item]:
        return [item for (where, _), item in self._of(kind).items() if where == namespace]

    def _of(self, kind: str) -> Mapping[tuple[str, str], Item]:
        if kind == "Pod" and kind not in self._items and not self._every_pod:
            raise NotSeen("the manifests have no Pod")
        return self._items.get(kind, {})
