"""Manifests as a source: YAML and JSON as people write them and as kubectl prints them.

A path is a file or a folder (its *.yaml, *.yml and *.json, folders below
included, hidden ones not). All files together are a complete list of every resource. A file that
does not parse is reported with its line, and its earlier content stays. Without any earlier content
of a file, no list is complete, and none is reported.

A namespace that is only mentioned exists too: a manifest need not define it. It has no labels, so a
selector for one leaves it out.
"""

from __future__ import annotations

import codecs
import errno
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from headwater.cluster.objects import KINDS, Decoded, Namespace, OddObject, Resource, convert
from headwater.settings.selectors import EVERYTHING, Selector

_log = logging.getLogger(__name__)

_SUFFIXES: Final = frozenset((".yaml", ".yml", ".json"))
#: The deepest nesting: libyaml's composer recurses on the C stack and overflows it (24,000 levels
#: in 8 MiB).
_MAX_DEPTH: Final = 500
#: The most keys that merging (<<) may add to a mapping: aliases of aliases would make billions.
_MAX_MERGED: Final = 10_000
#: What `stat` says of what is no file, or is gone by now. After others, such as EIO, nobody knows.
_NO_FILE: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES))

Objects = dict[Resource, dict[tuple[str, str], Decoded]]
Selectors = Mapping[Resource, Selector]
"""The selector of a resource, if not all its objects are chosen."""


class _Found(NamedTuple):
    """An object of a file; `selected` by its labels."""

    resource: Resource
    decoded: Decoded
    selected: bool


class BadManifest(ValueError):  # noqa: N818 (names a file)
    """A file that does not parse; the text says which, where, and why."""

    def __init__(self, text: str) -> None:
        # A file's name need not be text.
        super().__init__(text.encode(errors="backslashreplace").decode())


class _Loader(yaml.CSafeLoader):  # type: ignore[misc, unused-ignore]
    """YAML as Kubernetes reads it: a date is a string."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        before = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > before + _MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "merging makes too many keys", node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def files_of(paths: Iterable[str]) -> list[Path]:
    """The manifest files of the paths, in a fixed order.

    Raises OSError when a folder or a file's state cannot be read, because its content is unknown.
    """
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        if not path.is_dir():
            found[path] = None
            continue
        for file in sorted(_below(path)):
            if file.suffix in _SUFFIXES and _is_file(file):
                found[file] = None
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    """What is not hidden in a folder. A kubelet removes hidden folders while they are looked at."""
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _unreadable(error: OSError) -> None:
    if error.errno not in _NO_FILE:
        raise error


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        _unreadable(error)
        return False


def signature(paths: Iterable[str]) -> list[tuple[Path, int, int, int]]:
    """A value that changes with a file: path, time of change (ns), size, inode."""
    found = []
    for file in files_of(paths):
        try:
            status = file.stat()
        except OSError:
            found.append((file, 0, 0, 0))
        else:
            found.append((file, status.st_mtime_ns, status.st_size, status.st_ino))
    return found


def documents(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, document) of a file, lines from 1. Raises BadManifest."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadManifest(f"{file}: {error.strerror or error}") from None
    if file.suffix == ".json":
        data = data.removeprefix(codecs.BOM_UTF8)
        if not data.strip():
            return
        try:
            yield 1, msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            raise _json_problem(file, data, error) from None
        return
    loader = _Loader(data)
    try:
        _check_depth(file, data)
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node.start_mark.line + 1, loader.construct_document(node)
    except yaml.YAMLError as error:
        mark, offset = getattr(error, "problem_mark", None), getattr(error, "position", None)
        if mark is not None:
            line = f":{mark.line + 1}"
        else:  # bytes that are not text: the reader counts them
            line = f":{data.count(10, 0, offset) + 1}" if offset is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadManifest(f"{file}{line}: not valid YAML: {problem}") from None
    except BadManifest:
        raise
    except Exception as error:  # noqa: BLE001 (yaml checks few of a tag's values: `!!int ""` is an IndexError)
        raise BadManifest(f"{file}: not valid YAML: {error or type(error).__name__}") from None
    finally:
        loader.dispose()


def _check_depth(file: Path, data: bytes) -> None:
    """Refuse nesting that would overflow the composer's stack.

    Raises BadManifest, yaml.YAMLError.
    """
    depth = 0
    for event in yaml.parse(data, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                line = f":{event.start_mark.line + 1}" if event.start_mark is not None else ""
                raise BadManifest(f"{file}{line}: nested more than {_MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _json_problem(file: Path, data: bytes, found: Exception) -> BadManifest:
    """The line of a mistake in JSON: the fast parser counts bytes, and is stricter."""
    place = re.search(r"\(byte (\d+)\)", str(found))
    at = int(place[1]) if place is not None else -1
    try:
        json.loads(data.decode())
    except json.JSONDecodeError as error:
        return BadManifest(f"{file}:{error.lineno}: not valid JSON: {error.msg}")
    except UnicodeDecodeError as error:
        at = error.start
    except (ValueError, RecursionError):
        pass
    line = f":{data.count(10, 0, at) + 1}" if at >= 0 else ""
    return BadManifest(f"{file}{line}: not valid JSON: {found}")


def everything(paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every object of the manifests, whatever its kind, as it is written. Raises BadManifest."""
    for file in files_of(paths):
        for line, document in documents(file):
            yield from _flattened(document, file, line)


def read(file: Path, selectors: Selectors | None = None) -> list[tuple[Resource, Decoded]]:
    """The selected objects of a file that DNS needs; others are passed over. Raises BadManifest.

    One bad object makes the file bad: its author wants to know, and did not write half a file.
    """
    return [(resource, decoded) for resource, decoded, selected in _read(file, selectors or {}) if selected]


def _read(file: Path, selectors: Selectors) -> list[_Found]:
    found: list[_Found] = []
    for line, document in documents(file):
        for item in _flattened(document, file, line):
            version, kind = item.get("apiVersion"), item.get("kind")
            # Not str(kind): aliases could make a text of gigabytes of a list.
            resource = KINDS.get((version, kind)) if isinstance(version, str) and isinstance(kind, str) else None
            if resource is None:
                continue
            try:
                decoded = convert(resource, item)
                selector = selectors.get(resource, EVERYTHING)
                found.append(_Found(resource, decoded, selector == EVERYTHING or selector.matches(_labels(item))))
            except OddObject as error:
                name = (item.get("metadata") or {}).get("name") if isinstance(item.get("metadata"), dict) else None
                named = name if name and isinstance(name, str) else "without a name"
                raise BadManifest(f"{file}:{line}: {kind} {named}: {error}") from None
    return found


def _labels(item: dict[str, Any]) -> dict[str, str]:
    """The labels of an object that has metadata.

    Raises OddObject for values that the API would not take.
    """
    labels = item["metadata"].get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise OddObject(f"metadata.labels is a mapping, not a {_kind_of(labels)}")
    found = {}
    for key, value in labels.items():
        if value is not None and not isinstance(value, str):
            raise OddObject(f"the label {key} is text, not a {_kind_of(value)}: put it in quotes")
        found[str(key)] = value or ""
    return found


def _flattened(document: Any, file: Path, line: int, *, inside: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a document: itself, or a List's items (`List`, `ServiceList`)."""
    if document is None:
        return
    if not isinstance(document, dict):
        raise BadManifest(
            f"{file}:{line}: a manifest is a mapping with apiVersion and kind, not a {_kind_of(document)}"
        )
    kind = document.get("kind", "")
    if not kind:
        raise BadManifest(f"{file}:{line}: the document has no kind")
    if not isinstance(kind, str):
        raise BadManifest(f"{file}:{line}: the kind is text, not a {_kind_of(kind)}")
    if not kind.endswith("List") or (inside and kind != "List"):
        yield document
        return
    if inside:
        # Nobody writes one, and with aliases a few lines could make billions of objects, or
        # infinitely many.
        raise BadManifest(f"{file}:{line}: a List inside a list is not read")
    items = document.get("items") or []
    if not isinstance(items, list):
        raise BadManifest(f"{file}:{line}: the items of a {kind} are a list, not a {_kind_of(items)}")
    for item in items:
        if not isinstance(item, dict):
            raise BadManifest(f"{file}:{line}: an item of a {kind} is a mapping, not a {_kind_of(item)}")
        if kind != "List" and "kind" not in item:
            item = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion"), **item}
        yield from _flattened(item, file, line, inside=True)


def _kind_of(value: object) -> str:
    return {"str": "text", "list": "list", "int": "number", "float": "number", "bool": "boolean"}.get(
        type(value).__name__, type(value).__name__
    )


class Manifests:
    """The files of a source, and the last good content of each."""

    def __init__(self, paths: Iterable[str], selectors: Selectors | None = None) -> None:
        self._paths = tuple(paths)
        self._selectors = selectors or {}
        self._good: dict[Path, list[_Found]] = {}
        self.problems: dict[Path, str] = {}
        """The reason why a file's present content is not taken."""

    def load(self) -> Objects | None:
        """Read every file again. None while a file has had no good content."""
        files = files_of(self._paths)
        self.problems = {}
        good: dict[Path, list[_Found]] = {}
        complete = True
        for file in files:
            try:
                good[file] = _read(file, self._selectors)
            except BadManifest as problem:
                self.problems[file] = str(problem)
                known = self._good.get(file)
                if known is None:
                    complete = False
                    _log.error("%s (nothing is served until it is right)", problem)
                else:
                    good[file] = known
                    _log.error("%s (what it said before is kept)", problem)
        self._good = good
        return _together(good, self._selectors) if complete else None


def _together(files: dict[Path, list[_Found]], selectors: Selectors) -> Objects:
    found: Objects = {"namespaces": {}, "services": {}, "endpointslices": {}, "pods": {}, "serviceimports": {}}
    origin: dict[tuple[Resource, tuple[str, str]], Path] = {}
    mentioned: dict[str, None] = {}
    for file, objects in files.items():
        for resource, decoded, selected in objects:
            key = decoded.object.key
            if decoded.absent:
                continue
            other = origin.setdefault((resource, key), file)
            if other != file:
                _log.warning("%s: %s %s is in %s too; this one counts", file, resource, "/".join(key), other)
            if selected:
                found[resource][key] = decoded
            else:
                found[resource].pop(key, None)
            if key[0]:
                mentioned[key[0]] = None
    if selectors.get("namespaces", EVERYTHING).matches({}):
        for name in mentioned:
            if ("namespaces", ("", name)) not in origin:
                found["namespaces"]["", name] = Decoded(Namespace(name), "")
    return found
