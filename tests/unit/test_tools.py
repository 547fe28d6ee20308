"""The tools for releases and continuous integration refuse what they have to."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import sys
import time
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import build, covered, dist, jars, pythons

ROOT: Final = Path(__file__).resolve().parents[2]

# deploy/requirements.txt


def pins(file: Path) -> dict[str, str]:
    return {
        canonicalize_name(match[1]): match[2]
        for match in re.finditer(r"^([\w.-]+)==([^\s\\]+)", file.read_text(), re.MULTILINE)
    }


def closure(names: list[str]) -> set[str]:
    """Return all transitive requirements on this Python, from the installed packages' metadata."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name not in found:
            found.add(name)
            waiting += map(Requirement, importlib.metadata.requires(name) or ())
    return found


def test_the_image_installs_the_pinned_runtime_requirements_and_nothing_else() -> None:
    image, pinned = pins(dist.REQUIREMENTS), pins(ROOT / "constraints.txt")
    assert image.items() <= pinned.items(), "make requirements"
    needed = closure(_project_requirements())
    # 3.11 is the image's Python; on others, markers may require fewer packages.
    assert needed <= set(image), f"make requirements: {needed - set(image)}"
    if sys.version_info[:2] == (3, 11):
        assert needed == set(image), f"make requirements: {set(image) - needed}"


def _project_requirements() -> list[str]:
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def test_every_requirement_of_the_image_has_hashes_and_no_address() -> None:
    text = dist.REQUIREMENTS.read_text()
    assert not re.search(r"://|index-url|find-links", text)
    body = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", "")
    assert all(re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+\s*", line) for line in body.splitlines())
    assert "--require-hashes --requirement deploy/requirements.txt" in (ROOT / "deploy" / "Dockerfile").read_text()


# A release


METADATA: Final = """\
Metadata-Version: 2.4
Name: headwater
Version: 1.2.3
Summary: DNS
Project-URL: Specification, https://example.org/
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.11
Classifier: Typing :: Typed
Description-Content-Type: text/markdown

# Headwater
"""


def release(folder: Path, changes: Mapping[str, str | None] | None = None, *, record: bool = True) -> tuple[Path, Path]:
    """Make a release of few files; `changes` replace files or leave them out."""
    files: dict[str, str | None] = {
        "headwater/__init__.py": "",
        "headwater/__main__.py": "",
        "headwater/py.typed": "",
        "headwater/examples/statefulset/objects.yaml": "{}",
        "headwater-1.2.3.dist-info/METADATA": METADATA,
        "headwater-1.2.3.dist-info/licenses/LICENSE": "Apache",
    }
    content = {name: text for name, text in (files | dict(changes or {})).items() if text is not None}
    lines = []
    for name, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text)}")
    lines.append("headwater-1.2.3.dist-info/RECORD,,")
    wheel = folder / "headwater-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text if record else text + " ")
        archive.writestr("headwater-1.2.3.dist-info/RECORD", "\n".join(lines) + "\n")
    return folder / "headwater-1.2.3.tar.gz", wheel


def test_a_release_as_it_must_be_is_let_through(tmp_path: Path) -> None:
    assert dist.check(*release(tmp_path)).version.public == "1.2.3"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"headwater/py.typed": None}, "py.typed"),
        ({"headwater/examples/statefulset/objects.yaml": None}, "examples"),
        ({"tests/test_x.py": ""}, "holds tests/"),
        ({"headwater/__pycache__/x.pyc": ""}, "__pycache__"),
        ({"headwater-1.2.3.dist-info/licenses/LICENSE": None}, "licence"),
        ({"headwater-1.2.3.dist-info/METADATA": METADATA.replace("Summary: DNS\n", "")}, "summary"),
        ({"headwater-1.2.3.dist-info/METADATA": METADATA.replace("text/markdown", "text/plain")}, "text/markdown"),
        ({"headwater-1.2.3.dist-info/METADATA": METADATA.replace("Name: headwater", "Name: other")}, "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_release_that_lacks_something_is_refused(changes: dict[str, str | None], why: str, tmp_path: Path) -> None:
    with pytest.raises(dist.NotFit, match=why):
        dist.check(*release(tmp_path, changes))


def test_a_file_that_is_not_what_record_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dist.NotFit, match="not what RECORD says"):
        dist.check(*release(tmp_path, record=False))


def test_an_sdist_of_another_version_is_refused(tmp_path: Path) -> None:
    _, wheel = release(tmp_path)
    with pytest.raises(dist.NotFit, match="not the same release"):
        dist.check(tmp_path / "headwater-1.2.4.tar.gz", wheel)


def test_metadata_that_an_index_would_refuse_is_refused() -> None:
    with pytest.raises(ExceptionGroup):
        dist.check_metadata(METADATA.replace("Version: 1.2.3", "Version: new").encode())


# Other Pythons


def test_the_promised_pythons_are_those_that_may_install_it() -> None:
    promised = pythons.promised()
    assert promised[0] == "3.11"
    assert promised == [f"3.{minor}" for minor in range(11, 11 + len(promised))]
    assert f'requires-python = ">={promised[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_this_python_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minor = f"3.{sys.version_info.minor}"
    (tmp_path / f"python{minor}").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert list(pythons.installed()) == [minor]
    assert pythons.version_of(tmp_path / f"python{minor}") == sys.version_info[:3]


def test_what_is_no_python_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "python3.12"
    file.write_text("#!/bin/sh\nexit 127\n")
    assert pythons.version_of(file) is None
    file.chmod(0o755)
    assert pythons.version_of(file) is None


def test_tests_that_take_too_long_have_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(pythons, "environment", lambda _: slow)
    began = time.monotonic()
    assert not pythons.run("3.11", slow, [], 0.2)
    assert time.monotonic() - began < 30


# Coverage


def test_a_room_below_its_floor_is_named() -> None:
    def file(statements: int, covered_lines: int) -> dict[str, dict[str, int]]:
        return {
            "summary": {
                "num_statements": statements, "covered_lines": covered_lines, "num_branches": 10, "covered_branches": 5,
            }
        }  # fmt: skip

    report = {
        "files": {
            "backend/headwater/answer/a.py": file(90, 85),
            "backend/headwater/store/b.py": file(40, 40),
            "backend/headwater/store/c.py": file(40, 15),
            "backend/headwater/__init__.py": file(10, 0),
        }
    }
    rooms = covered.by_room(report)
    assert {name: room.percent for name, room in rooms.items()} == {"answer": 90.0, "store": 65.0}
    text, below = covered.table(rooms, {"answer": 90, "store": 66, "writer": 1})
    assert below == ["store", "writer"], "one that was not seen at all is below its floor"
    assert re.search(r"^answer +85 / +90 +5 / +10 +90\.0% +90$", text, re.MULTILINE)


# Java servers


@pytest.mark.parametrize(
    ("came", "why"),
    [
        ({"a.jar": "1"}, r"b\.jar did not come"),
        ({"a.jar": "1", "b.jar": "2", "c.jar": "3"}, r"c\.jar came, and jars\.sum does not know it"),
        ({"a.jar": "1", "b.jar": "3"}, r"b\.jar has the SHA-256 3, and jars\.sum says 2"),
    ],
)
def test_jars_that_are_not_as_pinned_are_refused(came: dict[str, str], why: str) -> None:
    with pytest.raises(jars.NotAsPinnedError, match=why):
        jars.check({"a.jar": "1", "b.jar": "2"}, came)


@pytest.mark.parametrize("name", jars.JARS)
def test_the_pinned_jars_hold_the_server_in_its_version(name: str) -> None:
    server = jars.JARS[name]
    sums = server.sums()
    assert f"{server.artifact}-{server.version()}.jar" in sums
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in sums.values())
    assert "://" not in server.file("pom.xml").read_text().replace("http://maven.apache.org/POM/4.0.0", "")


def test_jars_that_are_wrong_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for Maven brings one jar that is not the pinned one."""
    maven = tmp_path / "mvn"
    maven.write_text(
        "#!/bin/sh\nfor word; do case $word in -DoutputDirectory=*) to=${word#*=};; esac; done\n"
        'mkdir -p "$to" && echo evil >"$to/kafka_2.13-4.3.1.jar"\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "find_maven", lambda: str(maven))
    with pytest.raises(SystemExit, match="getting kafka failed"):
        jars.main(["kafka"])
    assert [path.name for path in build.cache_folder().rglob("*") if path.name.startswith("kafka")] == []


def test_ferretdb_is_built_only_where_it_is_named() -> None:
    assert [tool.name for tool in build.TOOLS.values() if not tool.always] == ["ferretdb"]
