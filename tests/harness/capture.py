#!/usr/bin/env python3
"""Capture the bundled example from a real control plane.

    python -m tests.harness.capture [FILE]      default: examples/statefulset/objects.yaml

Starts a control plane of its own, applies the manifests in examples/, waits until both Services
have three ready endpoints, and writes what kubectl prints.

Standard library only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # run as a script: the checkout is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.harness.plane import Plane, PlaneError, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS = (EXAMPLES / "scenario.yaml", EXAMPLES / "named-port.yaml")
SERVICES = ("headless-svc", "web-named")
ENDPOINTS = 3
KINDS = "namespaces,services,endpointslices,pods"
TIMEOUT = 120.0  # seconds until all endpoints are ready


def ready_endpoints(plane: Plane, service: str) -> int:
    """How many endpoints of a Service in the default namespace are ready."""
    selector = f"labelSelector=kubernetes.io/service-name%3D{service}"
    slices = plane.api("GET", f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?{selector}")["items"]
    endpoints = [endpoint for item in slices for endpoint in item["endpoints"] or []]
    return sum(bool(endpoint.get("conditions", {}).get("ready")) for endpoint in endpoints)


def capture(plane: Plane) -> str:
    """Apply the manifests and return the objects that DNS depends on, as YAML."""
    for manifest in MANIFESTS:
        plane.kubectl("apply", "-f", manifest)
    wait_until(
        lambda: all(ready_endpoints(plane, service) == ENDPOINTS for service in SERVICES),
        TIMEOUT,
        f"{ENDPOINTS} ready endpoints of {' and '.join(SERVICES)}",
    )
    # kubectl leaves managedFields out by itself.
    return plane.kubectl("get", KINDS, "--namespace=default", "--output=yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Capture the bundled example from a control plane.")
    parser.add_argument("file", nargs="?", type=Path, default=EXAMPLES / "statefulset" / "objects.yaml")
    file: Path = parser.parse_args(arguments).file
    try:
        with tempfile.TemporaryDirectory(prefix="headwater-capture-") as folder, Plane(Path(folder)) as plane:
            text = capture(plane)
    except (PlaneError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    print(f"{file}: {len(text.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
