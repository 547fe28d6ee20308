"""Imports go one way, and no process pays for a package that it does not need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: import-linter's own command, on a configuration given, without its cache.
LINT = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True, no_logo=True))
"""


def fresh(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def lint(config: Path) -> tuple[int, int, int, str]:
    """Exit code, contracts kept, contracts broken, output."""
    done = fresh(LINT, str(config))
    counts = re.search(r"(\d+) kept, (\d+) broken", done.stdout)
    assert counts is not None, done.stdout + done.stderr
    return done.returncode, int(counts[1]), int(counts[2]), done.stdout


def test_imports_keep_to_the_layers() -> None:
    code, kept, broken, output = lint(ROOT / "pyproject.toml")
    assert (code, broken) == (0, 0), output
    assert kept >= 6, "a contract of the design is missing"


def test_a_crossed_layer_is_noticed(tmp_path: Path) -> None:
    """A contract that is known to be broken: the linter sees this package's imports."""
    config = tmp_path / ".importlinter"
    config.write_text(
        "[importlinter]\nroot_package = headwater\n\n[importlinter:contract:1]\nname = broken on purpose\n"
        "type = forbidden\nsource_modules = headwater.answer\nforbidden_modules = headwater.store\n"
    )
    code, kept, broken, output = lint(config)
    assert code != 0
    assert (kept, broken) == (0, 1), output


#: module: packages that its process must not load.
COSTS = {
    "headwater.commands.cli": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec"),
    # `--help` of a command loads its module.
    "headwater.commands.query": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib", "asyncio"),
    "headwater.commands.check": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "yaml", "ssl"),
    "headwater.commands.corefile": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "asyncio"),
    "headwater.commands.config": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "asyncio"),
    "headwater.commands.demo": ("kubernetes", "grpc", "lmdb", "uvicorn", "msgspec", "dnslib"),
    "headwater.supervise.supervisor": ("kubernetes", "grpc", "lmdb"),
    "headwater.commands.serve": ("kubernetes", "grpc", "lmdb", "asyncio"),  # the forkserver is started first
    "headwater.admin.server": ("kubernetes",),
    "headwater.writer.process": ("kubernetes",),
    "headwater.serve.process": (
        "kubernetes",
        "grpc",
        "google.protobuf",
        "starlette",
        "uvicorn",
        "watchfiles",
        "dnslib",
    ),
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


def test_the_api_client_is_what_loads_kubernetes() -> None:
    done = fresh("import sys, headwater.cluster.api\nprint('kubernetes' in sys.modules)")
    assert done.stdout.strip() == "True", done.stderr
