"""What a checkout must have, and what not, so that a fresh clone works on a fresh machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Written in two halves, so that this file does not match itself.
MACHINE_PATHS = re.compile("|".join(f"(?<![A-Za-z0-9_.~-])/{folder}/" for folder in ("work", "root", "home")))


def tracked() -> list[Path]:
    """Return the files that git tracks, as far as they exist."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert files
    return [file for file in files if file.is_file()]


def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    found = []
    for file in tracked():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("/{}/main", True),
        ("open('/{}/x')", True),
        ("--kubeconfig=/{}/config", True),
        ("net/{}/x", False),
        ("~/{}/x", False),
        ("/{}shop/x", False),
        ("sha256-Ab/{}/cd", False),
    ],
)
@pytest.mark.parametrize("folder", ["work", "root", "home"])
def test_a_machine_path_is_told_from_others(text: str, is_one: bool, folder: str) -> None:
    assert bool(MACHINE_PATHS.search(text.format(folder))) is is_one


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """There is no index, URL or path: an installation uses the machine's own index."""
    names = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==[0-9][A-Za-z0-9.+!]*", line)
            assert match, line
            names.append(match[1].lower().replace("_", "-"))
        assert "://" not in line
    assert len(names) == len(set(names)), "a requirement is pinned twice"


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(name for extra in extras for name in extra),
    ]


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needed = {re.split(r"[^A-Za-z0-9._-]", name)[0].lower().replace("_", "-") for name in requirements()}
    assert needed <= pinned, f"not pinned: {sorted(needed - pinned)}"


def test_pyproject_names_no_host() -> None:
    """Except in [project.urls], which is for people."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project["project"].pop("urls", None)
    assert not re.search(r"://|git\+|@ |\bindex\b", repr(project))
    for requirement in requirements():
        assert re.fullmatch(
            r"[A-Za-z0-9._-]+(\[[a-z,]+\])?([<>=!~]=?[0-9][0-9.,<>=!~*]*)?(; sys_platform != '[a-z]+')?", requirement
        ), requirement


def python_files() -> list[Path]:
    return sorted((ROOT / "backend").rglob("*.py"))


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT / "backend")))
def test_a_module_says_why_it_exists(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_bytes()))
    assert docstring, "no docstring"
    if file.parent.name != "pb":
        assert docstring.splitlines()[0].rstrip().endswith((".", ":")), docstring.splitlines()[0]


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!")
    assert re.search(r"^\s*(exec )?make test$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "target",
    [
        "help",
        "run",
        "test",
        "test-fast",
        "test-pythons",
        "coverage",
        "lint",
        "bench",
        "fuzz",
        "tools",
        "cluster",
        "node",
        "node-test",
        "requirements",
        "dist",
        "clean",
    ],
)
def test_make_has_the_target_and_help_shows_it(target: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.search(rf"^  make {target} +\S", done.stdout, re.MULTILINE), done.stdout


def test_make_test_runs_every_folder_of_tests_once() -> None:
    """It runs them side by side, alone, or by their marks; a new folder has to be in one list."""
    makefile = (ROOT / "Makefile").read_text()
    parts = [
        word
        for name in ("SIDE_BY_SIDE", "ALONE", "BOTH")
        for line in re.findall(rf"^{name} := (.*)$", makefile, re.MULTILINE)
        for word in line.split()
    ]
    folders = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")}
    assert sorted(parts) == sorted(folders)
    recipe = makefile.split("\ntest: ", 1)[1].split("\n\n", 1)[0]
    for lane in ("$(SIDE_BY_SIDE)", '-m "$(EDIT)" $(BOTH)', '-m "not ($(EDIT))" $(BOTH)', "$(ALONE)"):
        assert recipe.count(f" {lane} || wrong=1") == 1, lane
