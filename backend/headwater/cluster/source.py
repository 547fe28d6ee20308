"""The source of a store's objects, as a fingerprint: a cluster or which files, and the selectors.

This module reads a kubeconfig without the `kubernetes` package, which would cost its importers 24
MiB.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.settings import selectors
from headwater.settings.error import SettingsError
from headwater.settings.selectors import Selector
from headwater.settings.settings import Settings
from headwater.store.identity import is_there

if TYPE_CHECKING:
    from headwater.cluster.objects import Resource

_log = logging.getLogger(__name__)


def selectors_of(settings: Settings) -> dict[Resource, Selector]:
    """The selector of each resource, as in CoreDNS.

    The selector for namespaces chooses ServiceImports too, by their own labels, as in CoreDNS
    1.15.0 (plugin/kubernetes/controller.go gives `namespaceSelector` to serviceImportListFunc).
    """
    labels, namespace_labels = selectors.parse(settings.labels), selectors.parse(settings.namespace_labels)
    return {
        "namespaces": namespace_labels,
        "services": labels,
        "endpointslices": labels,
        "pods": labels,
        "serviceimports": namespace_labels,
    }


def source_of(settings: Settings) -> str:
    """A cluster, or the paths of the files; and the selectors: 16 hex digits.

    It does not say which cluster: a store is used even when credentials cannot be read. `Origin`
    does.
    """
    parts = ["cluster"]
    if settings.manifests:
        parts = ["files", *sorted(str(Path(path).absolute()) for path in settings.manifests)]
    for flag, text in (("--labels", settings.labels), ("--namespace-labels", settings.namespace_labels)):
        if selector := str(selectors.parse(text)):
            parts += [flag, selector]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def place_of(settings: Settings) -> str:
    """The API server's URL, or the files. Raises SettingsError when that cannot be read."""
    if settings.manifests:
        return ", ".join(settings.manifests)
    if settings.kubeconfig is None:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host:
            raise SettingsError("--kubeconfig", "needed outside a cluster (or --manifests to serve files)")
        return f"https://{f'[{host}]' if ':' in host else host}:{port}"
    if not Path(settings.kubeconfig).is_file():
        raise SettingsError("--kubeconfig", f"{settings.kubeconfig!r} is not a file")
    return _server_of(settings.kubeconfig, settings.context)


def check(settings: Settings) -> None:
    """Raises SettingsError for an unreadable source; with a store to serve it is logged.

    Bad configuration stops the first start. Later, the store is served, and the watch process tries
    again.
    """
    try:
        place_of(settings)
    except SettingsError as error:
        if not is_there(Path(settings.state_dir)):
            raise
        _log.warning("%s (serving what is stored, and trying on)", error)


def _server_of(kubeconfig: str, context: str | None) -> str:
    """The server of a kubeconfig's context."""
    import yaml  # 1 MiB that a pod's own service account does not need

    try:
        config = yaml.safe_load(Path(kubeconfig).read_bytes())
        wanted = context or config["current-context"]
        entry = _named(config["contexts"], wanted, "context")["context"]
        cluster = _named(config["clusters"], entry["cluster"], "cluster")["cluster"]
        if authority := cluster.get("certificate-authority"):
            # Relative to the kubeconfig, as kubectl takes it.
            (Path(kubeconfig).parent / authority).read_bytes()
        return str(cluster["server"])
    except OSError as error:
        raise SettingsError("--kubeconfig", f"{error.filename}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not valid YAML: {str(error).splitlines()[0]}") from None
    except KeyError as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not a kubeconfig: it has no {error}") from None
    except (TypeError, AttributeError, ValueError):
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not a kubeconfig") from None
    except LookupError as error:
        raise SettingsError("--context" if context else "--kubeconfig", f"{kubeconfig}: {error}") from None


def _named(items: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise IndexError(f"there is no {what} {name!r}")
