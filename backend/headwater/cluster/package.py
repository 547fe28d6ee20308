"""The parts of the `kubernetes` package that are needed, without all that it would load with them.

`import kubernetes` loads dynamic clients, informers, leader election, OAuth and pydantic: 0.2 CPU-s
and 20 MiB, at the moment when a new pod should begin its list. Its modules for settings and TLS
need none of that. So the packages on the way to them are put in place without running their
`__init__`; what is imported from them later, such as `kubernetes.config.kube_config`, is found as
ever.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

#: Packages whose `__init__` loads what is not needed here.
_BARE: Final = ("kubernetes", "kubernetes.config", "kubernetes.utils")


def _put_in_place() -> None:
    for name in _BARE:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


_put_in_place()

from kubernetes.client.configuration import Configuration  # noqa: E402
from kubernetes.client.exceptions import ApiException  # noqa: E402
from kubernetes.client.rest import RESTClientObject  # noqa: E402
from kubernetes.config.config_exception import ConfigException  # noqa: E402
from kubernetes.config.incluster_config import load_incluster_config  # noqa: E402

__all__ = ["ApiException", "ConfigException", "Configuration", "RESTClientObject", "load_incluster_config"]
