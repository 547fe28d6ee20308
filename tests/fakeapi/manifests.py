"""Manifests as the API server has them, with managedFields and other fields that DNS ignores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Manifest = dict[str, Any]

#: Characters of two, three and four bytes, so that a chunk often ends inside one.
NOTE: Final = "Zürich, Ω, ☃, 点, 𝄞"
_MANAGED: Final = [
    {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}}},
    }
]


def _meta(name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "annotations": {"note": NOTE}, "managedFields": _MANAGED, **more}
    return {**meta, "namespace": namespace} if namespace else meta


def namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(name), "status": {"phase": "Active"}}


def service(name: str, *addresses: str, namespace: str = "default", **spec: Any) -> Manifest:
    """Return a Service; without addresses it is headless."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]
    ips = list(addresses) or ["None"]
    body = {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ports": ports, "selector": {"app": name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(name, namespace), "spec": {**body, **spec}}


def external(name: str, target: str, namespace: str = "default") -> Manifest:
    spec = {"type": "ExternalName", "externalName": target}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(name, namespace), "spec": spec}


def slice_of(owner: str, endpoints: Mapping[str, str], number: int = 1, namespace: str = "default") -> Manifest:
    """Return a slice of a Service; `endpoints` are addresses by hostname ("" for none)."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _meta(f"{owner}-{number}", namespace, labels={"kubernetes.io/service-name": owner}),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True},
                **({"hostname": hostname} if hostname else {}),
            }
            for hostname, address in endpoints.items()
        ],
    }


def pod(name: str, address: str, namespace: str = "default", phase: str = "Running") -> Manifest:
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]} if address else {"phase": phase}
    spec = {"containers": [{"name": "main", "image": "example.org/main:1"}], "nodeName": "node-1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _meta(name, namespace), "spec": spec, "status": status}


def service_import(name: str, address: str, namespace: str = "default") -> Manifest:
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceImport",
        "metadata": _meta(name, namespace),
        "spec": {"type": "ClusterSetIP", "ips": [address], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }
