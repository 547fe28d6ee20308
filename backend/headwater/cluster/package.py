"""The parts of the `kubernetes` package that are needed, without all that it would load with them.

`import kubernetes` loads dynamic clients, informers, leader election, OAuth and pydantic: 0.2 CPU-s
and 20 MiB, at the moment when a new pod should begin its list. Its modules for settings and TLS
need none of that. What is imported from them later, such as `kubernetes.config.kube_config`, is
found as ever.
"""

from __future__ import annotations

from headwater.process import bare

bare.put_in_place("kubernetes", "kubernetes.config", "kubernetes.utils")

from kubernetes.client.configuration import Configuration  # noqa: E402
from kubernetes.client.exceptions import ApiException  # noqa: E402
from kubernetes.client.rest import RESTClientObject  # noqa: E402
from kubernetes.config.config_exception import ConfigException  # noqa: E402
from kubernetes.config.incluster_config import load_incluster_config  # noqa: E402

__all__ = ["ApiException", "ConfigException", "Configuration", "RESTClientObject", "load_incluster_config"]
