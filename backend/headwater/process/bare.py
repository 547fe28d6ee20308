"""Packages whose modules are needed, without what their `__init__` loads beside them.

`import uvicorn` loads its command line, its reloaders and a watcher of files; `import kubernetes`
loads informers, OAuth and pydantic. Who needs two modules of such a package puts the package in
place first, without running its `__init__`, and then imports the modules by their names.

The package stays whole for others: `from uvicorn import run` runs its `__init__` then, in the
thread that asks; no other thread may ask at that moment.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def put_in_place(*names: str) -> None:
    """Put packages in place, a package before those within it. Raises ModuleNotFoundError.

    One that is loaded already stays as it is.
    """
    for name in names:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        _run_when_needed(module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def give(package: str, *members: type) -> None:
    """Let a package have these classes as by its `__init__`: its modules ask it for them."""
    for member in members:
        setattr(sys.modules[package], member.__name__, member)


def _run_when_needed(module: ModuleType) -> None:
    """Import its modules when somebody asks it for them, and run its `__init__` for all else
    (PEP 562).
    """
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    run = spec.loader.exec_module

    def missing(attribute: str) -> Any:
        if module.__dict__.get("__getattr__") is missing:
            if importlib.util.find_spec(f"{module.__name__}.{attribute}") is not None:
                return importlib.import_module(f"{module.__name__}.{attribute}")
            if not attribute.startswith("__") or attribute == "__version__":
                del module.__dict__["__getattr__"]
                run(module)
                return getattr(module, attribute)
        raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")

    module.__dict__["__getattr__"] = missing
