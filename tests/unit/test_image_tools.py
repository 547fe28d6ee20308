"""What makes the image refuses what it does not know, and tells what it finds."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from headwater import __version__

from tools import image

if TYPE_CHECKING:
    from types import ModuleType

ROOT: Final = Path(__file__).resolve().parents[2]
KEPT: Final = ("kubernetes/client/api/__init__.py", "kubernetes/client/models/__init__.py", "kubernetes/client/rest.py")
GONE: Final = (
    "kubernetes/aio/client/a.py",
    "kubernetes/client/api/core_v1_api.py",
    "kubernetes/client/models/v1_pod.py",
    "kubernetes/config/kube_config_test.py",
    "kubernetes/dynamic/test_client.py",
)


def script(name: str) -> ModuleType:
    """Import a script of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path: Path) -> Path:
    record = tmp_path / "kubernetes-1.dist-info" / "RECORD"
    record.parent.mkdir()
    for name in (*KEPT, *GONE):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    record.write_text("".join(f"{name},sha256=x,6\n" for name in (*KEPT, *GONE, "kubernetes-1.dist-info/RECORD")))
    return tmp_path


def test_what_is_removed_is_not_recorded(site: Path) -> None:
    assert script("slim").prune(site) == 6 * len(GONE)
    assert [name for name in GONE if (site / name).exists()] == []
    lines = (site / "kubernetes-1.dist-info" / "RECORD").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == [*KEPT, "kubernetes-1.dist-info/RECORD"]


@pytest.mark.parametrize("name", GONE)
def test_a_package_that_has_changed_is_noticed(name: str, site: Path) -> None:
    file = site / name
    file.unlink()
    if name.startswith("kubernetes/aio"):
        file.parent.rmdir()
        file.parent.parent.rmdir()
    with pytest.raises(FileNotFoundError, match="look at what that package has now"):
        script("slim").prune(site)


STATUS: Final = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Depends: libgcc-s1
Description: GNU C Library
 Package: not-one

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1:2.0
"""


def test_the_bill_has_debians_installed_packages() -> None:
    found = list(script("sbom").debian(STATUS, 'ID=debian\nVERSION_ID="12"\n'))
    assert [one["purl"] for one in found] == ["pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"]


def test_the_bill_of_an_equal_installation_is_equal(tmp_path: Path) -> None:
    sbom = script("sbom")

    def bill(version: str) -> dict[str, Any]:
        info = tmp_path / "headwater.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: Headwater\nVersion: {version}\n")
        report = tmp_path / "report.json"
        archive = {"archive_info": {"hashes": {"sha256": "ab"}}}
        found = {"metadata": {"name": "headwater"}, "download_info": archive}
        report.write_text(json.dumps({"install": [found, {**found, "download_info": {}}]}))
        made: dict[str, Any] = sbom.bill(sbom.distributions(tmp_path, sbom.hashes([report])), "Headwater")
        return made

    first = bill("1")
    assert first["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "ab"}]
    assert bill("1") == first
    assert bill("2")["serialNumber"] != first["serialNumber"]


def test_the_dockerfile_agrees_with_the_checkout() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"ARG VERSION={__version__}\n" in text
    assert image.version() == __version__
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert text.count(image.SBOM) == 2
    assert set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) == set(image.arguments("x")) | {"BASE"}
