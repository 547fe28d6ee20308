"""Imports go one way, and no process loads a package that it does not need."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "backend" / "headwater"

#: Runs import-linter on the package in the current folder: unchanged, and after each change of a
#: list. A change is a file, and a line to append to it.
LINT = r"""
import contextlib, io, json, pathlib, re, sys
from importlinter.cli import lint_imports

def broken():
    with contextlib.redirect_stdout(io.StringIO()) as output:
        lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    verdicts = re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.*\))?$", output.getvalue(), re.MULTILINE)
    return {"output": output.getvalue(), "checked": [name for name, _ in verdicts],
            "broken": [name for name, verdict in verdicts if verdict == "BROKEN"]}

sys.path.insert(0, ".")
found = [broken()]
for name, line in json.loads(sys.argv[1]):
    file = pathlib.Path(name)
    before = file.read_bytes() if file.exists() else None
    file.write_bytes((before or b"") + line.encode())
    found.append(broken())
    file.unlink() if before is None else file.write_bytes(before)
print(json.dumps(found))
"""


def fresh(program: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter, from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


@functools.cache
def importlinter() -> Mapping[str, Any]:
    """Return import-linter's part of pyproject.toml."""
    found: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return found


def contracts(kind: str) -> list[Mapping[str, Any]]:
    return [contract for contract in importlinter()["contracts"] if contract["type"] == kind]


LAYERS = "The way of a record: each room knows those below it"
READING = "The reading side knows nothing of Kubernetes"
OBJECTS = "records knows what Kubernetes's objects are, and not how they come"
NOBODY = "store, wire and policy know nobody"
KUBERNETES = "only cluster.api and what it loads it with import kubernetes"
GRPC = "only serve imports grpc (and those who ask over it)"
LMDB = "only store imports lmdb"

#: (file, line): the contracts that the line breaks in this file.
FORBIDDEN: Final[dict[tuple[str, str], set[str]]] = {
    ("records/zone.py", "from headwater.writer import ledger"): {LAYERS, OBJECTS},
    ("records/zone.py", "import headwater.answer.find"): {LAYERS},
    ("process/log.py", "from headwater.store import node"): {LAYERS},
    ("settings/address.py", "from headwater.process import log"): {LAYERS},
    ("admin/collector.py", "import headwater.serve.queries"): {LAYERS},
    ("explain/walk.py", "import headwater.serve.queries"): {LAYERS},
    ("answer/find.py", "import headwater.explain.held"): {LAYERS, READING},
    ("advice/rules.py", "import headwater.explain.held"): {LAYERS},
    ("serve/process.py", "import headwater.advice.rules"): {READING},
    ("serve/process.py", "import headwater.explain.held"): {READING},
    ("serve/process.py", "import headwater.compare.session"): {LAYERS},
    ("compare/messages.py", "import headwater.supervise.claims"): {LAYERS},
    ("compare/asking.py", "import grpc"): {GRPC},
    ("new.py", "# A module at the root, which has no place among the layers."): {LAYERS},
    ("cellar/__init__.py", "# A room without a place."): {LAYERS},
    ("answer/find.py", "from headwater.cluster import follower"): {READING},
    ("answer/counts.py", "from headwater.cluster.objects import Service"): {READING},
    ("serve/queries.py", "import headwater.cluster.objects"): {READING},
    ("records/zone.py", "import headwater.cluster.reflector"): {OBJECTS},
    ("wire/names.py", "import headwater.process.log"): {LAYERS, NOBODY},
    ("store/node.py", "from headwater.settings import error"): {NOBODY},
    ("cluster/reflector.py", "import kubernetes.client"): {KUBERNETES},
    ("serve/queries.py", "import grpc"): {GRPC},
    ("answer/resolver.py", "import lmdb"): {LMDB},
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run import-linter on a copy of the package, unchanged and after each change of FORBIDDEN."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "headwater", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "headwater" / "cellar").mkdir()
    done = fresh(LINT, json.dumps([(f"headwater/{file}", f"\n{line}\n") for file, line in FORBIDDEN]), cwd=folder)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_imports_keep_to_the_layers(verdicts: list[dict[str, Any]]) -> None:
    assert verdicts[0]["broken"] == [], verdicts[0]["output"]
    assert verdicts[0]["checked"] == [contract["name"] for contract in importlinter()["contracts"]]


@pytest.mark.parametrize(("file", "line"), FORBIDDEN, ids=lambda text: text.partition(" #")[0])
def test_what_is_forbidden_is_noticed(file: str, line: str, verdicts: list[dict[str, Any]]) -> None:
    verdict = verdicts[1 + list(FORBIDDEN).index((file, line))]
    assert FORBIDDEN[file, line] <= set(verdict["broken"]), verdict["output"]


def test_every_contract_was_seen_broken() -> None:
    assert set().union(*FORBIDDEN.values()) == {contract["name"] for contract in importlinter()["contracts"]}


# The table of rooms in docs/architecture.md


def may_know() -> dict[str, set[str]]:
    """Return for each room the rooms, or single modules of one, that
    the contracts let it import.
    """
    (layers,) = contracts("layers")
    floors = [[room.strip() for room in floor.split("|")] for floor in layers["layers"]]
    found: dict[str, set[str]] = {}
    for number, floor in enumerate(floors):
        for room in floor:
            found[room] = {below for lower in floors[number + 1 :] for below in lower}
    for contract in contracts("forbidden"):
        for source in contract["source_modules"]:
            room = source.removeprefix("headwater.")
            for module in contract["forbidden_modules"]:
                name = module.removeprefix("headwater.")
                if room not in found or name == module:
                    continue
                other, _, part = name.partition(".")
                if part and other in found[room]:
                    found[room].remove(other)
                    found[room] |= {f"{other}.{file.stem}" for file in (PACKAGE / other).glob("[a-z]*.py")}
                found[room].discard(name)
    return found


def table_of_rooms() -> dict[str, set[str]]:
    """Return the words in backticks in the third column of
    docs/architecture.md's table, by room.
    """
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page.partition("| room |")[2].partition("\n\n")[0], re.M)
    return {room: set(re.findall(r"`([\w.]+)`", knows)) for room, knows in rows}


def test_the_table_of_rooms_says_what_the_contracts_say() -> None:
    """If a room may import only some modules of another, a new module there
    is forbidden or in the table.
    """
    assert table_of_rooms() == may_know()


def test_every_room_has_its_row() -> None:
    assert list(table_of_rooms()) == [
        room.strip() for floor in contracts("layers")[0]["layers"] for room in floor.split("|")
    ]


# The packages that a process loads

#: module: packages that its process must not load.
COSTS = {
    "headwater.commands.cli": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec"),
    # `--help` of a command loads its module.
    "headwater.commands.query": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib", "asyncio"),
    "headwater.commands.check": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "yaml", "ssl"),
    "headwater.commands.corefile": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "asyncio"),
    "headwater.commands.explain": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib", "asyncio"),
    "headwater.commands.kubectl": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib", "asyncio"),
    "headwater.commands.compare": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib", "asyncio"),
    "headwater.compare.session": ("kubernetes", "grpc", "dns", "dnslib", "prometheus_client"),
    "headwater.commands.config": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "asyncio"),
    "headwater.commands.demo": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib"),
    "headwater.supervise.supervisor": ("kubernetes", "grpc", "lmdb"),
    "headwater.commands.serve": ("kubernetes", "grpc", "lmdb", "asyncio"),  # the forkserver is started first
    "headwater.admin.server": ("kubernetes",),
    "headwater.writer.process": ("kubernetes", "psutil", "yaml", "http.client", "importlib.metadata"),
    # A pod's own service account needs no more of `kubernetes` than this; a kubeconfig does.
    "headwater.cluster.api": ("pydantic", "requests", "oauthlib", "dateutil", "kubernetes.config.kube_config", "yaml"),
    "headwater.serve.process": (
        "kubernetes",
        "grpc",
        "google.protobuf",
        "starlette",
        "uvicorn",
        "watchfiles",
        "dnslib",
        "headwater.explain",
        "headwater.cluster",
    ),
    # It gives answer processes a function that imports `explain` at the first question.
    "headwater.supervise.entry": ("kubernetes", "grpc", "lmdb", "headwater.explain", "headwater.cluster"),
    "headwater.serve.server": ("kubernetes", "grpc", "google.protobuf"),
    "headwater.serve.http2": ("kubernetes", "grpc", "google.protobuf", "asyncio", "ssl", "socket"),
    "headwater.serve.grpcio_server": ("kubernetes", "starlette", "uvicorn"),
    "headwater.serve.dns_listener": ("kubernetes", "starlette", "uvicorn"),
    "headwater.serve.queries": ("kubernetes", "grpc"),
    "headwater.answer.resolver": ("kubernetes", "grpc", "asyncio"),
    "headwater.records.compiler": ("kubernetes", "grpc", "lmdb"),
    "headwater.store.environment": ("kubernetes", "grpc"),
}


@pytest.mark.parametrize("module", COSTS)
def test_a_module_does_not_load_what_its_process_does_not_need(module: str) -> None:
    program = "import importlib, sys\nimportlib.import_module(sys.argv[1])\nprint(*sys.modules)"
    done = fresh(program, module)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded.intersection(COSTS[module])


#: What the children's main functions import (`supervise/entry.py`).
RUN_BY_CHILDREN: Final = ("headwater.serve.process", "headwater.writer.process", "lmdb", "asyncio", "msgspec")
#: What a child would then carry for nothing.
NOT_FOR_ALL: Final = ("kubernetes", "grpc", "starlette", "uvicorn", "prometheus_client", "headwater.explain")


def test_the_forkserver_has_loaded_what_its_children_run() -> None:
    """Otherwise each child imports all of it anew: 20 MiB and 0.3 CPU-s for each."""
    done = fresh("import gc, sys, headwater.supervise.preload\nprint(gc.get_freeze_count(), *sys.modules)")
    assert done.returncode == 0, done.stderr
    frozen, *loaded = done.stdout.split()
    assert int(frozen) > 10_000
    assert set(RUN_BY_CHILDREN) - set(loaded) == set()
    assert set(NOT_FOR_ALL) & set(loaded) == set()


#: What `serve` has loaded when it starts the forkserver.
BEFORE_THE_FORK: Final = """
import sys
from headwater.commands import serve
from headwater.settings.settings import Settings
from headwater.supervise import forks

def begin(*, forked):
    print(forked, *sys.modules)
    raise SystemExit

forks.begin = begin
serve.serve(Settings())
"""


def test_the_first_forkserver_is_forked_with_what_its_children_run() -> None:
    """What it imported itself would be written beside what it shares: 3 MiB."""
    done = fresh(BEFORE_THE_FORK)
    assert done.returncode == 0, done.stderr
    forked, *loaded = done.stdout.split()
    assert forked == "True"
    assert set(RUN_BY_CHILDREN) - set(loaded) == set()
    assert set(NOT_FOR_ALL) & set(loaded) == set()


#: Starts each role after the modules of all have been loaded, and prints what it loads beside them.
AT_A_START: Final = """
import sys
from headwater.supervise import entry, roles
from headwater.serve.assignment import Assignment
from headwater.settings.settings import Settings
from headwater.store.identity import Identity

def run(*_):
    pass

before = set(sys.modules)
settings, identity = Settings(), Identity("here", "shape")
sys.modules["headwater.serve.process"].run = sys.modules["headwater.writer.process"].run = run
entry.watch(settings, identity, None)
entry.answer(Assignment(0, settings, identity, None, None), None)
print(*set(sys.modules) - before)
"""


def test_no_child_loads_at_its_start_what_could_be_shared() -> None:
    """In each it would be a copy of its own, at each start."""
    done = fresh(AT_A_START)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


#: Serves /metrics once as the supervisor does, and prints what is loaded then. What a library loads
#: only when it is used counts too.
SCRAPED_ONCE: Final = """
import asyncio, socket, sys
from types import SimpleNamespace
from headwater.supervise import supervisor
from headwater.admin.recent import Recent
from headwater.admin import server
from headwater.settings.settings import Settings

async def refresh():
    pass

async def main():
    instance = SimpleNamespace(settings=Settings(), recent=Recent(), views=lambda: [], refresh=refresh)
    for name in ("explain", "complete", "history", "advise"):
        setattr(instance, name, None)
    bound = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(bound, instance))
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    for path in ("/healthz", "/metrics"):
        last = "close" if path == "/metrics" else "keep-alive"
        head = f"GET {path} HTTP/1.1\\r\\nHost: h\\r\\nAccept: %s\\r\\nConnection: {last}\\r\\n\\r\\n"
        writer.write((head % sys.argv[1]).encode())
    replies = await reader.read()
    assert replies.count(b" 200 OK") == 2 and b"headwater_build_info" in replies, replies
    writer.close()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

asyncio.run(main())
print(*sys.modules)
"""
#: What uvicorn, starlette and prometheus_client would load with it, and what few ask for.
NOT_FOR_A_SCRAPE: Final = (
    "uvicorn.main",
    "uvicorn.supervisors",
    "watchfiles",
    "http.server",
    "urllib.request",
    "wsgiref",
    "prometheus_client.exposition",
    "prometheus_client.metrics",
    "starlette.applications",
    "starlette.staticfiles",
    "html.entities",
    "headwater.explain",
    "jinja2",
    "markupsafe",
    "kubernetes",
    "grpc",
    "dnslib",
    "rich",
    "psutil",
    "importlib.metadata",
)


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "text/plain"])
def test_the_admin_port_loads_no_more_than_a_scrape_needs(accept: str) -> None:
    """A module too many is memory in every instance: these here are 4 MiB."""
    done = fresh(SCRAPED_ONCE, accept)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"uvicorn.server", "starlette.routing"} <= loaded
    # Who asks for the older text gets the module that makes it, with what that loads.
    plain = {"prometheus_client.exposition", "html.entities", "http.server", "urllib.request", "wsgiref"}
    assert loaded.intersection(NOT_FOR_A_SCRAPE) == (plain if accept == "text/plain" else set())


#: A package that is put in place, asked for modules, then for names of its `__init__`.
WHOLE_AFTER_ALL: Final = """
import sys
from headwater.process import bare
bare.put_in_place("uvicorn", "uvicorn.supervisors")
from uvicorn import config, server
assert "uvicorn.main" not in sys.modules
import uvicorn
for name in ("nothing_of_this_name", "__wrapped__"):
    assert not hasattr(uvicorn.supervisors, name)
assert uvicorn.supervisors.__name__ == "uvicorn.supervisors"
from uvicorn import __version__, run
assert __version__ and run.__module__ == "uvicorn.main" and uvicorn.Config is config.Config
bare.put_in_place("kubernetes")
import kubernetes
assert kubernetes.watch.Watch and not hasattr(kubernetes, "nothing_of_this_name")
bare.put_in_place("uvicorn")
assert uvicorn.run is run and sys.modules["uvicorn"] is uvicorn
try:
    bare.put_in_place("no_such_package")
except ModuleNotFoundError as error:
    print(error.name)
"""


def test_a_package_that_is_put_in_place_is_whole_for_who_asks_for_more() -> None:
    done = fresh(WHOLE_AFTER_ALL)
    assert done.stdout.strip() == "no_such_package", done.stderr


def test_the_api_client_is_what_loads_kubernetes() -> None:
    done = fresh("import sys, headwater.cluster.api\nprint('kubernetes' in sys.modules)")
    assert done.stdout.strip() == "True", done.stderr
