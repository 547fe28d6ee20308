"""Which cluster, or which files, and which of their objects: what a store's objects came from, as a fingerprint.

A kubeconfig is read here without the `kubernetes` package, which would cost
whoever only needs this 24 MiB.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from headwater.settings import selectors
from headwater.settings.error import SettingsError
from headwater.settings.selectors import Selector
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.cluster.objects import Resource


def selectors_of(settings: Settings) -> dict[Resource, Selector]:
    """By which labels the objects of each resource are chosen: the same as CoreDNS.

    A ServiceImport is chosen by the selector for namespaces, applied to its own labels: that is what CoreDNS 1.15.0
    does (plugin/kubernetes/controller.go gives `namespaceSelector` to serviceImportListFunc).
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
    """The server's URL and its CA, or the paths of the files, and the selectors: 16 hex digits. Raises SettingsError.

    Without selectors it is what it was before there were any: stores stay in use.
    """
    if settings.manifests:
        parts = ["files", *sorted(str(Path(path).absolute()) for path in settings.manifests)]
    elif settings.kubeconfig is None:
        ca = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        if not host:
            raise SettingsError("--kubeconfig", "needed outside a cluster (or --manifests to serve files)")
        parts = ["cluster", host, os.environ.get("KUBERNETES_SERVICE_PORT", ""), ca.read_text() if ca.exists() else ""]
    else:
        parts = ["kubeconfig", *_cluster_of(settings.kubeconfig, settings.context)]
    for flag, text in (("--labels", settings.labels), ("--namespace-labels", settings.namespace_labels)):
        if selector := str(selectors.parse(text)):
            parts += [flag, selector]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cluster_of(kubeconfig: str, context: str | None) -> list[str]:
    """Server and CA of a kubeconfig's context."""
    try:
        config = yaml.safe_load(Path(kubeconfig).read_bytes())
        wanted = context or config["current-context"]
        entry = _named(config["contexts"], wanted, "context")["context"]
        cluster = _named(config["clusters"], entry["cluster"], "cluster")["cluster"]
        authority = cluster.get("certificate-authority")
        # Relative to the kubeconfig, as kubectl takes it.
        data = (Path(kubeconfig).parent / authority).read_text() if authority else ""
        return [cluster["server"], cluster.get("certificate-authority-data", data)]
    except OSError as error:
        raise SettingsError("--kubeconfig", f"{error.filename}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not valid YAML: {str(error).splitlines()[0]}") from None
    except KeyError as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not a kubeconfig: it has no {error}") from None
    except (TypeError, AttributeError):
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not a kubeconfig") from None
    except LookupError as error:
        raise SettingsError("--context" if context else "--kubeconfig", f"{kubeconfig}: {error}") from None


def _named(items: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise IndexError(f"there is no {what} {name!r}")
