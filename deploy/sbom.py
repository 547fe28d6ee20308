"""Write an image's bill of materials: CycloneDX 1.6, as JSON, to standard output.

    python deploy/sbom.py SITE-PACKAGES [REPORT...]

It lists what is installed: the distributions in site-packages by their own metadata, Python, and
Debian's packages by dpkg's. REPORTs are pip's (`pip install --report`); they have the hashes of the
archives. Equal installations make equal bills.

Standard library only: it runs in the image's build stage.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATUS = Path("/var/lib/dpkg/status")
RELEASE = Path("/etc/os-release")


def normal(name: str) -> str:
    """Return a project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes(reports: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each project's archive, from pip's reports (version 1)."""
    found = {}
    for report in reports:
        for item in json.loads(report.read_text())["install"]:
            archive = item["download_info"].get("archive_info", {}).get("hashes", {})
            if "sha256" in archive:
                found[normal(item["metadata"]["name"])] = archive["sha256"]
    return found


def distributions(site: Path, archives: dict[str, str]) -> list[dict[str, Any]]:
    """Return a component for each distribution in site-packages, in the order of names."""
    made = []
    for found in importlib.metadata.distributions(path=[str(site)]):
        fields = found.metadata
        name = normal(fields["Name"])
        purl = f"pkg:pypi/{name}@{quote(found.version)}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": fields["Name"],
            "version": found.version,
            "purl": purl,
        }
        if summary := fields.get("Summary"):
            component["description"] = summary
        if expression := fields.get("License-Expression"):
            component["licenses"] = [{"expression": expression}]
        elif (text := fields.get("License")) and "\n" not in text:
            component["licenses"] = [{"license": {"name": text}}]
        if name in archives:
            component["hashes"] = [{"alg": "SHA-256", "content": archives[name]}]
        made.append(component)
    return sorted(made, key=lambda one: str(one["purl"]))


def debian(status: str, release: str) -> Iterator[dict[str, Any]]:
    """Yield a component for each installed package of dpkg's status file."""
    words = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    distribution = f"{words.get('ID', 'debian')}-{words.get('VERSION_ID', '')}".replace('"', "").rstrip("-")
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={machine}&distro={distribution}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def bill(components: list[dict[str, Any]], name: str = "headwater") -> dict[str, Any]:
    """Return the bill: Headwater is what it is about, all else its components."""
    (subject,) = [one for one in components if one["name"] == name and one["purl"].startswith("pkg:pypi/")]
    rest = [one for one in components if one is not subject]
    body = json.dumps([subject, *rest], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, body)}",
        "version": 1,
        "metadata": {"component": {**subject, "type": "application"}},
        "components": rest,
    }


def main() -> None:
    site, *reports = map(Path, sys.argv[1:])
    python = f"pkg:generic/python@{platform.python_version()}"
    components = distributions(site, hashes(reports))
    components.append(
        {
            "type": "platform",
            "bom-ref": python,
            "name": "python",
            "version": platform.python_version(),
            "purl": python,
        }
    )
    if STATUS.exists():
        components += sorted(debian(STATUS.read_text(), RELEASE.read_text()), key=lambda one: str(one["purl"]))
    json.dump(bill(components), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
