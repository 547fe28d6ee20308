"""The image is small, starts as deploy/base starts it and needs nothing more,
and says what it is made of.

It is built with deploy/Dockerfile on a base that debootstrap makes, because tests use no registry.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from headwater import __version__
from headwater.commands import query
from headwater.settings.address import Address
from packaging.utils import canonicalize_name

from tests.harness.container import SHELLS, USER, Container, Store, Tree, require_engine
from tests.harness.processes import wait_until
from tools import image

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = "/opt/headwater/lib/python3.11/site-packages/headwater/examples/statefulset"
NAME: Final = "web-stateful-1.headless-svc.default.svc.cluster.local"
#: The promise of docs/operations.md: bytes beyond the base.
MOST: Final = 150 * 10**6

#: Imports every module of the package, and what functions import when they are called.
#: What is imported where there is no Linux (`writer.host`).
ELSEWHERE: Final = frozenset({"psutil"})
IMPORT_ALL: Final = """
import importlib, pkgutil, sys, headwater
names = [one.name for one in pkgutil.walk_packages(headwater.__path__, "headwater.") if "__main__" not in one.name]
for name in [*names, *sys.argv[1:]]:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="module")
def store() -> Store:
    require_engine()
    store = Store()
    store.build()
    return store


@pytest.fixture(scope="module")
def tree(store: Store) -> Iterator[Path]:
    with Tree(store) as root:
        yield root


@pytest.fixture(scope="module")
def config(store: Store) -> dict[str, Any]:
    return store.inspect()


@pytest.fixture(scope="module")
def bill(tree: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tree / image.SBOM.lstrip("/")).read_text())
    return found


def imported() -> set[str]:
    """Return every module of other packages that the product imports
    anywhere, also inside functions.
    """
    found: set[str] = set()
    for file in (ROOT / "backend" / "headwater").rglob("*.py"):
        for item in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(item, ast.Import):
                found |= {alias.name for alias in item.names}
            elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
                found.add(item.module)
    return {name for name in found if not name.startswith("headwater") and name != "__future__"} - ELSEWHERE


def test_it_is_small(store: Store, tree: Path) -> None:
    assert store.size(store.tag) - store.size(image.BOOTSTRAPPED) < MOST
    site = tree / "opt/headwater/lib/python3.11/site-packages"
    assert not (site / "pip").exists()
    assert len(list((site / "kubernetes/client/models").glob("*.py"))) == 1


def test_everything_that_headwater_imports_is_there(tree: Path, config: dict[str, Any], tmp_path: Path) -> None:
    names = sorted(imported())
    assert {"kubernetes.stream", "kubernetes.config", "lmdb", "grpc"} <= set(names)
    config = {"config": {**config["config"], "Entrypoint": ["/opt/headwater/bin/python", "-c", IMPORT_ALL]}}
    code, shown = Container(tree, config, names, log=tmp_path / "log").run()
    assert code == 0, shown
    assert int(shown) > 100


def test_a_module_that_was_removed_is_missed(tree: Path, config: dict[str, Any], tmp_path: Path) -> None:
    config = {"config": {**config["config"], "Entrypoint": ["/opt/headwater/bin/python", "-c", IMPORT_ALL]}}
    code, shown = Container(tree, config, ["kubernetes.client.models.v1_pod"], log=tmp_path / "log").run()
    assert code == 1
    assert "ModuleNotFoundError" in shown


def test_modules_are_compiled_and_their_sources_are_not_looked_at(tree: Path) -> None:
    site = tree / "opt/headwater/lib/python3.11/site-packages"
    sources = [file for file in site.rglob("*.py") if "headwater" in file.parts or "kubernetes" in file.parts]
    assert sources
    for file in sources:
        head = (file.parent / "__pycache__" / f"{file.stem}.cpython-311.pyc").read_bytes()[4:8]
        # PEP 552: bit 0, a hash and not a time; bit 1, that it is checked.
        assert int.from_bytes(head, "little") == 1, file


def test_it_serves_as_a_stranger_without_a_shell_on_a_read_only_root(
    tree: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    arguments = ["serve", "--manifests", EXAMPLES, "--listen", "unix:/run/headwater/dns.sock",
                 "--state-dir", "/var/lib/headwater", "--admin", "off"]  # fmt: skip
    with Container(tree, config, arguments, log=tmp_path / "log") as container:
        socket = Address(path=str(container.volume / "dns-0.sock"))

        def answers() -> bool:
            assert container.process is not None
            container.process.require_running()
            return query.exchange(query.question(NAME, "A"), socket, 5.0)[3] & 15 == 0

        wait_until(answers, 30, "the container answers", ignoring=(query.LookupFailed,))
        status = Path(f"/proc/{container.pid()}/status").read_text()
        assert re.findall(r"^[UG]id:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)$", status, re.MULTILINE) == [(str(USER),) * 4] * 2
        assert set(re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE)) == {"0" * 16}
        inside = Path(f"/proc/{container.pid()}/root")
        assert [(inside / shell.lstrip("/")).stat().st_size for shell in SHELLS] == [0] * len(SHELLS)
        root = next(line for line in Path(f"/proc/{container.pid()}/mounts").read_text().splitlines() if " / " in line)
        assert "ro" in root.split()[3].split(",")
        container.signal("TERM")
        assert container.process is not None
        assert container.process.wait(10) == 0


def test_labels_say_what_it_is(config: dict[str, Any]) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value for name, value in config["config"]["Labels"].items()
    }
    assert labels["title"] == "headwater"
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT", labels["created"])
    assert labels["base.name"] == image.BOOTSTRAPPED
    assert labels["headwater.sbom"] == image.SBOM
    assert config["config"]["User"] == f"{USER}:{USER}"


def test_the_bill_of_materials_lists_what_is_installed(tree: Path, bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/headwater@{__version__}"
    purls = [one["purl"] for one in bill["components"]]
    assert len(set(purls)) == len(purls)
    python = {purl.removeprefix("pkg:pypi/") for purl in purls if purl.startswith("pkg:pypi/")}
    pinned = {
        canonicalize_name(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==([^\s\\]+)", (ROOT / "deploy" / "requirements.txt").read_text(), re.MULTILINE
        )
    }
    assert python == {f"{name}@{version}" for name, version in pinned.items()}
    text = (ROOT / "deploy" / "requirements.txt").read_text()
    for one in bill["components"]:
        if one["purl"].startswith("pkg:pypi/"):
            (digest,) = one["hashes"]
            assert f"sha256:{digest['content']}" in text, one["name"]
    form = "${Package} ${Version} ${Architecture} ${db:Status-Status}\n"
    listed = image.run("dpkg-query", f"--admindir={tree}/var/lib/dpkg", "--show", f"--showformat={form}")
    debian = {
        f"{one['name']} {one['version']} {one['purl'].partition('?arch=')[2].partition('&')[0]}"
        for one in bill["components"]
        if one["purl"].startswith("pkg:deb/debian/")
    }
    assert debian == {line.removesuffix(" installed") for line in listed.splitlines() if line.endswith(" installed")}
    assert {"libc6", "python3.11", "ca-certificates"} <= {line.split()[0] for line in debian}


def test_every_distribution_has_the_files_that_its_record_lists(tree: Path) -> None:
    site = tree / "opt/headwater/lib/python3.11/site-packages"
    records = list(site.glob("*.dist-info/RECORD"))
    assert len(records) > 40
    for record in records:
        for line in record.read_text().splitlines():
            assert (site / line.rsplit(",", 2)[0].strip('"')).exists(), line
