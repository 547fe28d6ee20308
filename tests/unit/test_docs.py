"""Everything that the documents name exists: modules, files, classes, pages."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "backend" / "headwater"
ROOMS: Final = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists())
PAGES: Final = [
    page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if page.name != "CHANGELOG.md"
]  # a changelog names things of the past

_FOLDERS: Final = "backend|bench|corefile|deploy|docs|examples|protos|tests|tools"
_MODULE: Final = re.compile(rf"({'|'.join(ROOMS)})[/.]([a-z_0-9]+)(?:\.py|\.([A-Za-z_]+))?")
_PATH: Final = re.compile(rf"(?:{_FOLDERS})/[\w./*-]*")
_DOTTED: Final = re.compile(r"(?:bench|tests)(?:\.[a-z_0-9]+)+")
_MEMBER: Final = re.compile(r"([A-Z]\w+)\.([a-z_]\w*)")


def spans(page: Path) -> list[str]:
    """Return the first words of texts in backticks, outside code
    blocks, as of `python -m x --flag`.
    """
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    return [word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()]


@functools.cache
def members() -> dict[str, set[str]]:
    """Return the attributes of each class of the package and the tests."""
    found: dict[str, set[str]] = {}
    for file in (*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        for item in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(item, ast.ClassDef):
                found.setdefault(item.name, set()).update(_defined(item))
    return found


def _defined(scope: ast.ClassDef | ast.Module) -> Iterator[str]:
    """Yield the names of a module or a class: bound in its body,
    imported, or assigned to `self`.
    """
    for item in scope.body:
        match item:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign() | ast.AnnAssign():
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
    for inner in ast.walk(scope) if isinstance(scope, ast.ClassDef) else ():
        match inner:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def is_module(parts: list[str], root: Path) -> bool:
    """Return whether a dotted name is a package, a module, or a name in a module."""
    path = root.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    return module.is_file() and parts[-1] in _defined(ast.parse(module.read_bytes()))


def is_there(name: str) -> bool | None:
    """Return whether a word in backticks names an existing thing;
    None if it cannot be looked up.
    """
    if match := _PATH.fullmatch(name):
        return any(ROOT.glob(name.rstrip("/")))
    if (match := _MODULE.fullmatch(name)) and match[2] != "local":  # `cluster.local` is a zone
        return is_module([match[1], match[2], *filter(None, [match[3]])], PACKAGE)
    if _DOTTED.fullmatch(name):
        return is_module(name.split("."), ROOT)
    if (match := _MEMBER.fullmatch(name)) and match[1] in members():
        return match[2] in members()[match[1]]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    missing = [name for name in spans(page) if is_there(name) is False]
    assert not missing, f"named in {page.relative_to(ROOT)}, and not there: {missing}"


def test_pages_name_what_can_be_looked_up() -> None:
    known = [name for page in PAGES for name in spans(page) if is_there(name)]
    assert len(known) >= 30, known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("answer/resolver", True), ("answer/resolver.py", True), ("answer.resolver", True), ("serve.upstream", True),
        ("answer/rezolver.py", False), ("store.addresses", False), ("cluster/ledger.py", False),
        ("tests/unit/test_docs.py", True), ("tests/unit/nothing.py", False), ("tools/*/go.mod", True),
        ("bench.resolver", True), ("bench.rezolver", False), ("tests.harness.processes.wait_until", True),
        ("tests.harness.processes.wait_for_ever", False), ("Resolver.answer", True), ("Resolver.reply", False),
        ("cluster.local", None), ("gc.freeze", None), ("ready", None), ("Lease.spec", None),
    ],
)  # fmt: skip
def test_a_name_is_looked_up(name: str, expected: bool | None) -> None:
    assert is_there(name) is expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


# Decisions

RECORDS: Final = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_decisions_are_numbered_and_listed() -> None:
    assert [int(record.name[:3]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))
    titles = [record.read_text().partition("\n")[0].removeprefix("# ") for record in RECORDS]
    page = " ".join((ROOT / "docs" / "decisions" / "README.md").read_text().split())
    listed = re.findall(r"- \[([^\]]+)\]\((\S+)\)", page)
    assert listed == [(title, record.name) for title, record in zip(titles, RECORDS, strict=True)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_has_its_parts(record: Path) -> None:
    text = record.read_text()
    assert text.startswith(f"# {record.name[:3]}: ")
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert parts[:3] == ["Context", "Decision", "Consequences"]
    assert parts[3:] in ([], ["Tried and not kept"])
    assert not [line for line in text.splitlines() if len(line) > 100]
